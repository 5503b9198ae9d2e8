"""`speechssl align`: tables and single recordings, every format, and what cannot be aligned."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.data.aligned import read_textgrid
from speechssl.data.tables import read_manifest
from speechssl.objectives.transcripts import TextConfig, transcribed
from speechssl.text.formats import FORMATS, write
from speechssl.use.align import align_clip, segments_of
from speechssl.use.api import load
from tests.conftest import DATA, digits, refused, write_table


def test_rows_are_written_as_files_and_a_recording_is_printed(ctc_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = digits(3)
    write_table(Path("x.tsv"), *rows)
    cli.main(["align", str(ctc_folder), "x.tsv", "--out", "times"])
    files = sorted(Path("times").rglob("*.TextGrid"))
    assert len(files) == 3
    words = next(tier for tier in read_textgrid(files[0].read_text(), "x") if tier.name == "words")
    assert [part.text for part in words.spoken] == ["zero"]
    Path("text.txt").write_text("Zero 12,\none")
    clip = str(rows[0]["path"])
    capsys.readouterr()
    cli.main(["align", str(ctc_folder), clip, "--text", "text.txt", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert [word["text"] for word in found["words"]] == ["Zero", "12,", "one"]
    assert "".join(letter["text"] for letter in found["letters"]) == "zero*one"
    starts = [word["start"] for word in found["words"]]
    assert starts == sorted(starts) and found["words"][-1]["end"] <= found["duration"]


def test_what_cannot_be_aligned_is_said(ctc_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = digits(2)
    write_table(Path("x.tsv"), *[{key: row[key] for key in ("id", "path")} for row in rows])
    clip = str(rows[0]["path"])
    assert "no row has a transcript" in refused(capsys, "align", ctc_folder, "x.tsv")
    Path("long.txt").write_text("zero " * 200)
    said = refused(capsys, "align", ctc_folder, "x.tsv", "--text", "long.txt")
    assert "--text is that of one recording, and 2 are given" in said
    assert "does not fit into" in refused(capsys, "align", ctc_folder, clip, "--text", "long.txt")
    Path("signs.txt").write_text("- !")
    assert "has no word to align" in refused(capsys, "align", ctc_folder, clip, "--text", "signs.txt")
    write_table(Path("y.tsv"), rows[0], {"id": "z", "path": rows[1]["path"]})
    cli.main(["align", str(ctc_folder), "y.tsv", "--out", "times"])
    assert "1 of 2 rows have no transcript" in capsys.readouterr().err
    write_table(Path("y.tsv"), rows[0], {**rows[1], "id": f"../{rows[0]['id']}"})
    assert "two recordings would both become" in refused(capsys, "align", ctc_folder, "y.tsv", "--out", "times")
    write_table(Path("y.tsv"), *rows)
    assert "2 recordings do not fit into one TextGrid" in refused(capsys, "align", ctc_folder, "y.tsv")


def test_times_count_from_the_beginning_of_the_file(ctc_folder, tmp_path, monkeypatch, capsys):
    """Those of a row that begins later too, of `align` and of `transcribe`."""
    monkeypatch.chdir(tmp_path)
    row = read_manifest(DATA / "librivox.tsv")[0]
    part = {"id": "part", "path": row.path, "start": 2.5, "duration": 2, "text": "dashwood had"}
    write_table(Path("part.tsv"), part)
    alone = load(ctc_folder).align(row.path, "dashwood had", start=2.5, duration=2)
    for verb in ("align", "transcribe"):
        cli.main([verb, str(ctc_folder), "part.tsv", "--format", "json"])
        found = json.loads(capsys.readouterr().out)
        assert all(2.5 <= word["start"] <= word["end"] <= 4.5 for word in found["words"])
        assert found["duration"] == pytest.approx(2.5 + alone.duration)
        if verb == "align":
            assert [word["start"] for word in found["words"]] == [
                pytest.approx(2.5 + word.start, abs=2e-3) for word in alone.words
            ]
            assert all(2.5 <= letter["start"] <= letter["end"] for letter in found["letters"])
    cli.main(["align", str(ctc_folder), "part.tsv"])
    words = next(tier for tier in read_textgrid(capsys.readouterr().out, "x") if tier.name == "words")
    assert all(part.start >= 2.5 for part in words.spoken)


def test_rows_in_batches_are_those_alone_and_segments_train(ctc_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row for row in digits(8) if float(str(row["duration"])) > 0.3]
    write_table(Path("x.tsv"), *rows)
    cli.main(["align", str(ctc_folder), "x.tsv", "--out", "times", "--format", "json", "--segments", "segments.tsv"])
    model = load(ctc_folder)
    for row in rows:
        alone = align_clip(model, str(row["path"]), str(row["text"]))
        written = json.loads(Path("times", f"{row['id']}.json").read_text())
        assert [word["start"] for word in written["words"]] == [word.start for word in alone.words]
    segments = read_manifest(Path("segments.tsv"))
    assert len(transcribed(segments, TextConfig(), "train")) == len(rows)
    for row, segment in zip(rows, segments, strict=True):
        assert (segment.text, segment.speaker, segment.path) == (row["text"], row["speaker"], str(row["path"]))
        assert segment.start >= 0 and segment.start + segment.duration <= float(str(row["duration"])) + 0.01
        assert 0 <= float(segment.extra["confidence"]) <= 1


def test_segments_are_cut_in_pauses():
    from speechssl.data.manifest import Utterance
    from speechssl.text.transcript import Transcript, Word

    times = [(2.0, 2.4), (2.5, 3.0), (3.8, 4.2), (5.0, 5.4)]
    words = [Word(text=name, start=a, end=b, score=0.5) for name, (a, b) in zip("ab,cd", times, strict=False)]
    words[1] = Word(text="b,", start=2.5, end=3.0, score=1.0)
    found = list(
        segments_of(
            Utterance(id="x", path="x.wav", start=1.9), "x", Transcript(text="a b, , c", words=words, duration=5.5)
        )
    )
    assert [(part.id, part.text) for part in found] == [("x-00000", "a b,"), ("x-00001", ","), ("x-00002", "c")]
    assert [(part.start, part.start + part.duration) for part in found] == [
        (pytest.approx(1.95), pytest.approx(3.15)),
        (pytest.approx(3.65), pytest.approx(4.35)),
        (pytest.approx(4.85), pytest.approx(5.45)),
    ]
    assert found[0].extra["confidence"] == "0.7500"


@pytest.mark.parametrize(
    "text", ["Zero 😀 one", "№ 12 → zero—one…", "ноль zero 零", "\n\nzero\n\n\n one\n", "zero \u200b one"]
)
def test_odd_characters_pass_through(text, ctc_folder):
    found = align_clip(load(ctc_folder), DATA / "librispeech_test" / "3005-163389-0007.flac", text)
    assert [word.text for word in found.words] == text.split()
    assert all(before.end <= after.start for before, after in pairwise(found.words))
    for style in FORMATS:
        assert write(found, style)


def test_a_text_of_which_nothing_is_heard_is_refused(ctc_folder, tmp_path, monkeypatch, capsys):
    """By a model of random weights, whose letters are not those of the text."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("1 2 3 4")
    cli_args = ("align", ctc_folder, digits(1)[0]["path"], "--text", "text.txt", "--gaps")
    with pytest.raises(SystemExit):
        cli.main([str(word) for word in cli_args])
    assert "nothing of its text is heard" in capsys.readouterr().err
