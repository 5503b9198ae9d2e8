"""Language models against KenLM's programs: genesis.arpa is what its `lmplz -o 3 --discount_fallback` makes of genesis.txt."""

import math
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.text.build_lm import build, estimate, split
from speechssl.text.ngram import Ngram, open_lm, perplexity, read_arpa

HERE = Path(__file__).parent
LINES = (HERE / "genesis.txt").read_text().splitlines()


def numbers(path: Path) -> dict[str, tuple[float, float]]:
    """n-gram -> (log10 of its probability, of its back-off), read line by line."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if "\t" in line]
    return {row[1]: (float(row[0]), float(row[2]) if len(row) > 2 else 0.0) for row in rows}


def test_every_number_is_that_of_kenlm(tmp_path):
    built = build(LINES, tmp_path / "lm.arpa", order=3)
    ours, theirs = numbers(tmp_path / "lm.arpa"), numbers(HERE / "genesis.arpa")
    assert ours.keys() == theirs.keys() and len(theirs) == sum(built.counts)
    for gram, (p, backoff) in theirs.items():
        if gram != "<s>":  # which is never said; KenLM writes 0
            assert ours[gram][0] == pytest.approx(p, abs=2e-6), gram
        assert ours[gram][1] == pytest.approx(backoff, abs=2e-6), gram


def test_a_text_with_all_counts_has_discounts_of_its_own():
    """By hand: of the counts 1, 1, 1, 1, 2, 2, 3, 4 Y = 4 / (4 + 2 * 2), D1 = 1 - 2 Y 2 / 4, D2 = 2 - 3 Y / 2, D3 = 3 - 4 Y."""
    from speechssl.text.build_lm import discounts

    assert discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4])) == pytest.approx([0.0, 0.5, 1.25, 1.0])
    assert discounts(np.array([1, 2, 2])) == pytest.approx([0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_every_context(order):
    model = Ngram(*estimate([line.split() for line in LINES], order))
    words = [word for word in model.words if word != "<s>"]
    contexts = [
        [],
        ["and"],
        ["and", "god"],
        ["and", "god", "said"],
        ["never", "heard"],
        ["the", "waters", "never"],
        ["god"],
    ]
    for context in contexts:
        state = model.start()
        for word in context:
            state, _ = model.score(state, word)
        assert sum(math.exp(model.score(state, word)[1]) for word in words) == pytest.approx(1, abs=1e-6), context


def test_a_model_that_is_read_is_the_one_that_was_written(tmp_path):
    sentences = [line.split() for line in LINES]
    build(LINES, tmp_path / "lm.arpa", order=4)
    read, made = open_lm(tmp_path / "lm.arpa"), Ngram(*estimate(sentences, 4))
    odd = [sentence[::-1] for sentence in sentences[:9]] + [["nobody", "knows", "god"]]
    assert perplexity(read, sentences + odd) == pytest.approx(perplexity(made, sentences + odd), rel=1e-5)
    assert (read.knows("god"), read.knows("nobody"), read.units) == (True, False, "words")
    assert perplexity(read, sentences) < perplexity(read, odd)


def test_kenlm_gives_the_same_scores():
    kenlm = pytest.importorskip("kenlm")
    ours, theirs = read_arpa(HERE / "genesis.arpa"), kenlm.Model(str(HERE / "genesis.arpa"))
    for line in (*LINES, "nobody knows god", "waters the and", ""):
        state, total = ours.start(), 0.0
        for word in (*line.split(), "</s>"):
            state, score = ours.score(state, word)
            total += score
        assert total / math.log(10) == pytest.approx(theirs.score(line), abs=1e-4)


def test_a_model_of_characters(tmp_path):
    assert split("ab c", "chars") == ["a", "b", "|", "c"]
    assert split("a <s> b", "words") == ["a", "b"]
    built = build(["中文", "中中文"], tmp_path / "lm.arpa", order=2, units="chars")
    assert (built.tokens, open_lm(tmp_path / "lm.arpa").units) == (5, "chars")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "ends (after|before)"),
        (lambda text: text.replace("\\data\\", ""), "is no ARPA file"),
        (lambda text: text.replace("\\3-grams:", "\\4-grams:"), "is not expected here"),
        (lambda text: text.replace("\tand god\t", "\tand gods\t"), "is none of the"),
        (lambda text: "", "is no ARPA file"),
    ],
)
def test_files_that_are_no_models_are_named(change, message, tmp_path):
    (tmp_path / "lm.arpa").write_text(change((HERE / "genesis.arpa").read_text()))
    with pytest.raises(InputError, match=message):
        open_lm(tmp_path / "lm.arpa")
    with pytest.raises(InputError, match="does not exist"):
        open_lm(tmp_path / "no.arpa")


@pytest.mark.parametrize(
    ("lines", "order", "sentences", "counts"),
    [
        (["one"], 4, 1, [4, 2, 1]),  # <unk> <s> </s> one; <s> one, one </s>; <s> one </s>
        (["", "one\ttwo", " \t", "three\r"], 3, 2, [6, 5, 3]),
        (["one two"] * 1000, 10, 1000, [5, 3, 2, 1]),
        (["one\u00a0two\u2028three"], 2, 1, [6, 4]),
        (["one two"], 1, 1, [5]),
    ],
)
def test_unusual_texts_make_whole_models(lines, order, sentences, counts, tmp_path):
    built = build(lines, tmp_path / "lm.arpa", order=order)
    assert (built.sentences, built.counts) == (sentences, counts)
    model = open_lm(tmp_path / "lm.arpa")
    for context in ([], ["one"], ["nobody"]):
        state = model.start()
        for word in context:
            state, _ = model.score(state, word)
        words = [word for word in ("<unk>", "</s>", "one", "two", "three") if model.knows(word)]
        assert sum(math.exp(model.score(state, word)[1]) for word in words) == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_built_is_refused(tmp_path):
    for order in (0, 11):
        with pytest.raises(InputError, match="--order"):
            build(LINES, tmp_path / "lm.arpa", order=order)
    with pytest.raises(InputError, match="no words"):
        build(["", " "], tmp_path / "lm.arpa")
