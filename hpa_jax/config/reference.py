"""The reference of the options: lines of `--help`, and docs/options.md.

python -m hpa_jax.config.reference docs/options.md
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import FieldReference

from hpa_jax.config import options, renamed
from hpa_jax.config.defaults import MODEL, OPTIONS, PHASE
from hpa_jax.config.options import Option, Statement

HEAD = """# Options

Written by `python -m hpa_jax.config.reference docs/options.md` from
[hpa_jax/config/defaults.py](../hpa_jax/config/defaults.py), where each option is stated once.
Set any of them in a recipe or on the command line:
`--config.split.fraction=0.1`. A model of the recipe is `models.NAME`, its phases are `phases[K]`;
`retrieval.model` and `adversarial.model` have the same options.
None in `stack`: the protocol decides.
"""


def entries(statement: Statement = OPTIONS, where: str = "") -> Iterator[tuple[str, Option]]:
    """Yield (path, option) of every option; those of models as models.NAME and its phases[K]."""
    for name, option in statement.items():
        path = f"{where}.{name}" if where else name
        if not isinstance(option, Option):
            yield from entries(option, path)
            continue
        yield path, option
        if option.each is MODEL:
            yield from entries(MODEL, f"{path}.NAME")
        elif option.each is PHASE:
            yield from entries(PHASE, f"{path}[K]")


def described(prefixes: Sequence[str] = ("",)) -> list[str]:
    """Return a line per option at or below paths: "--config.split.fraction=0.2  help (range)"."""
    lines = []
    for path, option in entries():
        if any(not prefix or f"{path}.".startswith(f"{prefix}.") for prefix in prefixes):
            possible = option.possible()
            start = f"--config.{path}={shown(option)}"
            lines.append(f"{start:<38}  {option.help}" + (f" ({possible})" if possible else ""))
    return lines


def shown(option: Option) -> str:
    """Return the default as written on a command line, shortened if long."""
    value = option.value()
    if isinstance(value, FieldReference):
        value = value.get()
    if option.form or option.each:
        return "..."
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 72 else f"{text[:69]}..."


def table() -> str:
    """Return the text of docs/options.md: a section per part of the config, a row per option."""
    sections: dict[str, list[str]] = {}
    for path, option in entries():
        section, _, name = path.partition(".")
        possible = option.possible() or options.kinds_in_words(option.kinds)
        cells = (f"`{name or section}`", f"`{shown(option)}`", possible, option.help)
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
        **renamed.RENAMED,
        **{
            f"{path}={old}": f"{path}={new}"
            for path, table in renamed.RENAMED_VALUES.items()
            for old, new in table.items()
        },
    }
    parts += [f"| `{old}` | `{new}` |" for old, new in former.items()]
    return "\n".join(parts).replace("``", "` `") + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/options.md").write_text(table(), "utf-8")
