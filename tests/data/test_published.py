"""Folders as strangers have them: headers in plain text files, corpora as published, files of other programs."""

import io
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.core.errors import InputError
from speechssl.data.corpora import find
from speechssl.data.prepare import clock, inspect, prepare
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from tests.conftest import CLIP
from tests.data.test_folders import SPITE, WANT, clips, put, texts

SHARDS = [("train", 0), ("train", 1), ("test", 0)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("head", ["file\ttext", "Datei\tText"])
def test_a_text_file_whose_first_line_names_the_columns_is_a_table(head, encoding, tmp_path):
    clips(tmp_path, "a.wav", "b.wav")
    lines = [head, f"a.wav\t{WANT}", f"b.wav\t{SPITE}"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), encoding=encoding)
    assert texts(tmp_path) == {"a.wav": WANT, "b.wav": SPITE}


def test_the_first_line_of_a_table_is_never_a_row(tmp_path):
    """Half of its recordings are missing, so that the others may look like a list without column names."""
    clips(tmp_path, "a.wav")
    put(tmp_path / "t.csv", "path,text", f"a.wav,{WANT}", f"b.wav,{SPITE}")
    assert texts(tmp_path) == {"a.wav": WANT, "b.wav": SPITE}


def test_a_list_whose_first_recording_is_missing_is_a_list(tmp_path):
    clips(tmp_path, "a2.wav", "a3.wav")
    put(tmp_path / "list.txt", "a1.wav|one two", f"a2.wav|{WANT}", f"a3.wav|{SPITE}")
    assert texts(tmp_path) == {"a1.wav": "one two", "a2.wav": WANT, "a3.wav": SPITE}


def test_ted_lium_has_the_segments_of_its_stm_files(tmp_path):
    clips(tmp_path, "train/sph/Talk_2010.sph", "dev/sph/Other_2011.sph")
    put(
        tmp_path / "train/stm/Talk_2010.stm",
        ";; a comment",
        f"Talk_2010 1 Al 0.10 0.70 <o,f0,male> {WANT}",
        "Talk_2010 1 inter_segment_gap 0.70 0.80 <o,,unknown> ignore_time_segment_in_scoring",
        f"Talk_2010 1 Al 0.80 1 {SPITE}",
    )
    put(tmp_path / "dev/stm/Other_2011.stm", "Other_2011 1 Bo 0 0.5 <NA> one two")
    rows = [(row.speaker, row.start, round(row.duration, 3), row.text, row.split) for row in find(tmp_path).rows]
    assert rows == [
        ("Bo", 0, 0.5, "one two", "dev"),
        ("Al", 0.1, 0.6, WANT, "train"),
        ("Al", 0.8, 0.2, SPITE, "train"),
    ]


def test_a_damaged_stm_file_is_told(tmp_path):
    clips(tmp_path, "a.sph")
    put(tmp_path / "a.stm", "a 1 anna 0.1")
    assert "a.stm line 1 is not `file channel speaker start end text`" in find(tmp_path).left_out[0][1]


def test_a_sentence_of_timit_is_not_a_label_of_htk(tmp_path):
    clips(tmp_path, "TRAIN/DR1/FCJF0/SA1.WAV", "TEST/DR1/MABC0/SA2.WAV")
    put(tmp_path / "TRAIN/DR1/FCJF0/SA1.TXT", "0 46797 She had your dark suit.")
    put(tmp_path / "TEST/DR1/MABC0/SA2.TXT", "0 30000 Don't ask me.")
    rows = [(row.text, row.split, row.start, row.speaker) for row in find(tmp_path).rows]
    assert rows == [
        ("Don't ask me.", "test", 0, "DR1/MABC0"),
        ("She had your dark suit.", "train", 0, "DR1/FCJF0"),
    ]


def test_folders_of_splits_count_below_others_and_beside_a_table_too(tmp_path):
    clips(tmp_path, "AISHELL/wav/train/S1/B1.wav", "AISHELL/wav/test/S2/B2.wav")
    put(tmp_path / "AISHELL/transcript/transcript.txt", f"B1 {WANT}", f"B2 {SPITE}")
    assert {row.id: row.split for row in find(tmp_path).rows} == {"B1": "train", "B2": "test"}
    (tmp_path / "AISHELL/transcript/transcript.txt").unlink()
    assert {row.split for row in find(tmp_path).rows} == {"train", "test"}


