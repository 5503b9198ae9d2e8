"""Prefix beam search against the sum over all alignments, flashlight's decoder, and what lexicons and hot words are for."""

import itertools
import math
from difflib import SequenceMatcher

import numpy as np
import pytest
import torch

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.text.align import path_of
from speechssl.text.build_lm import estimate
from speechssl.text.decode import greedy
from speechssl.text.decoders import cuts_of, decode, transcript_of
from speechssl.text.lexicon import HotWords, Lexicon, parse_hot
from speechssl.text.ngram import END, Ngram
from speechssl.text.search import Search
from speechssl.text.tokenizer import CharTokenizer

TINY = CharTokenizer({"<pad>": 0, "|": 1, "a": 2, "b": 3})
GEOMETRY = Geometry(kernels=(400,), strides=(320,))
WORDS = Ngram(*estimate([["a", "b"], ["ab", "a"], ["b", "b", "ab"], ["ba"]], 2))
CHARS = Ngram(*estimate([list("a|b"), list("ab|a"), list("b|b|ab")], 3))


def posteriors(frames: int, size: int = 4, seed: int = 0, sharp: float = 1.5) -> torch.Tensor:
    """Random log-posteriors (T, V)."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(size=(frames, size)) * sharp).log_softmax(dim=1)


def lm_score(model: Ngram, units: list[str]) -> float:
    """The log-probability of a sentence."""
    state, total = model.start(), 0.0
    for unit in (*units, END):
        state, score = model.score(state, unit)
        total += score
    return total


def every_text(log_probs_TV: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Symbols -> log-probability, summed over all alignments, of which each is looked at."""
    found: dict[tuple[int, ...], float] = {}
    rows = log_probs_TV.tolist()
    for path in itertools.product(range(len(rows[0])), repeat=len(rows)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        score = sum(row[token] for row, token in zip(rows, path, strict=True))
        found[tokens] = np.logaddexp(found.get(tokens, -np.inf), score)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model", [None, WORDS, CHARS])
@pytest.mark.parametrize("lexicon", [None, Lexicon(["a", "ab", "bba", "bab"])])
@pytest.mark.parametrize("hot", [HotWords(), HotWords(boosts={"ab": 2.0, "aab": 3.0})])
@pytest.mark.parametrize("decoder", ["beam", "flashlight"])
def test_the_best_text_is_the_best_of_all(decoder, hot, lexicon, model, seed):
    if decoder == "flashlight":
        pytest.importorskip("flashlight.lib.text.decoder")
    log_probs_TV = posteriors(6, seed=seed)
    search = Search(
        decoder=decoder, beam=100_000, lm=model, lm_weight=0.7, word_score=0.4, lexicon=lexicon, hot=hot, n_best=5
    )
    best, *others = decode(log_probs_TV, TINY, search)

    acoustic: dict[str, float] = {}
    for tokens, score in every_text(log_probs_TV).items():
        text = TINY.decode(tokens)
        acoustic[text] = np.logaddexp(acoustic.get(text, -np.inf), score)
    scores, lm = {}, {}
    for text in acoustic:
        if lexicon is None or set(text.split()) <= set(lexicon.words):
            units = text.split() if model is WORDS else list(text.replace(" ", "|"))
            lm[text] = lm_score(model, units) if model else 0.0
            scores[text] = acoustic[text] + (0.7 * lm[text] + 0.4 * len(units) if model else 0.0)
            scores[text] += sum(hot.boosts.get(word, 0.0) for word in text.split())
    ranked = sorted(scores, key=lambda text: -scores[text])[:5]
    found, near = [best, *others], 1e-9 if decoder == "beam" else 1e-4
    assert [one.text for one in found] == ranked
    for name, expected in (("score", scores), ("acoustic", acoustic), ("lm", lm)):
        values = [getattr(one, name) for one in found]
        assert values == pytest.approx([expected[text] for text in ranked], abs=near), name


def test_a_narrow_beam_of_sharp_posteriors_is_greedy():
    log_probs_TV = posteriors(300, sharp=12)
    text = greedy(log_probs_TV, TINY, GEOMETRY).text
    found = transcript_of(log_probs_TV, TINY, GEOMETRY, Search(beam=20))
    assert found.text == text and found.duration == greedy(log_probs_TV, TINY, GEOMETRY).duration
    assert [word.text for word in found.words] == text.split()


def test_a_lexicon_leaves_no_other_words():
    for seed in range(6):
        text = decode(posteriors(30, seed=seed), TINY, Search(lexicon=Lexicon(["ab", "bab"])))[0].text
        assert text and set(text.split()) <= {"ab", "bab"}
    with pytest.raises(InputError, match="holds no words"):
        Lexicon([""])


def test_hot_words_win_where_they_are_nearly_as_likely():
    rows = [[0.02, 0.02, 0.9, 0.06], [0.9, 0.03, 0.03, 0.04], [0.02, 0.02, 0.5, 0.46], [0.02, 0.94, 0.02, 0.02]]
    log_probs_TV = torch.tensor(rows).log()
    assert decode(log_probs_TV, TINY, Search())[0].text == "aa"
    for words in (["ab"], ["ab=3", "bb"]):
        assert decode(log_probs_TV, TINY, Search(hot=parse_hot(words)))[0].text == "ab"
    assert decode(log_probs_TV, TINY, Search(hot=parse_hot(["bb=0.1"])))[0].text == "aa"
    with pytest.raises(InputError, match="a boost is a number"):
        parse_hot(["ab=x"])


def test_words_have_the_times_of_the_best_alignment():
    from torchaudio.functional import forced_align

    log_probs_TV = posteriors(40, seed=5, sharp=3).float()
    best = decode(log_probs_TV, TINY, Search())[0]
    expected, _ = forced_align(log_probs_TV[None], torch.tensor([best.tokens]), blank=0)
    assert torch.equal(best.path_T, expected[0].long())
    found = transcript_of(log_probs_TV, TINY, GEOMETRY, Search())
    assert [word.text for word in found.words] == found.text.split()
    assert all(a.end <= b.start for a, b in itertools.pairwise(found.words))
    assert path_of(log_probs_TV, [], 0).tolist() == [0] * 40


def test_a_long_recording_is_cut_at_its_silences_and_the_model_goes_on_over_them(monkeypatch):
    quiet = torch.full((60, 4), 1e-6)
    quiet[:, 0], quiet[5, 0], quiet[5, 1] = 1 - 3e-6, 1e-6, 1 - 3e-6
    parts = [part for seed in range(9) for part in (posteriors(600, seed=seed, sharp=9), quiet.log())]
    long_TV = torch.cat(parts).float()
    cuts = cuts_of(long_TV[:, 0].double().numpy())
    assert len(cuts) >= 3 and all(cut % 660 > 600 for cut in cuts)
    search = Search(beam=8, lm=WORDS, lm_weight=0.3)
    pieces = decode(long_TV, TINY, search)[0]
    monkeypatch.setattr("speechssl.text.decoders.PIECE", 10**6)
    whole = decode(long_TV, TINY, search)[0]
    same = SequenceMatcher(None, pieces.text.split(), whole.text.split(), autojunk=False).ratio()
    assert same > 0.98 and pieces.lm == pytest.approx(whole.lm, rel=0.02)
    assert pieces.path_T is not None and len(pieces.path_T) == len(long_TV)


def test_a_vocabulary_without_spaces_wants_a_model_of_characters():
    tokenizer = CharTokenizer({"<pad>": 0, "中": 1, "文": 2})
    with pytest.raises(InputError, match="--units chars"):
        decode(posteriors(5, 3), tokenizer, Search(lm=WORDS))
    model = Ngram(*estimate([list("中文"), list("中中文")], 2))
    log_probs_TV = torch.tensor([[0.02, 0.96, 0.02], [0.96, 0.02, 0.02], [0.02, 0.52, 0.46]]).log()
    assert decode(log_probs_TV, tokenizer, Search())[0].text == "中中"
    assert decode(log_probs_TV, tokenizer, Search(lm=model, lm_weight=1.0, word_score=0.0))[0].text == "中文"


def test_nothing_fits_is_an_empty_text():
    log_probs_TV = torch.tensor([[0.01, 0.01, 0.97, 0.01]]).log()
    assert decode(log_probs_TV, TINY, Search(lexicon=Lexicon(["bb"])))[0].text == ""
    assert decode(log_probs_TV[:0], TINY, Search())[0].text == ""


def test_the_scores_of_flashlight():
    """Its decoder with a lexicon, probabilities summed over alignments, and a language model of words that is ours."""
    decoder = pytest.importorskip("flashlight.lib.text.decoder")
    words = ["a", "b", "ab", "ba", "bab"]

    class Ours(decoder.LM):
        def __init__(self):
            super().__init__()
            self.states = {}

        def start(self, nothing):
            state = decoder.LMState()
            self.states[state] = WORDS.start()
            return state

        def score(self, state, word):
            after, score = WORDS.score(self.states[state], words[word])
            child = state.child(word)
            self.states.setdefault(child, after)
            return child, score

        def finish(self, state):
            return state, WORDS.score(self.states[state], END)[1]

    for seed in range(20):
        log_probs_TV = posteriors(13, seed=seed).float()
        log_probs_TV[-1] = torch.tensor([-60.0, 0.0, -60.0, -60.0])  # a delimiter, which its words end with
        trie = decoder.Trie(4, 1)
        for number, word in enumerate(words):
            trie.insert([TINY.vocab[letter] for letter in word] + [1], number, 0.0)
        options = decoder.LexiconDecoderOptions(
            beam_size=5000, beam_size_token=4, beam_threshold=1e6, lm_weight=0.7, word_score=0.4, unk_score=-math.inf,
            sil_score=0.0, log_add=True, criterion_type=decoder.CriterionType.CTC,
        )  # fmt: skip
        model = Ours()
        theirs = decoder.LexiconDecoder(options, trie, model, 1, 0, -1, [], False)
        best = theirs.decode(log_probs_TV.contiguous().data_ptr(), len(log_probs_TV), 4)[0]
        search = Search(beam=5000, lm=WORDS, lm_weight=0.7, word_score=0.4, lexicon=Lexicon(words))
        ours = decode(log_probs_TV, TINY, search)[0]
        assert ours.text == " ".join(words[i] for i in best.words if i >= 0)
        assert ours.lm == pytest.approx(best.lmScore, abs=1e-4)
        assert ours.score == pytest.approx(best.score, abs=1e-4)
