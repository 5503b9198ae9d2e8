"""Forced alignment against torchaudio's, and what is not in the vocabulary."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torchaudio.functional import forced_align

from speechssl.text.align import Clip, align, path_of, viterbi
from speechssl.text.decode import best_path
from speechssl.text.tokenizer import CharTokenizer
from tests.text.test_beam import GEOMETRY, TINY, posteriors

LETTERS = CharTokenizer({"<pad>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5})


@pytest.mark.parametrize("seed", range(8))
def test_the_best_alignment_is_torchaudios(seed):
    log_probs_TV = posteriors(60, size=6, seed=seed).float()
    tokens = (
        np.random.default_rng(seed).integers(1, 6, size=20).tolist()
    )  # repeats, which need a blank between, among them
    expected, scores = forced_align(log_probs_TV[None], torch.tensor([tokens]), blank=0)
    found = path_of(log_probs_TV, tokens, 0)
    total = log_probs_TV.gather(1, found[:, None]).sum()
    assert float(total) == pytest.approx(float(scores.sum()), abs=1e-3)
    assert (found == expected[0]).float().mean() > 0.95  # where two are equally likely, either


def test_many_utterances_at_once_have_torchaudios_scores():
    """Of different lengths, with texts that fit and texts that do not, each as if it were alone."""
    random = np.random.default_rng(1)
    frames = [posteriors(int(random.integers(1, 90)), size=6, seed=seed).numpy() for seed in range(30)]
    texts = [random.integers(1, 6, size=int(random.integers(1, 25))).tolist() for _ in frames]
    found = viterbi(frames, texts, 0)
    fitting = 0
    for frames_TV, text, places_T in zip(frames, texts, found, strict=True):
        if len(frames_TV) < len(text) + sum(a == b for a, b in pairwise(text)):
            assert places_T is None
            continue
        fitting += 1
        _, scores = forced_align(torch.from_numpy(frames_TV)[None], torch.tensor([text]), blank=0)
        path_T = np.where(places_T >= 0, np.array(text)[places_T], 0)
        assert frames_TV[np.arange(len(path_T)), path_T].sum() == pytest.approx(float(scores.sum()), abs=1e-6)
        assert best_path(torch.from_numpy(path_T), LETTERS) == LETTERS.decode(text)
        assert (viterbi([frames_TV], [text], 0)[0] == places_T).all()
    assert 10 < fitting < 30


def test_a_long_text_is_aligned_in_a_band():
    """A recording in which the text is clear, much longer than the band."""
    random = np.random.default_rng(1)
    tokens = random.integers(1, 6, size=3000)
    frames = []
    for token in tokens:
        frames += [[token] * int(random.integers(1, 3)), [0] * int(random.integers(1, 4))]
    truth = np.concatenate(frames)
    log_probs_TV = np.log(np.full((len(truth), 6), 0.02))
    log_probs_TV[np.arange(len(truth)), truth] = np.log(0.9)
    found = viterbi([log_probs_TV], [tokens.tolist()], 0, width=200)[0]
    assert found is not None and (np.where(found >= 0, tokens[found], 0) == truth).all()
    assert (np.diff(found[found >= 0]) >= 0).all()


def test_what_does_not_fit_is_none():
    log_probs_TV = posteriors(3)
    assert viterbi([log_probs_TV.numpy()], [[2, 2, 3]], 0) == [None]  # the same twice needs a frame more
    assert viterbi([log_probs_TV.numpy()], [[2, 3, 2]], 0)[0].tolist() == [0, 1, 2]
    assert viterbi([log_probs_TV.numpy()[:0]], [[2]], 0) == [None]
    assert align([Clip(log_probs_TV, [("abab", "abab")])], TINY, GEOMETRY) == [None]
    assert path_of(log_probs_TV, [2, 2, 3], 0).tolist() == [0, 0, 0]


def spelled(text: str, frames: int = 3) -> torch.Tensor:
    """Log-posteriors in which each symbol of `text` is clear for some frames; _ is a blank, ? nothing in particular."""
    rows = []
    for symbol in text:
        row = [0.02] * 4
        if symbol == "?":
            row = [0.01, 0.01, 0.49, 0.49]
        else:
            row["_|ab".index(symbol)] = 0.94
        rows += [row] * frames
    return torch.tensor(rows).log()


def test_words_have_the_times_of_their_symbols():
    (found,) = align([Clip(spelled("__ab_|_ba__"), [("Ab,", "ab"), ("ba", "ba")])], TINY, GEOMETRY)
    hop, centre = 0.02, 0.0125 - 0.01
    assert [(word.text, word.start, word.end) for word in found.words] == [
        ("Ab,", pytest.approx(6 * hop + centre, abs=1e-3), pytest.approx(12 * hop + centre, abs=1e-3)),
        ("ba", pytest.approx(21 * hop + centre, abs=1e-3), pytest.approx(27 * hop + centre, abs=1e-3)),
    ]
    assert found.text == "Ab, ba" and [letter.text for letter in found.letters] == ["a", "b", "b", "a"]
    assert all(word.score == pytest.approx(0.94, abs=1e-3) for word in found.words)


def test_what_the_vocabulary_lacks_takes_what_is_there_and_signs_take_nothing():
    (found,) = align(
        [Clip(spelled("_ab_|??|_ba_"), [("ab", "ab"), ("12", "12"), ("-", ""), ("ba", "ba")])], TINY, GEOMETRY
    )
    first, number, sign, last = found.words
    assert first.end < number.start and number.end < last.start
    assert number.end - number.start >= 0.1
    assert sign.start == sign.end and number.end <= sign.start + 0.2 and sign.score == 0
    assert [letter.text for letter in found.letters] == ["a", "b", "*", "b", "a"]


def test_a_script_without_spaces():
    tokenizer = CharTokenizer({"<pad>": 0, "中": 1, "文": 2})
    rows = torch.tensor([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).log()
    (found,) = align([Clip(rows, [("中文", "中文")])], tokenizer, GEOMETRY)
    assert [letter.text for letter in found.letters] == ["中", "文"] and found.words[0].text == "中文"
