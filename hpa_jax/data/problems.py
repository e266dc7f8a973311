"""Everything that is wrong with the input, gathered first and reported at once.

In: one line a problem (file, row or id, what is wrong), and notes on images that were read.
Out: `bad_images.csv`, one InputError in which problems that differ in numbers alone are one line,
and at most one warning for each kind of note.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpa_jax.core.artifacts import atomic
from hpa_jax.core.errors import InputError

SHOWN = 10
_NUMBER = re.compile(r"\d[\d.,]*")
NAMED = 3  # examples of what is counted
LEAVE_OUT = 'mend them, or leave them out with data.on_bad_image="skip"'  # a remedy


@dataclass(frozen=True)
class Problem:
    """One problem. place: the file (and row); id: the image, "" for a whole table."""

    place: str
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}{f' (id {self.id})' if self.id else ''}: {self.what}"


@dataclass
class Problems:
    """The problems and notes of one run over the sources."""

    found: list[Problem] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def add(self, place: object, id: str, what: str) -> None:
        """Notes one problem. Names that are not UTF-8 are shown with escapes."""
        self.found.append(Problem(shown(place), shown(id), what))

    def note(self, what: str, name: str) -> None:
        """Notes what was decided about an image (or file), by its name; nothing needs doing."""
        self.notes.setdefault(what, []).append(shown(name))

    def decided(self, what: str, name: str) -> None:
        """What was decided in reading an image: a warning where it was ambiguous, else a note."""
        (self.warn if what.startswith("ambiguous") else self.note)(what, name)

    def warn(self, what: str, name: str) -> None:
        """Notes what looks odd about an image (or file) and may make its answer wrong."""
        self.warnings.setdefault(what, []).append(shown(name))

    def tell(self) -> None:
        """Says them: one line a kind, with the number of images and three names."""
        for kind, told in (("note: ", self.notes), ("", self.warnings)):
            for what, names in told.items():
                warnings.warn(f"{kind}{what}: {len(names):,} ({examples(names)})", stacklevel=2)
            told.clear()

    def write(self, path: Path) -> None:
        """Writes the problems as CSV (id, place, problem); without any, removes an old file."""
        import pandas as pd

        if not self.found:
            path.unlink(missing_ok=True)
            return
        rows = [(problem.id, problem.place, problem.what) for problem in self.found]
        with atomic(path) as temporary:
            pd.DataFrame(rows, columns=["id", "place", "problem"]).to_csv(temporary, index=False)

    def error(self, remedy: str) -> InputError:
        """One error of all problems (the first ten kinds in words), with what to do."""
        kinds: dict[str, list[Problem]] = {}
        for problem in self.found:
            kinds.setdefault(_NUMBER.sub("0", problem.what), []).append(problem)
        lines = [_line(alike) for alike in list(kinds.values())[:SHOWN]]
        if len(self.found) == 1:
            return InputError(f"{lines[0]}; {remedy}")
        rest = len(self.found) - sum(len(alike) for alike in list(kinds.values())[:SHOWN])
        more = f"; and {rest} more" if rest else ""
        return InputError(f"{len(self.found)} problems: {'; '.join(lines)}{more}; {remedy}")


def _line(alike: Sequence[Problem]) -> str:
    """One line of problems that differ in nothing but numbers."""
    if len(alike) == 1:
        return str(alike[0])
    what, places = alike[0].what, examples([problem.place for problem in alike])
    numbers = ", with other numbers too" if len({problem.what for problem in alike}) > 1 else ""
    return f"{what}: {len(alike):,} times{numbers} ({places})"


def examples(names: Sequence[str]) -> str:
    """The first three of some names, and how many there are beside them."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def shown(name: object) -> str:
    """A file's name that can be printed and written: bytes that are not UTF-8 as escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