def test_libritts_has_its_speakers_and_splits(tmp_path):
    clips(tmp_path, "train-clean-100/103/1241/103_1241_000_001.wav", "test-clean/7/11/7_11_000_001.wav")
    put(tmp_path / "train-clean-100/103/1241/103_1241.trans.tsv", f"103_1241_000_001\t{WANT}\t{WANT.lower()}")
    put(tmp_path / "test-clean/7/11/7_11.trans.tsv", f"7_11_000_001\t{SPITE}\t{SPITE.lower()}")
    rows = [(row.speaker, row.split, row.text) for row in find(tmp_path).rows]
    assert sorted(rows) == [("103", "train", WANT.lower()), ("7", "test", SPITE.lower())]


def test_texts_of_a_kaldi_folder_with_pipes_find_the_files_of_the_same_names(tmp_path):
    clips(tmp_path, "sph/a.sph", "sph/b.sph")
    put(tmp_path / "train/wav.scp", *[f"{name} sph2pipe -f wav -p -c 1 /corpora/{name}.sph |" for name in "ab"])
    put(tmp_path / "train/text", f"a {WANT}", f"b {SPITE}")
    found = find(tmp_path)
    assert {row.id: row.text for row in found.rows} == {"a": WANT, "b": SPITE}
    assert "a is a shell pipe" in " ".join(found.described())


def test_what_is_not_opened_is_named_and_not_counted_as_of_no_use(tmp_path):
    clips(tmp_path, "wav/a.wav", "b.wav")
    put(tmp_path / "list.xlsx", "PK")
    put(tmp_path / "clips.tar.gz", "x")
    put(tmp_path / "txt/a.mlf", "x")
    put(tmp_path / "b.wav.phones", "x")
    put(tmp_path / "README.md", "x")
    found = find(tmp_path)
    notes = " ".join(found.notes)
    assert f"not opened: 1 file such as {tmp_path / 'list.xlsx'} (save workbooks as CSV)" in notes
    assert f"not opened: 1 file such as {tmp_path / 'clips.tar.gz'} (unpack archives)" in notes
    assert "not read: 1 .mlf file beside the audio" in notes and "1 .phones file" in notes
    assert found.ignored.total() == 3


def test_a_table_without_recordings_is_named_in_a_short_line_and_many_in_one(tmp_path):
    clips(tmp_path, "a.wav", *[f"{part}/x{part}.wav" for part in range(6)])
    put(tmp_path / "speakers.tsv", "READER\tGENDER", "103\tF")
    for part in range(6):
        put(tmp_path / f"{part}/t.tsv", "path\ttext", f"x{part}.wav\t{WANT}")
        put(tmp_path / f"{part}/notes.tsv", "who\twhen", "anna\tMay")
    told = find(tmp_path).described()
    assert f"table: 6 rows of 6 tables such as {tmp_path / '0/t.tsv'}" in told
    unread = [line for line in told if "is not read" in line]
    assert len(unread) == 1 and unread[0].endswith("nor are 6 tables like it")


def test_transcripts_beside_the_rows_of_a_table_are_named(tmp_path):
    clips(tmp_path, "a.wav")
    put(tmp_path / "a.normalized.txt", WANT.lower())
    put(tmp_path / "t.tsv", "path\ttext", f"a.wav\t{WANT}")
    assert "not read: 1 .txt file beside the audio (no text, or" in find(tmp_path).notes[0]


@pytest.mark.parametrize(
    "begin", ["C:\\\\Users\\\\ada\\\\corpus\\\\", "\\\\\\\\server\\\\share\\\\", "D:/speech/", "file:///C:/speech/"]
)
def test_paths_of_a_windows_machine_find_the_files_that_were_copied_with_the_table(begin, tmp_path, capsys):
    clips(tmp_path, "wav/a.wav", "wav/b.wav")
    begin = begin.replace("\\\\", "\\")
    put(tmp_path / "t.csv", "path,text", f"{begin}wav\\a.wav,{WANT}", f"{begin}wav\\b.wav,{SPITE}")
    assert {row.path: row.text for row in read_manifest(tmp_path / "t.csv")} == {
        str(tmp_path / "wav/a.wav"): WANT,
        str(tmp_path / "wav/b.wav"): SPITE,
    }
    assert "is not here" in capsys.readouterr().err
    assert texts(tmp_path) == {"wav/a.wav": WANT, "wav/b.wav": SPITE}


