"""Scores of a manifest: batches change nothing, durations may be missing, long rows go through windows."""

import copy
import csv
import json

import pytest
import soundfile
import torch

import speechssl
from speechssl.core.errors import InputError
from speechssl.data.tables import read_manifest
from speechssl.score.evaluate import Line, evaluate, transcribe_manifest
from speechssl.text.tokenizer import CharTokenizer
from speechssl.use.language import normaliser_of
from tests.conftest import DATA, digits, write_table


@pytest.fixture(scope="module")
def model(ctc_folder):
    """A tiny model of random letters."""
    return speechssl.load(ctc_folder)


def test_a_row_in_a_batch_gives_what_it_gives_alone(model):
    rows = read_manifest(DATA / "fsdd.tsv").select(range(0, 1500, 130))
    assert [heard.text for heard in transcribe_manifest(model, rows)] == [
        model.transcribe(row.path).text for row in rows
    ]


def test_durations_may_be_missing(model, tmp_path):
    rows = digits()
    with_them = write_table(tmp_path / "a.tsv", *rows)
    without = write_table(tmp_path / "b.tsv", *[{k: v for k, v in row.items() if k != "duration"} for row in rows])
    assert evaluate(model, with_them) == evaluate(model, without)


def test_long_rows_go_through_windows(model, speech, tmp_path):
    soundfile.write(tmp_path / "x.wav", speech, 16_000)
    rows = read_manifest(write_table(tmp_path / "x.tsv", {"path": "x.wav", "text": "x"}))
    sizes, ask = [], model.log_probs
    model.log_probs = lambda waves: sizes.append(max(map(len, waves))) or ask(waves)
    try:
        found = transcribe_manifest(model, rows, batch_seconds=10.0)
    finally:
        del model.log_probs
    assert [heard.text for heard in found] == [model.transcribe(tmp_path / "x.wav").text]
    assert max(sizes) <= 34 * 16_000 < len(speech)


def test_a_clip_under_a_frame_counts_as_nothing_heard(model, speech, tmp_path):
    soundfile.write(tmp_path / "x.wav", speech[:300], 16_000)
    scores = evaluate(model, write_table(tmp_path / "x.tsv", {"path": "x.wav", "text": "one two"}))
    assert (scores.wer.value, scores.worst[0][3]) == (1.0, "")


