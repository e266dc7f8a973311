"""Everything that is wrong with the input, gathered first and reported at once.

In: one line a finding (file, row or id, what is wrong).  Out: `bad_images.csv`, and one InputError
that shows the first findings and counts the rest.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hpa_jax.core.artifacts import atomic
from hpa_jax.core.errors import InputError

SHOWN = 10
LEAVE_OUT = 'mend them, or leave them out with data.on_bad_image="skip"'  # a remedy


@dataclass(frozen=True)
class Problem:
    """One finding. place: the file (and row); id: the image, "" for a whole table."""

    place: str
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}{f' (id {self.id})' if self.id else ''}: {self.what}"


@dataclass
class Problems:
    """The findings of one run over the sources."""

    found: list[Problem] = field(default_factory=list)

    def add(self, place: object, id: str, what: str) -> None:
        """Notes one finding."""
        self.found.append(Problem(str(place), id, what))

    def write(self, path: Path) -> None:
        """Writes the findings as CSV (id, place, problem); without any, removes an old file."""
        import pandas as pd

        if not self.found:
            path.unlink(missing_ok=True)
            return
        rows = [(problem.id, problem.place, problem.what) for problem in self.found]
        with atomic(path) as temporary:
            pd.DataFrame(rows, columns=["id", "place", "problem"]).to_csv(temporary, index=False)

    def error(self, remedy: str) -> InputError:
        """One error of all findings (the first ten in words), with what to do."""
        lines = [str(problem) for problem in self.found[:SHOWN]]
        rest = len(self.found) - len(lines)
        if len(self.found) == 1:
            return InputError(f"{lines[0]}; {remedy}")
        more = f"; and {rest} more" if rest else ""
        return InputError(f"{len(self.found)} problems: {'; '.join(lines)}{more}; {remedy}")
