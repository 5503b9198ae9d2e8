"""`speechssl transcribe MODEL -`: the events of standard input, printed as they come."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError
from speechssl.text.formats import width, write
from speechssl.text.search import Search
from speechssl.text.transcript import Transcript
from speechssl.use.live import Event, stream

PIPE = Path("-")  # how standard input is named among files
EXAMPLE = "arecord -q -t raw -f S16_LE -r 16000 | speechssl transcribe MODEL -"


def transcribe_pipe(
    model: Any, *, rate: int | None = None, live: Sequence[float] = (), style: str = "txt", search: Search | None = None
) -> None:
    """Print what is said on standard input until it ends, or until Ctrl-C.

    txt: final words as they come, a line for each utterance, and on a terminal partial words, which are overwritten. json: a line
    for each event. Other formats are written when the stream has ended. live: context, look_ahead and step of
    speechssl.use.live.stream.
    """
    model.require_tokenizer()
    names = ("context", "look_ahead", "step")
    if live and len(live) != len(names):
        raise InputError(f"--live takes three numbers, the seconds of {', '.join(names)}: --live 5 1 0.5")
    options: dict[str, Any] = dict(zip(names, live, strict=False))
    events = stream(model, standard_input(), sample_rate=rate, search=search, **options)
    if style not in ("txt", "json"):
        final = [event for event in events if event.kind == "final"]
        words, text = [word for event in final for word in event.words], " ".join(lines(final))
        sys.stdout.write(write(Transcript(text=text, words=words, duration=final[-1].seconds), style, "stdin"))
        return
    show = as_json if style == "json" else Line(shutil.get_terminal_size().columns) if sys.stdout.isatty() else as_text
    for event in events:
        sys.stdout.write(show(event))
        sys.stdout.flush()


def standard_input() -> Iterator[bytes]:
    """The bytes of standard input as they come; they end at Ctrl-C, so that what was heard is still printed. A second one ends
    the program."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f"- reads audio from a pipe, and nothing is piped here; for a microphone: `{EXAMPLE}`")
    source, nothing = sys.stdin.fileno(), os.open(os.devnull, os.O_RDONLY)
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        os.dup2(nothing, source)  # a read that waits is repeated and finds the end
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        while chunk := os.read(source, 2**16):
            yield chunk
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(nothing)


def lines(events: Iterable[Event]) -> list[str]:
    """The text of each utterance."""
    return "".join(map(as_text, events)).splitlines()


def as_text(event: Event) -> str:
    """The words of a final event, and the end of the line after an utterance."""
    return f"{event.text}{chr(10) * event.pause}" if event.kind == "final" else ""


def as_json(event: Event) -> str:
    """An event as a line of JSON."""
    values = asdict(event)
    for word in values["words"]:
        del word["channel"]
    return json.dumps(values, ensure_ascii=False) + "\n"


class Line:
    """The same for a terminal: the line that is being written, behind whose final words partial ones are overwritten."""

    def __init__(self, columns: int) -> None:
        self.columns, self.column = columns, 0

    def __call__(self, event: Event) -> str:
        if event.kind == "partial":
            text = event.text
            while self.column + width(text) >= self.columns:
                text = text[:-1]
            return f"\x1b[K{text}" + (f"\x1b[{width(text)}D" if text else "")
        done = "\x1b[K"  # what was partial is erased
        for word in re.findall(r"\s*\S+", event.text):
            if self.column and self.column + width(word) >= self.columns:
                done, word, self.column = f"{done}\n", word.lstrip(), 0
            done, self.column = done + word, (self.column + width(word)) % self.columns
        if event.pause:
            done, self.column = f"{done}\n", 0
        return done
