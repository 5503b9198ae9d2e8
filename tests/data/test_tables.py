"""The same two rows as every program writes them are read alike, recognised by their content."""

import json
import os
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.columns import Reading, parse_columns
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from tests.conftest import CLIP, DATA, refused

WRITTEN = Path(__file__).parent / "tables"  # by datasets and lhotse, see write.py there
TEXTS = ['"SEVEN", she said; well', "three"]
ROWS = [("a.flac", TEXTS[0], "theo", "angry"), ("b.flac", TEXTS[1], "george", "calm")]
FRAME = pd.DataFrame(
    {
        "File Name": ["a.flac", "b.flac"],
        "sentence": TEXTS,
        "client_id": ["theo", "george"],
        "Emotion": ["angry", "calm"],
    }
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: two spoken digits, a.flac and b.flac."""
    shutil.copy(DATA / "fsdd" / "7_theo_0.flac", tmp_path / "a.flac")
    shutil.copy(DATA / "fsdd" / "3_george_1.flac", tmp_path / "b.flac")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(rows: Manifest, folder: Path) -> list[tuple[str, str, str, str]]:
    """Path below the folder, text, speaker and label of each row."""
    return [(str(Path(row.path).relative_to(folder)), row.text, row.speaker, row.label) for row in rows]


PANDAS = {
    "comma": lambda p: FRAME.to_csv(p),
    "semicolon": lambda p: FRAME.to_csv(p, sep=";", index=False),
    "tab": lambda p: FRAME.to_csv(p, sep="\t", index=False),
    "bar": lambda p: FRAME.to_csv(p, sep="|"),
    "all quoted": lambda p: FRAME.to_csv(p, quoting=1),
    "single quotes": lambda p: FRAME.to_csv(p, quoting=1, quotechar="'", index=False),
    "backslashes": lambda p: FRAME.to_csv(p, doublequote=False, escapechar="\\"),
    "with a mark": lambda p: FRAME.to_csv(p, encoding="utf-8-sig", lineterminator="\r\n"),
    "old Mac": lambda p: FRAME.to_csv(p, lineterminator="\r"),
    "utf-16": lambda p: FRAME.to_csv(p, sep="\t", encoding="utf-16"),
    "gzip": lambda p: FRAME.to_csv(p, compression="gzip"),
    **{
        f"json {orient}": lambda p, orient=orient: FRAME.to_json(p, orient=orient)
        for orient in ("records", "columns", "index", "split", "table")
    },
    "json lines": lambda p: FRAME.to_json(p, orient="records", lines=True),
    "json indented": lambda p: FRAME.to_json(p, orient="records", indent=2),
    "parquet": lambda p: FRAME.to_parquet(p),
    "feather": lambda p: FRAME.to_feather(p),
}


@pytest.mark.parametrize("name", PANDAS)
def test_what_pandas_writes(name, folder):
    """Under an ending that says nothing."""
    PANDAS[name](folder / "table.dat")
    assert of(read_manifest(folder / "table.dat"), folder) == ROWS


@pytest.mark.parametrize(
    "name", ["digits_recordings_train.jsonl.gz", "digits_supervisions_train.jsonl.gz", "cuts.jsonl.gz"]
)
def test_what_lhotse_writes(name, folder):
    shutil.copytree(WRITTEN, folder, dirs_exist_ok=True)
    rows = read_manifest(folder / name)
    assert of(rows, folder) == ROWS
    assert rows.durations.tolist() == [0.4285, 0.499375] and rows.starts.tolist() == [0, 0]


def test_recordings_of_lhotse_alone_and_what_only_lhotse_can_do(folder):
    shutil.copytree(WRITTEN, folder, dirs_exist_ok=True)
    assert of(read_manifest(folder / "recordings.json"), folder) == [(name, "", "", "") for name, *_ in ROWS]
    for name, complaint in (
        ("faster.jsonl", "changed by lhotse \\(Speed\\)"),
        ("mixed.jsonl", "mixed of several cuts"),
    ):
        with pytest.raises(InputError, match=f"{name}.* is {complaint}.*; save its audio first: cuts.save_audios"):
            read_manifest(folder / name)
    (folder / "digits_recordings_train.jsonl.gz").unlink()
    with pytest.raises(InputError, match="holds supervisions, and no recordings lie beside it; put them there"):
        read_manifest(folder / "digits_supervisions_train.jsonl.gz")


def test_segments_and_channels_of_lhotse(folder):
    """By hand after lhotse's documentation: a call of two channels, a supervision in each."""
    source = {"type": "file", "channels": [0, 1], "source": "call.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 8000, "num_samples": 32000, "duration": 4.0}
    parts = [{"id": f"u{c}", "recording_id": "r", "start": 0.5 + c, "duration": 1.0, "channel": c} for c in (0, 1)]
    cut = {"id": "c", "start": 1.0, "duration": 2.0, "channel": [0, 1], "supervisions": parts, "recording": recording}
    Path("recordings.jsonl").write_text(json.dumps(recording))
    Path("supervisions.jsonl").write_text("".join(json.dumps(part) + "\n" for part in parts))
    Path("cuts.jsonl").write_text(json.dumps(cut))
    first, second = read_manifest("recordings.jsonl")
    assert (first.start, first.duration, first.channel) == (0.5, 1.0, "0")
    assert (second.start, second.duration, second.channel) == (1.5, 1.0, "1")
    first, second = read_manifest("cuts.jsonl")
    assert (first.id, first.start, first.duration) == ("u0", 1.5, 1.0)
    assert (second.id, second.start, second.duration) == ("u1", 2.5, 0.5)  # up to the end of the cut
    source["type"] = "command"
    Path("recordings.jsonl").write_text(json.dumps(recording))
    with pytest.raises(InputError, match=r"u0 is the output of a command, not a file; .* commands are not run"):
        read_manifest("recordings.jsonl")


@pytest.mark.parametrize("name", ["embedded.parquet", "saved"])
def test_audio_inside_a_table_of_datasets_is_written_into_files(name, folder, capsys):
    shutil.copytree(WRITTEN, folder / "in")
    prepare(folder / "in" / name, folder / "out" / "x.tsv", jobs=1)
    rows = read_manifest(folder / "out" / "x.tsv")
    assert of(rows, folder / "out" / "x.audio") == ROWS
    assert [Path(row.path).read_bytes() for row in rows] == [Path(f"{c}.flac").read_bytes() for c in "ab"]
    assert rows.durations.tolist() == pytest.approx([0.4285, 0.499375], abs=1e-3)
    assert rows.column("id") == ["a", "b"]
    (folder / "out" / "x.audio" / "b.flac").write_bytes(bytes(5830))  # of another table
    prepare(folder / "in" / name, folder / "out" / "x.tsv", jobs=1, columns=["id="])
    assert read_manifest(folder / "out" / "x.tsv").column("id") == ["a.flac", "b.flac"]
    assert (folder / "out" / "x.audio" / "b.flac").read_bytes() == Path("b.flac").read_bytes()
    said = refused(capsys, "split", folder / "in" / name, "--out", "c.tsv")
    assert "row 1 holds the audio itself; write it into files first: `speechssl prepare" in said


SPEECHBRAIN = """ID, duration, wav, start, stop, spk_id, wrd
u1, 0.4285, {data_root}/a.flac, 800, 2400, theo, seven
u2, 0.4285, $data_root/a.flac, , , theo, seven
"""
LJSPEECH = 'a|"SEVEN|"Seven\nb|THREE|three, "he said"\n'
BY_HAND = {  # after the documentation of the program that owns the format; (id, start, duration, text) of the rows
    "speechbrain.csv": (SPEECHBRAIN, [("u1", 0.1, 0.2, "seven"), ("u2", 0.0, 0.4285, "seven")]),
    "speechbrain.json": (
        '{"u1": {"wav": "{data_root}/a.flac", "length": 0.4285, "words": "SEVEN"},\n "u2": {"wav": "b.flac", "words": "X"}}',
        [("u1", 0.0, 0.4285, "SEVEN"), ("u2", 0.0, None, "X")],
    ),
    "parts.json": (
        '{"u1": {"wav": {"file": "a.flac", "start": 800, "stop": 2400}, "duration": 0.2, "words": "SEVEN"}}',
        [("u1", 0.1, 0.2, "SEVEN")],
    ),
    "nemo.json": (
        '{"audio_filepath": "a.flac", "duration": 0.3, "text": "seven", "offset": 0.1}\n{"audio_filepath": "b.flac"}\n',
        [("a.flac@0.1", 0.1, 0.3, "seven"), ("b.flac", 0.0, None, "")],
    ),
    "metadata.csv": ("file_name,transcription\na.flac,seven\n", [("a.flac", 0.0, None, "seven")]),
    "metadata.jsonl": ('{"file_name": "a.flac", "transcription": "seven"}\n', [("a.flac", 0.0, None, "seven")]),
    "ljspeech.csv": (LJSPEECH, [("a", 0.0, None, '"Seven'), ("b", 0.0, None, 'three, "he said"')]),
    "files.txt": ("a.flac\nb.flac\n", [("a.flac", 0.0, None, ""), ("b.flac", 0.0, None, "")]),
    "deepspeech.csv": ("wav_filename,wav_filesize,transcript\na.flac,3666,seven\n", [("a.flac", 0.0, None, "seven")]),
    "excel.csv": ("sep=;\npath;start;end;text\na.flac;0,1;0,3;seven\n", [("a.flac@0.1", 0.1, 0.2, "seven")]),
    "audacity.csv": ("file,onset,offset\na.flac,0.1,0.3\n", [("a.flac@0.1", 0.1, 0.2, "")]),
    "units.tsv": ("path\tstart_ms\tend (ms)\na.flac\t100\t300\n", [("a.flac@0.1", 0.1, 0.2, "")]),
    "whole.tsv": ("path\tstart\tend\na.flac\t0.1\t-1\n", [("a.flac@0.1", 0.1, None, "")]),
    "common_voice.tsv": (
        'client_id\tpath\tsentence\tup_votes\nx\ta.flac\t"So," he said.\t2\ny\tb.flac\tGo "there"\t2\n',
        [("a.flac", 0.0, None, '"So," he said.'), ("b.flac", 0.0, None, 'Go "there"')],
    ),
    "breaks.csv": (
        'path,text\na.flac,"one\ntwo, three"\nb.flac,x\n',
        [("a.flac", 0.0, None, "one two, three"), ("b.flac", 0.0, None, "x")],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_formats_by_hand(name, folder):
    text, expected = BY_HAND[name]
    Path(name).write_text(text)
    found = [(r.id, r.start, None if np.isnan(r.duration) else r.duration, r.text) for r in read_manifest(name)]
    assert [row[0::3] for row in found] == [row[0::3] for row in expected]
    for (_, *times, _), (_, *right, _) in zip(found, expected, strict=True):
        assert times == pytest.approx(right)


def test_a_split_file_of_common_voice_names_clips_without_folder_and_ending(folder):
    (folder / "clips").mkdir()
    shutil.move("a.flac", "clips/a.mp3")
    Path("train.tsv").write_text("client_id\tpath\tsentence\nx\tgone\t1\ny\ta\t2\nz\tb.mp3\t3\n")
    rows = read_manifest("train.tsv")
    assert [Path(path) for path in rows.column("path")] == [Path("gone"), Path("clips/a.mp3"), Path("clips/b.mp3")]


def test_samples_of_speechbrain_are_counted_at_the_rate_of_the_file(folder):
    soundfile.write("c.wav", np.zeros(44_100), 44_100)
    Path("x.csv").write_text("ID,duration,wav,start,stop\nu,1.0,c.wav,22050,44100\n")
    assert [(row.start, row.duration) for row in read_manifest("x.csv")] == [(0.5, 0.5)]


def test_kaldi_ends_channels_and_lines_that_would_be_lost(folder):
    soundfile.write("call.wav", np.zeros((16_000, 2)), 8000)
    (folder / "data").mkdir()
    files = {
        "wav.scp": "r-A call.wav\nr-B call.wav\n",
        "reco2file_and_channel": "r-A call A\nr-B call B\n",
        "segments": "u1 r-A 0.5 1.0\nu2 r-B 0.5 -1\n",
        "text": "u1 hi\nu2 you\n",
    }
    for name, text in files.items():
        (folder / "data" / name).write_text(text)
    for source in ("data", "data/wav.scp"):
        first, second = read_manifest(source)
        assert (first.start, first.duration, first.channel, first.text) == (0.5, 0.5, "0", "hi")
        assert (second.start, str(second.duration), second.channel) == (0.5, "nan", "1")
    (folder / "data" / "segments").write_text("u1 r-A 0.5 1.0 1\n")
    assert read_manifest("data")[0].channel == "1"
    for name, text, complaint in (
        ("text", "u1 hi\nu2 a\nu1 you\n", "text: lines 1 and 3 both begin with u1; remove one of them"),
        ("wav.scp", "r-A raw.1.ark:26\n", "r-A lies in an archive of Kaldi"),
        ("segments", "u1 r-A 1.0 0.5\n", "end after the start, or -1; correct the line"),
    ):
        old = (folder / "data" / name).read_text()
        (folder / "data" / name).write_text(text)
        with pytest.raises(InputError, match=complaint):
            read_manifest("data")
        (folder / "data" / name).write_text(old)


def test_a_segment_of_kaldi_that_ends_with_its_recording_is_prepared(folder):
    soundfile.write("rec.wav", np.tile(soundfile.read(CLIP)[0], 2), 16_000)
    (folder / "k").mkdir()
    Path("k/wav.scp").write_text("rec rec.wav\n")
    Path("k/segments").write_text("u1 rec 0 2.045\nu2 rec 2.045 -1\n")
    prepare(folder / "k", folder / "x.tsv", jobs=1)
    assert read_manifest("x.tsv").durations.tolist() == [2.045, 2.045]


def test_columns_may_be_named(folder):
    Path("x.csv").write_text("sound,said,text,who\na.flac,seven,7,theo\n")
    call = ["prepare", "x.csv", "--out", "o/x.tsv", "--columns", "path=sound", "text=said", "--columns", "speaker=who"]
    cli.main(call)
    row = read_manifest("o/x.tsv")[0]
    assert (row.text, row.speaker, row.extra) == ("seven", "theo", {"other_text": "7"})


def test_columns_that_cannot_be_named_so(folder, capsys):
    Path("x.csv").write_text("path,text,id\na.flac,seven,1\nb.flac,three,1\n")
    call = ["prepare", "x.csv", "--out", "o/x.tsv", "--columns"]
    assert "--columns says=text: give OURS=THEIRS" in refused(capsys, *call, "says=text")
    assert "x.csv has no column 'said' for text; it has: path, text, id" in refused(capsys, *call, "text=said")
    assert "have the same id '1'" in refused(capsys, *call[:-1])
    cli.main([*call, "id="])
    assert read_manifest("o/x.tsv").column("id") == ["a.flac", "b.flac"]
    cli.main([*call, "id=text"])
    assert read_manifest("o/x.tsv").column("id") == ["seven", "three"]
    assert read_manifest("o/x.tsv").column("text") == ["seven", "three"]
    said = refused(capsys, "prepare", DATA / "kerstin", "--out", "o/y.tsv", "--columns", "text=said")
    assert "--columns says what a table means" in said


def test_other_encodings_are_read_when_named(folder, capsys):
    Path("x.csv").write_bytes("path,text\nb.flac,drei\na.flac,für Übung\n".encode("latin-1"))
    said = refused(capsys, "prepare", "x.csv", "--out", "o/x.tsv")
    assert "at byte 30, line 3)" in said and "`speechssl prepare ... --encoding latin-1`" in said
    cli.main(["prepare", "x.csv", "--out", "o/x.tsv", "--encoding", "latin-1"])
    assert read_manifest("o/x.tsv").column("text") == ["drei", "für Übung"]
    said = refused(capsys, "prepare", "x.csv", "--out", "o/x.tsv", "--encoding", "latim")
    assert "there is no encoding 'latim'; name the right one with --encoding: latin-1" in said


@pytest.mark.parametrize("written, stored", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_meet_however_their_accents_are_spelled(written, stored, folder):
    name = "Été/naïve façade.flac"
    place = folder / normalize(stored, name)
    place.parent.mkdir()
    shutil.move("a.flac", place)
    Path("x.tsv").write_text(f"path\n{normalize(written, name)}\nb.flac\n", encoding="utf-8")
    assert read_manifest(folder / "x.tsv")[0].path == str(place)
    assert prepare(folder / "x.tsv", folder / "y.tsv", jobs=1).kept == 2


def test_paths_of_other_programs(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "sub dir").mkdir()
    shutil.copy("a.flac", "sub dir/a.flac")
    names = ["sub dir\\a.flac", f"file://{folder}/sub%20dir/a.flac", "~/sub dir/a.flac", "~b.flac"]
    shutil.move("b.flac", "~b.flac")
    write = [Utterance(id=str(n), path=name) for n, name in enumerate(names)]
    Path("x.tsv").write_text("id\tpath\n" + "".join(f"{row.id}\t{row.path}\n" for row in write))
    assert [Path(path).is_file() for path in read_manifest("x.tsv").column("path")] == [True] * 4


def test_absolute_paths_of_another_machine_are_found_by_their_ends_and_told(folder, capsys):
    (folder / "wav").mkdir()
    shutil.move("a.flac", "wav/a.flac")
    Path("x.csv").write_text("path\n/Corpus/train/wav/none.flac\n/Corpus/train/wav/a.flac\n/Corpus/train/b.flac\n")
    assert [Path(path).is_file() for path in read_manifest("x.csv").column("path")] == [False, True, True]
    assert capsys.readouterr().err.startswith("/Corpus/train/ is not here; the files of the table are those in .")


def test_equal_ids_in_two_tables_are_named_with_both_places(folder):
    Path("x.csv").write_text("id,path\n1,a.flac\n2,b.flac\n")
    Path("y.json").write_text('[{"id": 2, "path": "b.flac"}]')
    with pytest.raises(InputError, match=r"row 2 of x\.csv and row 1 of y\.json have the same id '2'"):
        read_manifest("x.csv", "y.json")


def test_a_pipe_is_not_read_half(folder):
    os.mkfifo("x.tsv")
    with pytest.raises(InputError, match=r"x\.tsv is no plain file, and tables are read more than once"):
        read_manifest("x.tsv")


@pytest.mark.parametrize(
    "name, data, complaint",
    [
        ("x.json", b'{"a": {"path": "a"}, "a": {"path": "b"}}', r"x\.json is not JSON \(the name 'a' stands twice"),
        ("x.json", b'{"a": 1,\n "b": 2}', r"x\.json holds no objects with a path each"),
        ("x.json", b'[{"path": "a"}, 3]', r"x\.json holds no objects with a path each"),
        ("x.json", b'[{"audio": {"array": [0.1], "path": "a"}}]', r"x\.json: 1 holds samples instead of a file"),
        ("x.json", b'[{"path": "a"', r"x\.json is not JSON"),
        ("x.parquet", b"PAR1 and no more", r"x\.parquet cannot be read .*; it is damaged, copy it again"),
        ("x.xlsx", b"PK\x03\x04\0\0", r"x\.xlsx is a workbook or an archive; save the table as CSV"),
        ("x.csv", "path,text\na,b\n".encode("utf-16-le"), r"x\.csv is not a table of text; .*--encoding utf-16-le"),
        ("x.csv.gz", b"\x1f\x8b\x08\0broken", r"x\.csv\.gz cannot be unpacked"),
        ("x.wav", b"RIFF", r"x\.wav is named as audio, and this takes a table"),
        ("x.txt", b"a.flac|1|2|3\n", r"x\.txt line 1 has 4 fields and nothing says what they are"),
    ],
)
def test_what_is_no_table(name, data, complaint, folder):
    Path(name).write_bytes(data)
    with pytest.raises(InputError, match=complaint):
        read_manifest(name)


def test_our_table_keeps_its_quotes_whatever_they_look_like(folder):
    texts = ['"said"', '"he ""said"""', '"open', "'a'"]
    rows = [Utterance(id=str(n), path="a.flac", duration=1.0, text=text) for n, text in enumerate(texts)]
    write_manifest(rows, "x.tsv")
    assert read_manifest("x.tsv").column("text") == texts


def test_a_second_check_of_a_table_keeps_the_findings_of_the_first(folder):
    Path("gone.tsv").write_text("path\na.flac\nnone.flac\n")
    prepare(folder / "gone.tsv", folder / "x.tsv", jobs=1)
    first = Path("x.rejected.tsv").read_text()
    assert "none.flac\tmissing" in first
    prepare(folder / "x.tsv", folder / "x.tsv", jobs=1)
    assert Path("x.rejected.tsv").read_text() == first


def test_named_columns_reach_every_format(folder):
    reading = Reading(columns=parse_columns(["label=Emotion", "text=", "path=File Name"]))
    for write in (PANDAS["comma"], PANDAS["json columns"], PANDAS["parquet"]):
        write(folder / "x.dat")
        rows = read_manifest(folder / "x.dat", reading=reading)
        assert rows.column("label") == ["angry", "calm"] and set(rows.column("text")) == {""}
        assert rows.column("sentence") == TEXTS
