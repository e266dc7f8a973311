"""The exception for bad input, as opposed to an error of the program.

The command line prints it as one line (file, row or key, and what to do) and exits with 2.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the file, row or key, and says what to do."""


def is_disk_full(text: object) -> bool:
    """Whether an error or a log line reports a full disk."""
    return any(words in str(text) for words in ("No space left", "Disk quota exceeded"))


def near(name: str, known: Iterable[str]) -> str:
    """A hint ", did you mean 'x' or 'y'?" for a name that is not in `known`; "" if none is near."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
