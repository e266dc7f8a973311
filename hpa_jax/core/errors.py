"""The one exception that means "the input is wrong, not the program".

The command line prints it as one line (file, row or key, and what to do) and exits with 2.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the file, row or key, and says what to do."""


def tells_of_a_full_disk(text: object) -> bool:
    """Whether an error or a line of a log says so, in the system's words."""
    return any(words in str(text) for words in ("No space left", "Disk quota exceeded"))


def near(name: str, known: Iterable[str]) -> str:
    """A hint ", did you mean 'x' or 'y'?" for a name that is not in `known`; "" if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
