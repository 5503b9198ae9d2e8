"""Greedy CTC decoding with word times, and the formats that transcripts are written in."""

import json
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.tokenizer import DELIMITER, CharTokenizer


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word from `start` to `end` (seconds); score: mean probability of its characters."""

    text: str
    start: float
    end: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said, with the time of every word."""

    text: str
    words: list[Word] = field(default_factory=list)
    duration: float = 0.0

    def __str__(self) -> str:
        return self.text


def greedy(log_probs_TV: Tensor, tokenizer: CharTokenizer, geometry: Geometry, sample_rate: int = 16_000) -> Transcript:
    """Best character of every frame, repeats merged, blanks removed."""
    scores_T, tokens_T = log_probs_TV.max(dim=1)
    return spell(tokens_T, scores_T.exp(), tokenizer, geometry, sample_rate)


def spell(
    tokens_T: Tensor, scores_T: Tensor, tokenizer: CharTokenizer, geometry: Geometry, sample_rate: int = 16_000
) -> Transcript:
    """The words that the best tokens of all frames spell, each token with its probability.

    Frame t is the centre of samples [t * hop, t * hop + receptive field); a character lasts from its first frame to its
    last one.
    """
    runs = merge(tokens_T.tolist(), scores_T.tolist())
    hop, centre = geometry.hop / sample_rate, geometry.receptive_field / 2 / sample_rate
    words, current = [], []
    for token, first, last, score in [*runs, (tokenizer.vocab.get(DELIMITER, -1), 0, 0, 0.0)]:
        if token == tokenizer.vocab.get(DELIMITER, -1):
            if current:
                words.append(make_word(current, tokenizer, hop, centre))
            current = []
        elif token != tokenizer.blank:
            current.append((token, first, last, score))
    words = [word for word in words if word.text]
    duration = len(tokens_T) * hop + 2 * centre - hop
    return Transcript(text=" ".join(word.text for word in words), words=words, duration=duration)


def merge(tokens: list[int], scores: list[float]) -> list[tuple[int, int, int, float]]:
    """Runs of equal tokens: (token, first frame, last frame, best probability)."""
    runs: list[tuple[int, int, int, float]] = []
    for t, (token, score) in enumerate(zip(tokens, scores, strict=True)):
        if runs and runs[-1][0] == token:
            runs[-1] = (token, runs[-1][1], t, max(runs[-1][3], score))
        else:
            runs.append((token, t, t, score))
    return runs


def make_word(runs: list[tuple[int, int, int, float]], tokenizer: CharTokenizer, hop: float, centre: float) -> Word:
    """A word from the runs of its characters; it reaches half a hop beyond the centres of its outer frames."""
    return Word(
        text=tokenizer.decode([token for token, *_ in runs]),
        start=round(max(0.0, runs[0][1] * hop + centre - hop / 2), 3),
        end=round(runs[-1][2] * hop + centre + hop / 2, 3),
        score=round(sum(score for *_, score in runs) / len(runs), 4),
    )


def clock(seconds: float, comma: str) -> str:
    """hh:mm:ss,mmm."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{comma}{milliseconds % 1000:03d}"


def captions(words: list[Word], seconds: float = 6.0, gap: float = 1.0) -> list[list[Word]]:
    """Words grouped into captions: a new one after `seconds`, or after a pause of `gap`."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and word.end - groups[-1][0].start <= seconds and word.start - groups[-1][-1].end < gap:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def write(transcript: Transcript, style: str) -> str:
    """A transcript as txt, srt, vtt or json."""
    if style == "json":
        return json.dumps(asdict(transcript), ensure_ascii=False, indent=2) + "\n"
    if style == "txt":
        return transcript.text + "\n"
    comma = "," if style == "srt" else "."
    blocks = [] if style == "srt" else ["WEBVTT\n"]
    for number, group in enumerate(captions(transcript.words), 1):
        times = f"{clock(group[0].start, comma)} --> {clock(group[-1].end, comma)}"
        text = " ".join(word.text for word in group)
        blocks.append(f"{number}\n{times}\n{text}\n" if style == "srt" else f"{times}\n{text}\n")
    return "\n".join(blocks)


def best_path_text(log_probs_TV: Tensor, tokenizer: CharTokenizer) -> str:
    """Only the text of the greedy decoding."""
    best = torch.unique_consecutive(log_probs_TV.argmax(dim=1)).tolist()
    return tokenizer.decode([i for i in best if i != tokenizer.blank])