def test_common_voice_has_whole_speakers_and_its_other_columns_as_its_tables_by_themselves(tmp_path):
    head = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tage\tgender\tvariant\tlocale\tsegment"
    clips(tmp_path, "clips/cv_1.mp3", "clips/cv_2.mp3")
    for split, number in (("train", 1), ("test", 2)):
        put(
            tmp_path / f"{split}.tsv",
            head,
            f"{'a' * 60}{number}\tcv_{number}.mp3\tx\t{WANT}\t\t2\tteens\tfemale\t\tsw\t",
        )
    put(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "cv_1.mp3\t3000")
    put(tmp_path / "validated_sentences.tsv", "sentence_id\tsentence", "x\ty")
    found = find(tmp_path)
    first = next(row for row in found.rows if row.split == "train")
    assert not found.notes and not found.ignored
    alone = read_manifest(tmp_path / "train.tsv")[0]
    assert (first.speaker, first.text, first.path) == (alone.speaker, alone.text, alone.path)
    assert first.extra == alone.extra and first.extra["gender"] == "female"


def test_a_file_that_git_annex_keeps_once_more_is_one_recording(tmp_path):
    key = (
        clips(tmp_path, ".git/annex/objects/ab/MD5E-s1--c.wav/MD5E-s1--c.wav") / ".git/annex/objects/ab/MD5E-s1--c.wav"
    )
    os.symlink(key / "MD5E-s1--c.wav", tmp_path / "a.wav")
    summary = prepare(tmp_path, tmp_path / "out/x.tsv", jobs=1)
    assert (summary.kept, summary.passed) == (1, {"hidden folders": 1})
    (tmp_path / ".hidden").mkdir()
    shutil.copy(CLIP, tmp_path / ".hidden/b.wav")
    assert len(find(tmp_path / ".hidden").rows) == 1


def test_rows_that_say_more_than_their_file_holds_are_told(tmp_path):
    clips(tmp_path, "a.wav")
    length = audio.info(CLIP).duration
    rows = [f"long\ta.wav\t0\t{length + 1}", f"fits\ta.wav\t0\t{length + 0.01}", f"late\ta.wav\t{length + 5}\t1"]
    put(tmp_path / "t.tsv", "id\tpath\tstart\tduration", *rows)
    summary = prepare(tmp_path / "t.tsv", tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, summary.longer) == (2, 1)
    assert "1 row with a duration beyond the end of the file" in str(summary)
    assert "1 rejected: starts behind the end of its file" in str(summary)


def test_equal_paths_without_ids_need_times_and_not_other_ids(tmp_path):
    clips(tmp_path, "a.wav")
    put(tmp_path / "t.csv", "path,text", f"a.wav,{WANT}", f"a.wav,{SPITE}")
    with pytest.raises(
        InputError, match=r"same id 'a\.wav'; ids must differ: remove one of them, or add the columns start"
    ):
        read_manifest(tmp_path / "t.csv")


def test_a_page_called_mp3_is_said_to_be_no_audio(tmp_path):
    page = put(tmp_path / "a.mp3", "<!DOCTYPE html><html>404</html>")
    assert inspect(str(page))["reason"].startswith("cannot be used (cannot be decoded (Format not recognised)")


@pytest.mark.parametrize("seconds, said", [(8.4, "8.4 s"), (738, "12.3 min"), (3_457_476, "960.41 h")])
def test_lengths_are_told_in_a_unit_of_their_size(seconds, said):
    assert clock(seconds) == said


@pytest.mark.parametrize("name", ["c.flac", None])
def test_shards_whose_clips_have_the_same_names_keep_their_own_audio(name, tmp_path):
    """Parquet as on the Hugging Face hub: many files, in which every clip may be called audio.wav, or nothing."""
    waves = {f"{part} {number}": audio.load(CLIP)[1000 * k :][:8000] for k, (part, number) in enumerate(SHARDS)}
    for part, number in SHARDS:
        data = io.BytesIO()
        soundfile.write(data, waves[f"{part} {number}"], 16_000, format="FLAC")
        clip = {"bytes": data.getvalue(), "path": name}
        (tmp_path / "in/data").mkdir(parents=True, exist_ok=True)
        table = pa.table({"audio": [clip, clip], "sentence": [f"{part} {number}"] * 2})
        pq.write_table(table, tmp_path / f"in/data/{part}-0000{number}-of-00002.parquet")
    for _ in range(2):  # a second run finds the same files
        prepare(tmp_path / "in", tmp_path / "x.tsv", jobs=1)
        rows = read_manifest(tmp_path / "x.tsv")
        assert len(rows) == 6 and len(list((tmp_path / "x.audio").iterdir())) == 6
        for row in rows:
            np.testing.assert_allclose(audio.load(row.path), waves[row.text], atol=1e-4)


