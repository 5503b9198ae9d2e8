"""CREMA-D's published facts: human figures, and copies that are damaged in different ways."""

import hashlib

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import InputError
from speechssl.data import cremad_table
from speechssl.data.cremad import EMOTIONS, heard_by_people, missing, read_crema_d
from tests.conftest import DATA

NAMES = [f"1001_DFA_{emotion}_XX" for emotion in EMOTIONS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six clips with real speech, which are the published ones as far as a table made for the test knows."""
    sizes, digests = [], []
    for name, source in zip(NAMES, sorted((DATA / "fsdd").glob("*.flac"))[::200], strict=False):
        wave, rate = soundfile.read(source)
        soundfile.write(tmp_path / f"{name}.wav", np.repeat(wave, 2), 2 * rate)
        data = (tmp_path / f"{name}.wav").read_bytes()
        sizes.append(len(data))
        digests.append(hashlib.md5(data).hexdigest())
    rows = {name: row for row, name in enumerate(NAMES)}
    votes = np.array(
        [[5, 1, 0, 0, 2, 0], [2, 2, 0, 0, 0, 0], [0, 0, 1, 0, 3, 0], [0, 0, 0, 4, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 9]]
    )
    own = cremad_table.Table(rows, digests, np.array(sizes), votes)
    monkeypatch.setattr(cremad_table, "table", lambda: own)
    return tmp_path


def faults_of(folder) -> list[str]:
    """The notes on files, without those on what is missing."""
    return [note for note in missing(folder) if "of CREMA-D's" not in note]


def test_the_published_files_have_no_fault(folder):
    assert faults_of(folder) == []


def test_each_damage_is_told_from_the_others(folder):
    wave, rate = soundfile.read(folder / f"{NAMES[0]}.wav")
    soundfile.write(folder / f"{NAMES[0]}.wav", wave, rate, "PCM_24")
    (folder / f"{NAMES[1]}.wav").write_bytes((folder / f"{NAMES[2]}.wav").read_bytes())
    wave, rate = soundfile.read(folder / f"{NAMES[3]}.wav")
    soundfile.write(folder / f"{NAMES[3]}.wav", wave[: len(wave) // 3], rate)
    (folder / f"{NAMES[4]}.wav").write_bytes(b"RIFF\0\0\0\0WAVEnothing")
    (folder / f"{NAMES[5]}.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    notes = "; ".join(faults_of(folder))
    for said in (
        "1 clips are git-lfs pointers",
        "1 of 5 files are byte for byte the published ones",
        f"1 copies in another encoding, or with other samples, as long as the published ones: {NAMES[0]}.wav",
        f"1 wavs that are the recording of another clip: {NAMES[1]}.wav",
        f"1 files that are longer or shorter than the published ones: {NAMES[3]}.wav",
        f"1 files that cannot be read: {NAMES[4]}.wav",
    ):
        assert said in notes


def test_votes_become_columns_and_listeners_are_scored(folder):
    rows = {row.id: row for row in read_crema_d(sorted(folder.iterdir()), folder)}
    assert [rows[NAMES[0]].extra[f"votes_{name}"] for name in EMOTIONS.values()] == ["5", "1", "0", "0", "2", "0"]
    assert "of 50.0% of the clips" in heard_by_people(NAMES)  # 1 tie, 1 wrong, 1 without votes
    assert f"a single vote {(5 + 2 + 1 + 4 + 9) / 29:.1%}" in heard_by_people(NAMES)


def test_the_whole_corpus_as_its_readme_says():
    names = [name for name in cremad_table.table().rows if name not in cremad_table.TWO_NAMES]
    assert len(names) == 7_442
    assert "41.6% of the clips (ties counted wrong), a single vote 40.0%" in heard_by_people(names)


def test_pointers_alone_are_refused(tmp_path):
    (tmp_path / f"{NAMES[0]}.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        missing(tmp_path)
