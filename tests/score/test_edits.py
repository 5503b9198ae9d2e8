"""Alignments: their counts are jiwer's, their steps spell both texts, and the commonest errors are counted once each."""

from collections import Counter
from itertools import pairwise

import jiwer
import pytest

from speechssl.score.edits import Edits, edits_of, most_confused, score, score_all, total, visible
from speechssl.text.normalise import basic
from speechssl.text.scripts import counted
from tests.score.test_wer import HYPOTHESES, REFERENCES

PAIRS = [(basic(a), basic(b)) for a, b in zip(REFERENCES, HYPOTHESES, strict=True)]
PAIRS += [("我 爱 北京", "我爱 东京 市"), ("خلف أمام", "أمام خلف"), ("one two three", ""), ("a", "a b c")]


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_counts_and_steps_are_those_of_jiwer(pair):
    one, (words, characters) = score("x", "", *pair), counted(*pair)
    for mine, theirs in (
        (one.word_edits, jiwer.process_words(*words)),
        (one.character_edits, jiwer.process_characters(*characters)),
    ):
        counts = (theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions)
        assert (mine.correct, mine.substitutions, mine.deletions, mine.insertions) == counts
    assert [step.reference for step in one.words if step.kind != "I"] == words[0].split()
    assert [step.hypothesis for step in one.words if step.kind != "D"] == words[1].split()
    assert all((step.reference == step.hypothesis) == (step.kind == "C") for step in one.words)
    assert len(one.wrong) == one.character_edits.errors


def test_the_whole_is_the_sum_of_its_parts():
    scored = score_all(*[[""] * len(REFERENCES)] * 2, REFERENCES, HYPOTHESES, basic)
    whole = jiwer.process_words([basic(t) for t in REFERENCES], [basic(t) for t in HYPOTHESES])
    sums = total([one.word_edits for one in scored])
    assert (sums.errors, sums.units) == (
        whole.substitutions + whole.deletions + whole.insertions,
        whole.hits + whole.substitutions + whole.deletions,
    )
    assert edits_of(step for one in scored for step in one.words) == sums
    confused = most_confused((step for one in scored for step in one.words), 10**6)
    assert sum(count for *_, count in confused) == sums.errors
    assert all(a[2] >= b[2] for a, b in pairwise(confused))
    heard = Counter({(a, b): count for a, b, count in confused if a and b})
    assert sum(heard.values()) == sums.substitutions


def test_the_commonest_errors_by_hand():
    steps = score("", "", "a b a c a", "x b x c d d").words
    assert most_confused(steps, 2) == [("a", "x", 2), ("", "d", 1)]
    assert [visible(unit) for unit in ("", " ", "a")] == ["·", "␣", "a"]


def test_an_empty_reference_has_no_alignment():
    one = score("x", "", " ", "noise")
    assert one.words == one.wrong == [] and one.word_edits == one.character_edits == Edits()