def test_what_is_written_is_what_is_scored(model, tmp_path):
    table = write_table(tmp_path / "a.tsv", *digits(), {**digits()[0], "id": "silent", "text": "..."})
    scores = evaluate(model, table, by=["label"], out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert (told["wer"]["value"], told["test"], told["empty"]) == (scores.wer.value, str(table), 1)
    with (tmp_path / "out" / "utterances.tsv").open(encoding="utf-8", newline="") as file:
        lines = [Line(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    assert [line.reference for line in lines] == read_manifest(table).column("text")
    assert (lines[-1].id, lines[-1].words, lines[-1].substitutions) == ("silent", "", "")
    for column in ("substitutions", "deletions", "insertions"):
        written = sum(int(getattr(line, column) or 0) for line in lines)
        assert written == getattr(scores.words, column) == told["words"][column]
        for groups in scores.groups.values():
            assert sum(getattr(group.words, column) for group in groups) == written
    assert sum(int(line.character_errors or 0) for line in lines) == scores.characters.errors
    assert set(scores.groups) == {"length", "speaker", "label"}
    assert all(f"by {name}:" in str(scores) for name in scores.groups)


def test_groups_are_scored_as_if_they_were_alone(model, tmp_path):
    table = write_table(tmp_path / "a.tsv", *digits())
    scores = evaluate(model, table, by=["label"])
    assert len(scores.groups["label"]) > 1
    for column in ("speaker", "label"):
        for group in scores.groups[column][:2]:
            alone = evaluate(model, table, where=f"{column}={group.name}")
            assert (alone.wer, alone.cer, alone.words) == (group.wer, group.cer, group.words)
    lengths = [part.name for part in scores.groups["length"]]
    assert lengths == sorted(lengths) and sum(part.utterances for part in scores.groups["length"]) == scores.utterances
    with pytest.raises(InputError, match="no column 'accent'"):
        evaluate(model, table, by=["accent"])


def test_the_confidences_are_those_of_the_words(model, tmp_path):
    """A certain model that is right half of the time: its words are all in the last bin, and half of them are wrong."""
    model = copy.copy(model)
    model.tokenizer = CharTokenizer.build(["one"])
    model.log_probs = lambda waves: [one_hot(model.tokenizer.encode("one")) for _ in waves]
    rows = [row | {"text": "one" if i % 2 else "two"} for i, row in enumerate(digits())]
    found = evaluate(model, write_table(tmp_path / "a.tsv", *rows)).calibration
    assert found is not None
    assert (found.count, found.confidence, found.accuracy, found.ece) == (12, 1.0, 0.5, 0.5)
    assert [(one.low, one.count, one.accuracy) for one in found.bins] == [(0.9, 12, 0.5)]


def test_the_normaliser_is_that_of_the_model_s_training_unless_told(ctc_folder, tmp_path):
    model = speechssl.load(ctc_folder)
    model.config_json = {"speechssl": {"text": {"language": "tr", "points": "drop"}}}
    table = write_table(tmp_path / "a.tsv", *digits())
    assert evaluate(model, table).normaliser == "basic, language tr, points dropped"
    told = {"language": "de", "digits": "trained", "points": "keep"}
    assert evaluate(model, table, how=told).normaliser == "basic, language de"
    for name in ("none", "whisper-basic"):  # which have no settings
        assert str(normaliser_of(model, name, {})) == name


@pytest.mark.parametrize(
    "symbols, normaliser",
    [("ts.h a", "none"), ("ts.h @", "none"), ("@ a", "none"), ("s S", "none"), ("ah0 oʊ", "basic")],
)
def test_phones_that_the_normaliser_would_change_are_compared_as_they_are(symbols, normaliser, model, tmp_path):
    """basic would make two words of ts.h, nothing of @ and one phone of s and S; capitals of transcripts still become ah0."""
    model = copy.copy(model)
    model.tokenizer = CharTokenizer.build([symbols], phones=True)
    reference = symbols if normaliser == "none" else symbols.replace("ah0", "AH0")
    model.log_probs = lambda waves: [one_hot(model.tokenizer.encode(symbols)) for _ in waves]
    table = write_table(tmp_path / "a.tsv", *[row | {"text": reference} for row in digits()])
    scores = evaluate(model, table)
    assert (scores.wer.value, scores.normaliser, scores.phones) == (0, normaliser, True)
    assert "WER is the phone error rate (PER)" in str(scores)


def test_capitals_are_scored_as_capitals(model, tmp_path):
    """A vocabulary of capitals writes STRASSE for straße, and that is right."""
    model = copy.copy(model)
    model.tokenizer = CharTokenizer.build(["STRASSE"])
    model.log_probs = lambda waves: [one_hot(model.tokenizer.encode("STRASSE")) for _ in waves]
    scores = evaluate(model, write_table(tmp_path / "a.tsv", *[row | {"text": "Straße"} for row in digits()]))
    assert (scores.wer.value, scores.cer.value, scores.normaliser) == (0, 0, "upper")


def one_hot(ids: list[int]) -> torch.Tensor:
    """Log probabilities of frames that are certain of these ids, with a blank after each."""
    return torch.nn.functional.one_hot(torch.tensor([i for index in ids for i in (index, 0)]), 8).float().log()


def test_an_unreadable_row_stops_the_evaluation(model, tmp_path):
    rows = [*digits(), {"id": "gone", "path": tmp_path / "gone.wav", "duration": 1.0, "text": "one"}]
    with pytest.raises(InputError, match=r"gone\.wav is missing"):
        evaluate(model, write_table(tmp_path / "a.tsv", *rows))
