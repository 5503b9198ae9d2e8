"""Pseudo-labels: the surest transcripts become rows to train on, and the labels that rows had are not used."""

import json
import sys
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.tables import read_manifest
from tests.conftest import ROOT, digits, write_table

sys.path.insert(0, str(ROOT / "recipes" / "selftraining"))
import pseudo_labels


def written(folder: Path, **scores: list[tuple[str, float]]) -> None:
    """Transcripts as `transcribe --format json` writes them."""
    folder.mkdir()
    for name, words in scores.items():
        content = {"text": " ".join(text for text, _ in words), "words": [{"text": t, "score": s} for t, s in words]}
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_surest_share_is_kept_with_the_text_of_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(Path("x.tsv"), *({**row, "id": name, "split": "dev"} for name, row in zip("abcd", digits(4))))
    one = [("a", 1.0), ("six", 0.8)]  # 0.85, for characters count and not words
    written(Path("json"), a=[("two", 0.9)], b=[("nine", 0.5)], c=one, d=[])
    pseudo_labels.main(["x.tsv", "json", "--out", "half.tsv", "--share", "0.5"])
    assert "half.tsv: 2 of 4 utterances, confidence 0.8500 and above" in capsys.readouterr().out
    rows = list(read_manifest(Path("half.tsv")))
    assert [(row.id, row.text, row.split) for row in rows] == [("a", "two", "train"), ("c", "a six", "train")]
    assert rows[1].extra["confidence"] == "0.8500" and Path(rows[0].path).exists()
    pseudo_labels.main(["x.tsv", "json", "--out", "sure.tsv", "--least", "0.45"])
    assert [row.id for row in read_manifest(Path("sure.tsv"))] == ["a", "c", "b"], "an empty transcript is no label"
    with pytest.raises(InputError, match=r"no transcript has a confidence of 0.99; lower --least"):
        pseudo_labels.main(["x.tsv", "json", "--out", "y.tsv", "--least", "0.99"])
    Path("json/b.json").unlink()
    with pytest.raises(InputError, match=r"json/b.json is missing; transcribe these rows"):
        pseudo_labels.main(["x.tsv", "json", "--out", "y.tsv"])


def test_what_transcribe_writes_is_what_it_reads(ctc_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(Path("x.tsv"), *digits(4))
    cli.main(["transcribe", str(ctc_folder), "x.tsv", "--confidence", "0", "--format", "json", "--out", "json"])
    pseudo_labels.main(["x.tsv", "json", "--out", "pseudo.tsv"])
    for row in read_manifest(Path("pseudo.tsv")):
        assert row.text == json.loads(Path(f"json/{row.id}.json").read_text())["text"]
        assert 0 < float(row.extra["confidence"]) <= 1
