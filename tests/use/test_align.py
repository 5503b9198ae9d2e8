"""`speechssl align`: tables and single recordings, every format, and what cannot be aligned."""

import json
from pathlib import Path

from speechssl import cli
from speechssl.data.aligned import read_textgrid
from tests.conftest import digits, refused, write_table


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
