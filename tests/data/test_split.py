"""`split`: no speaker on two sides, the shares that were asked for, the same division for the same seed, nothing overwritten."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.split import split
from speechssl.data.tables import read_manifest
from tests.conftest import DATA, refused, write_table


def table(path: Path, speakers: int = 40, labels: str = "ab", seed: int = 0) -> Path:
    """Rows of speakers who say unequally much, each with one label (the gender, say)."""
    random = np.random.default_rng(seed)
    rows = []
    for speaker in range(speakers):
        for number in range(random.integers(5, 40)):
            row = {
                "id": f"{speaker}-{number}",
                "path": f"{speaker}/{number}.wav",
                "duration": round(random.uniform(1, 9), 2),
            }
            rows.append(row | {"speaker": f"s{speaker}", "label": labels[speaker % len(labels)], "text": "x"})
    return write_table(path, *rows)


def parts(path: Path, column: str) -> dict[str, Counter]:
    """Value of a column -> seconds in each split."""
    found: dict[str, Counter] = defaultdict(Counter)
    for row in read_manifest(path):
        found[getattr(row, column)][row.split] += row.duration
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_speaker_is_on_two_sides_and_the_shares_are_met(seed, tmp_path):
    source = table(tmp_path / "in.tsv", seed=seed)
    split([source], tmp_path / "x.tsv", dev="10%", test="0.2", seed=seed)
    assert {len(found) for found in parts(tmp_path / "x.tsv", "speaker").values()} == {1}
    seconds = sum(parts(tmp_path / "x.tsv", "text").values(), Counter())
    shares = {part: count / seconds.total() for part, count in seconds.items()}
    assert shares == {
        "train": pytest.approx(0.7, abs=0.02),
        "dev": pytest.approx(0.1, abs=0.02),
        "test": pytest.approx(0.2, abs=0.02),
    }
    before, after = (list(read_manifest(path)) for path in (source, tmp_path / "x.tsv"))
    assert [(row.id, row.path, row.text) for row in before] == [(row.id, row.path, row.text) for row in after]


def test_the_same_seed_is_the_same_division_in_any_order_of_rows(tmp_path):
    source = table(tmp_path / "in.tsv")
    lines = source.read_text().splitlines()
    (tmp_path / "back.tsv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    found = []
    for name, seed in (("in", 1), ("back", 1), ("in", 2)):
        split([tmp_path / f"{name}.tsv"], tmp_path / "x.tsv", seed=seed)
        found.append({row.id: row.split for row in read_manifest(tmp_path / "x.tsv")})
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("by", ["speaker", "id"])
def test_labels_are_spread_evenly(by, tmp_path):
    source = table(tmp_path / "in.tsv", speakers=80, labels="aaab")
    split([source], tmp_path / "x.tsv", by=by, stratify="label")
    for found in parts(tmp_path / "x.tsv", "label").values():
        assert found["dev"] / found.total() == pytest.approx(0.1, abs=0.03)
        assert found["test"] / found.total() == pytest.approx(0.1, abs=0.03)


def test_what_cannot_be_done_is_said(tmp_path):
    source = table(tmp_path / "in.tsv", speakers=4, labels="aaab")
    said = split([source], tmp_path / "x.tsv", stratify="label")
    assert "is not in dev or test" in said or "is not in train or" in said
    assert "label b" in said and "only 1 speakers have it" in said
    assert "instead of 10.0%: a speaker is never divided, and there are 4" in said
    counts = Counter(row.split for row in read_manifest(tmp_path / "x.tsv"))
    assert set(counts) == {"train", "dev", "test"}
    assert f"  train: {counts['train']} rows" in said


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"dev": "10"}, "--dev 10 is not a share; write 10% or 0.1"),
        ({"dev": "60%", "test": "40%"}, "leave nothing for train"),
        ({"by": "age"}, "no column 'age'"),
        ({"stratify": "nope"}, "no column 'nope'"),
        ({"by": "label"}, r"has 2 labels, too few for train, dev, test without one on two sides"),
    ],
    ids=str,
)
def test_slips(options, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint):
        split([table(tmp_path / "in.tsv")], tmp_path / "x.tsv", **options)
    assert not (tmp_path / "x.tsv").exists()


def test_unknown_speakers_are_refused_and_rows_can_be_divided(tmp_path):
    rows = [{"path": f"{number}.wav", "speaker": "anna" if number else ""} for number in range(40)]
    source = write_table(tmp_path / "in.tsv", *rows)
    with pytest.raises(InputError, match=r"in\.tsv: 1 of 40 rows have no speaker; .*--by id"):
        split([source], tmp_path / "x.tsv")
    said = split([source], tmp_path / "x.tsv", by="id", test="0%")
    assert "shares of rows, because not all durations are known" in said
    assert Counter(row.split for row in read_manifest(tmp_path / "x.tsv")) == {"train": 36, "dev": 4}


def test_a_split_that_is_there_is_not_overwritten(tmp_path, capsys):
    said = refused(capsys, "split", DATA / "fsdd.tsv", "--out", tmp_path / "x.tsv")
    assert "rows with a split already (1000 train, 250 test, 250 dev)" in said and "--again" in said
    cli.main(["split", str(DATA / "fsdd.tsv"), "--out", str(tmp_path / "x.tsv"), "--again", "--stratify", "label"])
    assert "test: 250 rows" in capsys.readouterr().out
    assert {len(found) for found in parts(tmp_path / "x.tsv", "speaker").values()} == {1}


def test_without_out_it_lies_here_and_replaces_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["split", str(table(tmp_path / "all.tsv"))])
    assert set(parts(tmp_path / "all.split.tsv", "split")) == {"train", "dev", "test"}
    capsys.readouterr()
    assert "all.split.tsv exists; name the file to write with --out" in refused(capsys, "split", tmp_path / "all.tsv")
