"""Progress of long work: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time

LOG_SECONDS = 15.0


class Progress:
    """Counts items: "predict: 1,200 of 74,606 images, 41.3 images/s, 1,777 s left".

    done: items finished before this call, not counted in the rate.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", disable=None)
        self._title, self._unit, self._total, self._done = title, unit, total, done
        self._start, self._first, self._logged = time.monotonic(), done, time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._logged > LOG_SECONDS and self._done > self._first:
            self._logged = now
            rate = (self._done - self._first) / (now - self._start)
            left = (self._total - self._done) / rate
            print(
                f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, "
                f"{rate:.1f} {self._unit}/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
