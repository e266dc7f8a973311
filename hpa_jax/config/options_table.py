"""docs/options.md from the statement of the options.

python -m hpa_jax.config.options_table docs/options.md
"""

import sys
from pathlib import Path

from hpa_jax.config import defaults, options

HEAD = """# Options

Written by `python -m hpa_jax.config.options_table docs/options.md` from
[hpa_jax/config/defaults.py](../hpa_jax/config/defaults.py), where each option is stated once.
Set any of them in a recipe or on the command line:
`--config.split.fraction=0.1`. A model of the recipe is `models.NAME`, its phases are `phases[K]`;
`retrieval.model` and `adversarial.model` have the same options.
None in `stack`: the protocol decides.
"""


def table() -> str:
    """The text of docs/options.md: a section a part of the config, a row an option."""
    sections: dict[str, list[str]] = {}
    for path, stated in defaults.entries():
        section, _, name = path.partition(".")
        possible = stated.possible() or options.kinds_in_words(stated.kinds)
        cells = (f"`{name or section}`", f"`{defaults.shown(stated)}`", possible, stated.help)
        row = " | ".join(cell.replace(" | ", ", ").replace("|", "\\|") for cell in cells)
        sections.setdefault(section if name else "whole", []).append(f"| {row} |")
    parts = [HEAD]
    for section, rows in sections.items():
        parts += [
            f"\n## {section}\n",
            "| option | default | can be | what it is |\n|---|---|---|---|",
        ]
        parts += rows
    parts += ["\n## Renamed\n", "| before | now |\n|---|---|"]
    former = {
        **defaults.RENAMED,
        **{
            f"{path}={old}": f"{path}={new}"
            for path, table in defaults.RENAMED_VALUES.items()
            for old, new in table.items()
        },
    }
    parts += [f"| `{old}` | `{new}` |" for old, new in former.items()]
    return "\n".join(parts).replace("``", "` `") + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/options.md").write_text(table(), "utf-8")
