"""Transcribe audio while it comes: the last seconds are encoded again and again, and what has enough look-ahead is final.

The networks are not causal. So every `step` seconds a window is encoded: `context` seconds that are already final, the frames
that are not, and all that was heard since. Frames with `look_ahead` seconds behind them are final: they are never computed
again. A word is final when what ends it is: the word delimiter, in scripts without spaces the next letter, or a second without
a letter. So it comes `look_ahead` to `look_ahead + step` seconds after the network hears that it has ended. Networks that
normalise each utterance normalise each window: level and statistics are those of its last `context + look_ahead + step` seconds.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechssl.core.errors import InputError
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.sound.pipe import live
from speechssl.sound.windows import Ahead, whole_frames
from speechssl.text.decode import Run, collapse, greedy, spans, words_of
from speechssl.text.decoders import cuts_of, transcript_of
from speechssl.text.search import Search
from speechssl.text.transcript import PAUSE, Word


@dataclass(frozen=True, kw_only=True)
class Event:
    """What was understood of the first `seconds` of a stream.

    kind: "final" for words that follow those of the final events before it and never change; "partial" for those after them as
    far as they can be guessed, which the next event replaces. text: of these words, behind the separator from what precedes them
    in the utterance, so that the texts of final events only have to be joined. pause: whether the utterance ends here, before a
    second of silence or at the end of the stream, whose last event is a final one.
    """

    kind: Literal["partial", "final"]
    words: list[Word]
    text: str
    seconds: float
    pause: bool = False


def stream(
    model: Any,
    chunks: Iterable[Any],
    *,
    sample_rate: int | None = None,
    context: float = 5.0,
    look_ahead: float = 1.0,
    step: float = 0.5,
    search: Search | None = None,
) -> Iterator[Event]:
    """Yield the events of a stream as they become known; the end of the chunks makes everything final.

    chunks: as in speechssl.sound.pipe.live. sample_rate: of chunks without a header (None: that of the network). context,
    look_ahead, step: seconds, as above; each step costs the encoding of a window. search: a beam search, for which an
    utterance becomes final as a whole, when a pause ends it. Events depend on the audio alone, not on how it is cut into chunks.
    InputError for a stream of less than a frame.
    """
    for name, value in (("context", context), ("look_ahead", look_ahead), ("step", step)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name} = {value} must be seconds, 0 or more")
    ear = Ear(model, search)
    pieces = live(chunks, sample_rate, model.config.sampling_rate)
    for heard in encoded(model, pieces, context, look_ahead, step):
        yield from ear.events(heard)


class Heard(NamedTuple):
    """The log-posteriors of a window that were not final before it. settled: how many of them are now. seconds: of the stream
    until here. last: whether it ends here."""

    log_probs_TV: Tensor
    settled: int
    seconds: float
    last: bool


def encoded(
    model: Any, pieces: Iterable[np.ndarray], context: float, look_ahead: float, step: float
) -> Iterator[Heard]:
    """Encode a stream of mono pieces at 16 kHz window by window; memory holds one window."""
    letters = model.config.letters
    quiet_S = np.zeros(round(model.silence * SAMPLE_RATE), np.float32)
    size, margin, future = (whole_frames(seconds, letters.hop) for seconds in (step, context, look_ahead))
    clip, done, log_probs_TV = Ahead(chain([quiet_S], pieces, [quiet_S])), 0, None  # done: frames that are final
    for stop in count(size, size):
        first = max(0, done * letters.hop - margin)
        wave_S = clip.read(first, stop)
        last = first + len(wave_S) < stop
        if len(wave_S) >= letters.receptive_field:
            log_probs_TV = model.log_probs([wave_S])[0][done - first // letters.hop :]
            settled = (
                len(log_probs_TV) if last else min(len(log_probs_TV), max(0, (stop - future) // letters.hop - done))
            )
            seconds = first + len(wave_S) - (1 + last) * len(quiet_S)
            yield Heard(log_probs_TV, settled, max(0, seconds) / SAMPLE_RATE, last)
            done += settled
        if last and log_probs_TV is None:
            raise InputError("the stream is shorter than one frame (25 ms); there is nothing to transcribe")
        if last:
            return


class Ear:
    """Turns final frames into words, each once; it holds the frames of what is not yet said to the end."""

    def __init__(self, model: Any, search: Search | None) -> None:
        self.tokenizer, self.geometry, self.silence = model.tokenizer, model.config.letters, model.silence
        self.search, self.pause = search, round(PAUSE * SAMPLE_RATE / self.geometry.hop)
        self.open_TV, self.begin = torch.zeros(0), 0  # final frames that await more, and the number of their first
        self.spoken = 0  # the frame behind the last letter before these, or the middle of the pause after it
        self.speaking = self.apart = False  # since the last pause; whether a separator comes before the next word
        self.guess: list[Word] = []  # of the last event

    def events(self, heard: Heard) -> Iterator[Event]:
        """The events of a window: final words if there are any, then the guess if it is another than before."""
        self.open_TV = torch.cat([self.open_TV, heard.log_probs_TV[: heard.settled]])
        stop, quiet = self.closed()
        while stop and (quiet or not heard.last):
            yield from self.told(stop, quiet, heard.seconds)
            stop, quiet = self.closed()
        if heard.last:
            yield from self.told(len(self.open_TV), True, heard.seconds, last=True)
            return
        words, text = self.spelled(torch.cat([self.open_TV, heard.log_probs_TV[heard.settled :]]))
        if words != self.guess:
            yield Event(kind="partial", words=words, text=text, seconds=heard.seconds)
            self.guess = words

    def closed(self) -> tuple[int, bool]:
        """How many of the open frames nothing can be added to, and whether they end in a pause."""
        runs, frames = self.runs(self.open_TV), len(self.open_TV)
        letters = [run for run in runs if run.token != self.tokenizer.delimiter]
        stops = [self.spoken - self.begin, *(run.stop for run in letters)]
        for stop, first in zip(stops, [*(run.first for run in letters), frames], strict=True):
            if first - stop >= self.pause:
                return max(0, first - self.pause // 2), True  # a search may hear the next letter earlier
        cuts = cuts_of(self.open_TV[:, self.tokenizer.blank].numpy())  # of speech without an end
        if self.search or cuts:
            return max(cuts, default=0), False
        if not letters or runs[-1].token == self.tokenizer.delimiter:
            return (frames if runs else 0), False
        return words_of(spans(runs, self.tokenizer)[-1], self.tokenizer, self.pause)[-1][0].first, False

    def told(self, stop: int, quiet: bool, seconds: float, last: bool = False) -> Iterator[Event]:
        """The final event of the first `stop` open frames, which are forgotten; none if they only go on with a pause."""
        rows_TV = self.open_TV[:stop]
        words, text = self.spelled(rows_TV, self.search, last)
        ends = quiet and (self.speaking or bool(words))
        if words or ends or last:
            yield Event(kind="final", words=words, text=text, seconds=seconds, pause=ends)
            self.guess = []
        runs = self.runs(rows_TV)
        if runs:
            whole = self.search is not None or self.tokenizer.writing.phones
            self.apart = whole or runs[-1].token == self.tokenizer.delimiter
        letters = [run.stop for run in runs if run.token != self.tokenizer.delimiter]
        self.spoken = self.begin + (stop if quiet else max(letters, default=self.spoken - self.begin))
        self.speaking = (self.speaking or bool(words)) and not quiet
        self.open_TV, self.begin = self.open_TV[stop:], self.begin + stop

    def runs(self, rows_TV: Tensor) -> list[Run]:
        """The runs of the best symbol of frames, without blanks."""
        return collapse(rows_TV.argmax(dim=1), self.tokenizer.blank)

    def spelled(self, rows_TV: Tensor, search: Search | None = None, last: bool = False) -> tuple[list[Word], str]:
        """The words of the next frames, the `last` ones of the stream or not, with their times in the stream, and their text."""
        if not len(rows_TV):
            return [], ""
        how, hop = (self.tokenizer, self.geometry), self.geometry.hop
        found = transcript_of(rows_TV, *how, search) if search else greedy(rows_TV, *how)
        shift = self.begin * hop / SAMPLE_RATE - self.silence
        end = found.duration + shift - self.silence if last else math.inf

        def moved(seconds: float) -> float:
            return round(min(max(0.0, seconds + shift), end), 3)

        words = [replace(word, start=moved(word.start), end=moved(word.end)) for word in found.words]
        runs = self.runs(rows_TV)
        apart = self.apart or (bool(runs) and runs[0].token == self.tokenizer.delimiter)
        return words, (self.tokenizer.separator if found.text and self.speaking and apart else "") + found.text
