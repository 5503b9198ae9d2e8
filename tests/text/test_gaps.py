"""A recording of a part of a book, read with a preface that is not in it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from speechssl.core.packed import Geometry
from speechssl.text.align import Clip, align
from speechssl.text.gaps import PIECE, align_parts
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import ROOT

GEOMETRY = Geometry(kernels=(400,), strides=(320,))
BOOK = (ROOT / "tests/text/genesis.txt").read_text(encoding="utf-8").lower()
WORDS = ["".join(letter for letter in word if letter.isalpha()) for word in BOOK.split()]
WORDS = [word for word in WORDS if word]
TOKENIZER = CharTokenizer.build([" ".join(WORDS)])


def read(words: list[str], errors: float = 0.15, seed: int = 1) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """Log-posteriors of a model that mistakes some letters for others, and when it hears each word; three frames a letter."""
    random, rows, times = np.random.default_rng(seed), [], []
    letters = [token for token in range(3, len(TOKENIZER))]
    for word in words:
        begin = len(rows)
        for token in TOKENIZER.encode(word):
            kind = random.random()
            likely = int(random.choice(letters)) if kind < errors else token
            row = np.full(len(TOKENIZER), 0.1 / len(TOKENIZER))
            row[token] += 0.2
            row[likely] += 0.7
            blank = np.full(len(TOKENIZER), 0.02 / len(TOKENIZER))
            blank[0] += 0.98
            rows += [row, blank, blank]
        times.append((begin * 0.02, len(rows) * 0.02))
        space = blank.copy()
        space[[0, TOKENIZER.delimiter]] = space[[TOKENIZER.delimiter, 0]]
        rows += [space, blank]
    return torch.from_numpy(np.log(np.array(rows))), times


def text_of(words: list[str]) -> list[tuple[str, str]]:
    """Words as `align` takes them."""
    return [(word.title(), word) for word in words]


def test_what_is_not_said_and_what_is_not_written_are_found():
    preface, body, footnote, after = WORDS[700:760], WORDS[:250], WORDS[760:800], WORDS[250:500]
    log_probs_TV, times = read([*preface, *body, *after])
    found = align_parts(Clip(log_probs_TV, text_of([*body, *footnote, *after])), TOKENIZER, GEOMETRY)
    assert found is not None
    speech, note = found.unmatched
    assert speech.text == "" and abs(speech.start - times[0][0]) < 0.5 and abs(speech.end - times[59][1]) < 0.5
    wrong = set(note.text.lower().split()) ^ set(footnote)
    assert len(wrong) <= 4 and note.start == note.end == pytest.approx(times[309][1], abs=1.0)
    assert len(found.words) > 0.98 * 500
    assert found.text == " ".join(word.text for word in found.words)
    truth = {round(start, 2): word for word, (start, _) in zip([*preface, *body, *after], times, strict=True)}
    near = [
        any(truth.get(round(word.start + shift, 2)) == word.text.lower() for shift in np.arange(-3, 4) * 0.02)
        for word in found.words
    ]
    assert np.mean(near) > 0.95
    assert len("".join(word.text for word in found.words)) == len(found.letters)
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(found.words))


@pytest.mark.parametrize("gaps", [True, False])
def test_a_text_without_gaps_is_aligned_as_by_align(gaps):
    """Pieces change nothing, and numerals and signs in the text pass."""
    log_probs_TV, _ = read(WORDS[:450])
    assert len(log_probs_TV) > 3 * PIECE
    words = text_of(WORDS[:450])
    words[300], words[301] = ("12", "12"), ("😀", "")
    clip = Clip(log_probs_TV, words)
    found = align_parts(clip, TOKENIZER, GEOMETRY, gaps=gaps)
    (whole,) = align([clip], TOKENIZER, GEOMETRY)
    assert found is not None and whole is not None and not found.unmatched
    assert [word.text for word in found.words] == [word.text for word in whole.words]
    assert found.duration == pytest.approx(whole.duration)
    same = [abs(a.start - b.start) < 0.05 for a, b in zip(found.words, whole.words, strict=True)]
    assert np.mean(same) > 0.99


def test_another_text_is_none():
    log_probs_TV, _ = read(WORDS[:100])
    assert align_parts(Clip(log_probs_TV, text_of(["qqqq", "xxzz"])), TOKENIZER, GEOMETRY) is None
    blank_TV = torch.full((50, len(TOKENIZER)), -9.0)
    blank_TV[:, 0] = 0.0
    assert align_parts(Clip(blank_TV, text_of(WORDS[:5])), TOKENIZER, GEOMETRY) is None
