"""WER and CER against jiwer over the whole corpus; the interval; what is not counted."""

import jiwer
import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.tables import read_manifest
from speechssl.score.wer import bootstrap, error_rates
from speechssl.text.normalise import Normaliser, basic
from tests.conftest import DATA

REFERENCES = [
    text for name in ("librispeech_test", "kerstin") for text in read_manifest(DATA / f"{name}.tsv").column("text")
]


def misheard(text: str, seed: int) -> str:
    """A transcript with words dropped, repeated and changed."""
    rng = np.random.default_rng(seed)
    return " ".join(w if r > 0.3 else (w + " " + w if r > 0.2 else ("uh" if r > 0.1 else "")) for w, r in
                    zip(text.split(), rng.random(len(text.split())), strict=True))  # fmt: skip


HYPOTHESES = [misheard(text, seed) for seed, text in enumerate(REFERENCES)]


def test_rates_equal_jiwer_s_over_the_corpus():
    scores = error_rates(REFERENCES, HYPOTHESES)
    references, hypotheses = [basic(t) for t in REFERENCES], [basic(t) for t in HYPOTHESES]
    assert scores.wer.value == pytest.approx(jiwer.wer(references, hypotheses))
    assert scores.cer.value == pytest.approx(jiwer.cer(references, hypotheses))
    assert scores.wer.low < scores.wer.value < scores.wer.high
    assert scores.utterances == len(REFERENCES)


def test_the_normaliser_is_applied_to_both_sides():
    texts = ["Don't — STOP!"], ["dont stop"]
    assert error_rates(*texts, normaliser="basic").wer.value == 0.5
    assert error_rates(["A b!"], ["a B"], normaliser="basic").wer.value == 0
    assert error_rates(["A b!"], ["a B"], normaliser="none").wer.value == 1


def test_chinese_is_counted_in_characters_and_spaces_do_not_count():
    scores = error_rates(["你好，世界", "我爱北京"], ["你好世界", "我爱 东京"])
    assert scores.cer.value == scores.wer.value == 1 / 8
    assert (scores.headline, scores.scripts) == ("cer", ["Han"])
    assert str(scores).startswith("CER 12.5 %")
    assert "Han: no spaces between words" in str(scores)


def test_english_words_in_chinese_stay_words():
    """Reference units: 我 很 happy 真 的 very good; one word is wrong."""
    scores = error_rates(["我很 happy 真的 very good"], ["我 很 happy 真 的 very bad"])
    assert scores.wer.value == 1 / 7
    assert (scores.headline, scores.scripts) == ("wer", ["Han"])


def test_an_alphabet_with_spaces_is_counted_as_ever():
    scores = error_rates(["one two", "한국어 글"], ["onetwo", "한국어글"])
    assert (scores.wer.value, scores.cer.value) == (1.0, 2 / 12)
    assert (scores.headline, scores.scripts) == ("wer", [])
    assert str(scores).startswith("WER 100.0 %")


def test_the_language_decides_between_letters():
    references, hypotheses = ["IŞIK"], ["ışık"]
    assert error_rates(references, hypotheses).wer.value == 1
    scores = error_rates(references, hypotheses, normaliser=Normaliser(language="tr"))
    assert (scores.wer.value, scores.normaliser) == (0, "basic, language tr")


@pytest.mark.parametrize("blank", ["", "   ", "\t"])
@pytest.mark.parametrize("normaliser", ["basic", "upper", "none"])
def test_nothing_is_divided_by_zero_and_no_row_disappears(blank, normaliser):
    scores = error_rates(
        ["one two", blank, blank], [blank, "noise", blank], speakers=["", "a", "b"], normaliser=normaliser
    )
    assert (scores.utterances, scores.empty, scores.wer.value, scores.cer.value) == (1, 2, 1.0, 1.0)
    with pytest.raises(InputError, match="no reference has a word"):
        error_rates([blank], ["x"], normaliser=normaliser)


def test_empty_references_are_told_and_not_counted():
    scores = error_rates(["one two", "…", ""], ["one", "noise", "x"])
    assert (scores.utterances, scores.empty, scores.wer.value) == (1, 2, 0.5)
    assert "2 utterances with an empty reference" in str(scores)
    with pytest.raises(InputError, match="no reference has a word"):
        error_rates(["", "…"], ["a", "b"])
    with pytest.raises(InputError, match="2 references but 1 hypotheses"):
        error_rates(["a", "b"], ["a"])


def test_the_worst_come_first():
    scores = error_rates(REFERENCES, HYPOTHESES, ids=[str(i) for i in range(len(REFERENCES))])
    errors = [entry[0] for entry in scores.worst]
    assert errors == sorted(errors, reverse=True)
    for count, name, reference, hypothesis in scores.worst:
        assert reference == basic(REFERENCES[int(name)])
        out = jiwer.process_words(reference, hypothesis)
        assert count == out.substitutions + out.deletions + out.insertions


def test_the_interval_resamples_speakers_where_there_are_five():
    few, many = (
        error_rates(REFERENCES, HYPOTHESES, speakers=[str(i % n) for i in range(len(REFERENCES))]) for n in (4, 5)
    )
    assert (few.clusters, many.clusters) == ("utterances", "speakers")


def test_an_unknown_speaker_is_not_a_speaker():
    """Half of the utterances are right, the other half have no speaker; as one speaker they would come or go together."""
    references, hypotheses = ["a b c d"] * 40, ["a b c d"] * 20 + ["x y z w"] * 20
    four = [f"s{i // 5}" for i in range(20)] + [""] * 20
    found = error_rates(references, hypotheses, speakers=four)
    assert found.clusters == "utterances"
    assert (found.wer.low, found.wer.high) == (0.35, 0.65)
    assert found.wer == error_rates(references, hypotheses).wer
    five = [f"s{i // 4}" for i in range(20)] + [""] * 20
    found = error_rates(references, hypotheses, speakers=five)
    assert found.clusters == "speakers, and 20 utterances without a speaker"
    assert found.wer.low > 0.2, "the 20 wrong ones are drawn one by one, not as one speaker who may be missing"


def test_the_interval_is_that_of_the_binomial_distribution():
    counts = np.stack([np.arange(400) % 4 == 0, np.ones(400)], axis=1).astype(int)
    rate = bootstrap(counts, np.arange(400), seed=1)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert rate.value == 0.25
    assert (rate.low, rate.high) == (pytest.approx(0.25 - half, abs=0.006), pytest.approx(0.25 + half, abs=0.006))
