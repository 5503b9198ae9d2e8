"""Progress of long work: a bar on a terminal, one plain line a minute in a log file."""

import contextlib
import io
import sys
from time import monotonic
from typing import TextIO

from tqdm import tqdm

from speechssl.core import dist

LINE_EVERY = 60.0  # seconds between two lines where stderr is not a terminal
LINE = "{desc}: {percentage:.0f} % | {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Sink(io.TextIOBase):
    """A file that drops what is written: tqdm still counts and formats, but draws nothing."""

    def write(self, s: str) -> int:
        return len(s)


class Progress:
    """Counts work up to `total` on stderr, as a context manager or until `close`. Only rank 0 shows it, and only if `show`.

    initial: what was done before, by a run that is resumed. unit_scale: print large numbers as 1.2k. leave: False removes the bar
    at the end, and prints no last line into a log file.
    """

    def __init__(
        self,
        total: float,
        unit: str,
        desc: str = "",
        *,
        initial: float = 0,
        unit_scale: bool = False,
        leave: bool = True,
        show: bool = True,
    ) -> None:
        stderr = sys.stderr
        terminal = False
        if stderr is None or stderr.closed:
            show = False
        else:
            terminal = stderr.isatty()
        self.shown = show and dist.rank() == 0
        self.plain = self.shown and not terminal
        self.leave = leave
        self.last_line, self.printed = monotonic(), -1.0
        self.bar = tqdm(
            total=total,
            unit=unit,
            desc=desc or None,
            initial=initial,
            unit_scale=unit_scale,
            leave=leave,
            disable=not self.shown,
            file=Sink() if self.plain else stderr,
            bar_format=LINE if self.plain else None,
            dynamic_ncols=not self.plain,
            smoothing=0.05,
        )

    def update(self, n: float = 1) -> None:
        """Count `n` more units."""
        self.bar.update(n)
        if self.plain and monotonic() - self.last_line >= LINE_EVERY:
            self.print_line()

    def postfix(self, text: str) -> None:
        """Show `text`, such as the newest metrics, behind the numbers from the next redraw or line on."""
        self.bar.set_postfix_str(text, refresh=False)

    def print_line(self) -> None:
        """Print the state as one line. A log that cannot be written must not end the work."""
        self.last_line, self.printed = monotonic(), self.bar.n
        with contextlib.suppress(OSError, ValueError):
            print(self.bar, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the bar, or print the last line."""
        if self.plain and self.leave and not self.bar.disable and self.printed != self.bar.n:
            self.print_line()
        self.bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def write(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print `text` to `file` (default: stderr), above any bar on the terminal. Every rank that calls it prints."""
    file = file or sys.stderr
    tqdm.write(text, file=file, end=end)
    if file is not None:
        file.flush()
