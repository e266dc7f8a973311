"""The reference of the options in words: lines of `--help`, and docs/options.md.

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
    """(path, option) of every option; those of models once, as models.NAME and its phases[K]."""
    for name, stated in statement.items():
        path = f"{where}.{name}" if where else name
        if not isinstance(stated, Option):
            yield from entries(stated, path)
            continue
        yield path, stated
        if stated.each is MODEL:
            yield from entries(MODEL, f"{path}.NAME")
        elif stated.each is PHASE:
            yield from entries(PHASE, f"{path}[K]")


def described(prefixes: Sequence[str] = ("",)) -> list[str]:
    """A line for each option at or below a path: "--config.split.fraction=0.2  help (range)"."""
    lines = []
    for path, stated in entries():
        if any(not prefix or f"{path}.".startswith(f"{prefix}.") for prefix in prefixes):
            possible = stated.possible()
            start = f"--config.{path}={shown(stated)}"
            lines.append(f"{start:<38}  {stated.help}" + (f" ({possible})" if possible else ""))
    return lines


def shown(stated: Option) -> str:
    """The default as it is written on a command line; long ones shortened."""
    value = stated.value()
    if isinstance(value, FieldReference):
        value = value.get()
    if stated.form or stated.each:
        return "..."
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 72 else f"{text[:69]}..."


def table() -> str:
    """The text of docs/options.md: a section a part of the config, a row an option."""
    sections: dict[str, list[str]] = {}
    for path, stated in entries():
        section, _, name = path.partition(".")
        possible = stated.possible() or options.kinds_in_words(stated.kinds)
        cells = (f"`{name or section}`", f"`{shown(stated)}`", possible, stated.help)
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