def test_tables_that_cut_the_same_recording_keep_their_rows(tmp_path):
    clips(tmp_path, "wav/meeting.wav", "wav/other.wav")
    put(tmp_path / "train.csv", "path,start,end,text", "wav/meeting.wav,0,0.5,one", "wav/other.wav,0,0.5,two")
    put(tmp_path / "test.csv", "path,start,end,text", "wav/meeting.wav,0.5,0.9,three", "wav/other.wav,0,0.5,two")
    found = find(tmp_path)
    assert {row.text: row.split for row in found.rows} == {"one": "train", "two": "test", "three": "test"}
    assert "1 row of" in " ".join(found.notes) and "another part has them already" in " ".join(found.notes)


def test_json_beside_a_recording_has_its_segments_or_its_text(tmp_path):
    clips(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    segments = [
        {"id": 0, "start": 0, "end": 0.5, "text": " one", "speaker": "S1"},
        {"start": 0.5, "end": 0.9, "text": "two"},
    ]
    put(tmp_path / "a.json", json.dumps({"text": " one two", "segments": segments, "language": "en"}))
    put(tmp_path / "b.json", json.dumps({"transcription": WANT, "speaker": "anna", "label": None}))
    put(tmp_path / "c.json", json.dumps({"gain": 3}))
    put(tmp_path / "d.json", json.dumps({"text": "by a machine"}))
    put(tmp_path / "d.txt", SPITE)
    found = find(tmp_path)
    rows = {row.id: (row.text, row.speaker) for row in found.rows}
    assert rows == {
        "a.wav@0": ("one", "S1"),
        "a.wav@0.5": ("two", ""),
        "b.wav": (WANT, "anna"),
        "c.wav": ("", ""),
        "d.wav": (SPITE, ""),
    }
    notes = " ".join(found.notes)
    assert "not read: 1 .json file beside the audio" in notes and "not of .json files there" in notes


@pytest.mark.parametrize("name, remedy", [("a.pcm", "ffmpeg -f s16le"), ("clips.tar", "unpack archives")])
def test_a_folder_of_raw_samples_or_archives_says_what_to_do(name, remedy, tmp_path):
    put(tmp_path / name, "x")
    with pytest.raises(InputError, match=rf"holds no audio; .*{remedy}"):
        find(tmp_path)


def test_a_pipe_is_called_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"a\.wav is a pipe, and files are read more than once"):
        audio.load(tmp_path / "a.wav")


def test_a_table_by_itself_finds_clips_that_were_converted(tmp_path, capsys):
    """Common Voice's tables name mp3; many people keep wav."""
    clips(tmp_path, "clips/cv_1.wav", "clips/cv_2.wav", "clips/cv_3.mp3")
    put(tmp_path / "t.tsv", "path\tsentence", *[f"cv_{number}.mp3\t{WANT}" for number in (1, 2, 3)])
    paths = [row.path for row in read_manifest(tmp_path / "t.tsv")]
    assert paths == [str(tmp_path / f"clips/{name}") for name in ("cv_1.wav", "cv_2.wav", "cv_3.mp3")]
    assert "cv_1.mp3 is not here, cv_1.wav is" in capsys.readouterr().err


def test_a_table_called_as_texts_are_comes_before_others_and_doubles_are_told_in_one_line(tmp_path):
    clips(tmp_path, "train/7/1/7_1_001.wav", "train/7/2/7_2_001.wav")
    for chapter in (1, 2):
        put(tmp_path / f"train/7/{chapter}/7_{chapter}.book.tsv", f"7_{chapter}_001\tof the book\t12")
        put(tmp_path / f"train/7/{chapter}/7_{chapter}.trans.tsv", f"7_{chapter}_001\t{WANT}\t{WANT.lower()}")
    found = find(tmp_path)
    assert {row.text for row in found.rows} == {WANT.lower()}
    assert [note for note in found.notes if "2 rows of 2 tables such as" in note]
