"""Two evaluations: the paired bootstrap against brute force, what is refused, what is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.score.compare import compare, counts_of
from speechssl.score.edits import score_all
from speechssl.score.evaluate import Line, line_of, write
from speechssl.score.wer import rates_of
from speechssl.text.normalise import basic
from speechssl.text.transcript import Transcript
from tests.conftest import refused
from tests.score.test_wer import REFERENCES, misheard

IDS = [f"u{i}" for i in range(len(REFERENCES))]
SIX = [f"s{i % 6}" for i in range(len(REFERENCES))]


def evaluation(folder: Path, hypotheses, *, references=REFERENCES, ids=IDS, speakers=SIX, normaliser="basic") -> Path:
    """What `evaluate` writes of texts."""
    folder.mkdir()
    scored = score_all(ids, speakers, references, hypotheses, basic)
    heard = [Transcript(text=text, words=[], duration=1.0) for text in hypotheses]
    lines = [line_of(*row) for row in zip(references, scored, heard, strict=True)]
    write(folder, {"model": "m", "test": "t"}, rates_of(scored, normaliser=normaliser), lines)
    return folder


@pytest.fixture
def folders(tmp_path):
    """An evaluation, and one with other errors."""
    return tuple(
        evaluation(tmp_path / name, [misheard(text, seed + offset) for seed, text in enumerate(REFERENCES)])
        for name, offset in (("a", 0), ("b", 1000))
    )


def lines_of(folder: Path) -> list[Line]:
    """The table of an evaluation."""
    rows = (folder / "utterances.tsv").read_text(encoding="utf-8").splitlines()
    return [Line(*row.split("\t")) for row in rows[1:]]


def test_the_interval_is_that_of_brute_force(folders):
    """Whole speakers are drawn, the same ones for both sides."""
    (found,) = compare(folders, resamples=2000)
    first, second = ([counts_of(line) for line in lines_of(folder)] for folder in folders)
    rng, drawn = np.random.default_rng(99), []
    for _ in range(2000):
        picked = [i for s in rng.choice(sorted(set(SIX)), 6) for i, name in enumerate(SIX) if name == s]
        a, b = (np.array([counts[i] for i in picked]).sum(axis=0) for counts in (first, second))
        drawn.append([b[0] / b[1] - a[0] / a[1], b[2] / b[3] - a[2] / a[3]])
    for rate, column in ((found.wer_difference, 0), (found.cer_difference, 1)):
        low, high = np.percentile(np.array(drawn)[:, column], [2.5, 97.5])
        width = high - low
        assert (rate.low, rate.high) == (pytest.approx(low, abs=0.1 * width), pytest.approx(high, abs=0.1 * width))
    scores = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in folders]
    assert found.wer == tuple(pytest.approx(one["wer"]["value"]) for one in scores)
    assert found.wer_difference.value == pytest.approx(scores[1]["wer"]["value"] - scores[0]["wer"]["value"])
    assert "cannot tell which" in found.verdict() and "over speakers" in str(found)


def test_pairing_sees_what_two_intervals_do_not(tmp_path):
    """The second makes one error less in every utterance: the intervals of the rates overlap, that of the difference is sure."""
    rng = np.random.default_rng(1)
    references = [" ".join("abcdefghij") for _ in IDS]
    wrong = [1 + int(n) for n in rng.integers(0, 9, len(IDS))]
    texts = [[" ".join(["x"] * (n - less) + list("abcdefghij")[n - less :]) for n in wrong] for less in (0, 1)]
    a, b = (evaluation(tmp_path / str(i), text, references=references) for i, text in enumerate(texts))
    (found,) = compare([a, b])
    assert (found.wer_difference.low, found.wer_difference.high) == (pytest.approx(-0.1), pytest.approx(-0.1))
    assert found.verdict() == f"{b} is better than {a}, by 10.0 points of WER."
    assert compare([b, a])[0].verdict() == found.verdict()
    assert {line[0] for line in found.largest} == {-1} and len(found.largest) == 10


def test_equal_evaluations_and_several(folders, tmp_path):
    same, other = compare([folders[0], folders[0], folders[1]], out=tmp_path / "out.json")
    assert "same number of errors" in same.verdict() and not same.largest
    assert other == compare(folders)[0]
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [one["verdict"] for one in told] == [same.verdict(), other.verdict()]


def test_without_speakers_utterances_are_drawn_and_that_is_said(tmp_path):
    a, b = (
        evaluation(tmp_path / name, [misheard(t, i + n) for i, t in enumerate(REFERENCES)], speakers=[""] * len(IDS))
        for n, name in enumerate("ab")
    )
    assert "over utterances (fewer than 5 speakers are known)" in str(compare([a, b])[0])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"normaliser": "none"}, "were scored with different normalisers, 'basic' and 'none'"),
        ({"ids": ["new", *IDS[1:]]}, "1 are only in .*a (.*u0.*) and 1 are only in .*c (.*new.*)"),
        ({"references": ["Other words", *REFERENCES[1:]]}, "differ in the reference of u0: .* and 'Other words'"),
        ({"speakers": ["anna", *SIX[1:]]}, "differ in the speaker of u0: 's0' and 'anna'"),
    ],
)
def test_other_tests_are_refused(folders, tmp_path, change, said):
    other = evaluation(tmp_path / "c", REFERENCES, **change)
    with pytest.raises(InputError, match=said):
        compare([folders[0], other])


def test_what_is_no_evaluation_is_told(folders, tmp_path, capsys):
    assert "give at least two folders" in refused(capsys, "compare", folders[0])
    assert "scores.json does not exist; `speechssl evaluate" in refused(capsys, "compare", folders[0], tmp_path)
    assert "--resamples 10 is too few" in refused(capsys, "compare", *folders, "--resamples", 10)
    table = folders[1] / "utterances.tsv"
    whole = table.read_text(encoding="utf-8")
    edited = whole.rpartition("\t")[0].rpartition("\t")[0] + "\tmany\t\n"
    for text, line in ((whole + "half a line\n", len(IDS) + 2), (edited, len(IDS) + 1), ("", 1), ("a\tb\n", 1)):
        table.write_text(text, encoding="utf-8")
        assert f"{table}, line {line}, is not what" in refused(capsys, "compare", *folders)
    table.write_text(whole, encoding="utf-8")
    (folders[1] / "scores.json").write_text("[]")
    assert "does not hold the scores" in refused(capsys, "compare", *folders)
