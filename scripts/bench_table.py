"""Rows of the project's table: printed by each bench, gathered by `scripts/bench all`."""

import json
from collections.abc import Iterable

MARK = '{"row": '


def row(
    what: str, ours: float, unit: str, alternative: str = "", theirs: float | None = None
) -> None:
    """Prints one figure as a line of JSON.

    Args:
        what: what was measured, on how much.
        ours, theirs: the program's figure and that of `alternative` in the same run, in `unit`;
          theirs None: there is none here (not installed, or none to compare with).
    """
    fields = dict(what=what, ours=ours, unit=unit, alternative=alternative, theirs=theirs)
    print(json.dumps({"row": fields}), flush=True)


def rows(lines: Iterable[str]) -> list[dict]:
    """The rows among the lines of a bench's output."""
    return [json.loads(line)["row"] for line in lines if line.startswith(MARK)]


def markdown(part: str, fields: dict) -> str:
    """One line of the table: part, what, ours, the alternative's, ours over theirs."""
    ours, theirs, unit = fields["ours"], fields["theirs"], fields["unit"]
    cells = [part, fields["what"], f"{_number(ours)} {unit}"]
    if theirs is None:
        cells += ["–", "–"]
    else:
        cells += [f"{fields['alternative']}: {_number(theirs)} {unit}", f"{ours / theirs:.3g}"]
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
