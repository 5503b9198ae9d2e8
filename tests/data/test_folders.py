"""A folder is read part by part: tables that lie there are read or named, and the summary says what was taken for what."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.columns import Reading
from speechssl.data.corpora import CORPORA, find, find_rows
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from tests.conftest import CLIP, DATA, refused

WANT, SPITE = "YOU DIDN'T WANT TO COME", "WHAT A SPITEFUL THING I AM"


def clips(folder: Path, *names: str) -> Path:
    """Copies of a clip under these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, folder / name)
    return folder


def put(path: Path, *lines: str) -> Path:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def texts(folder: Path, **options) -> dict[str, str]:
    """Path below the folder -> text."""
    return {Path(row.path).relative_to(folder).as_posix(): row.text for row in find(folder, **options).rows}


def test_ljspeech(tmp_path):
    clips(tmp_path, "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav")
    put(tmp_path / "metadata.csv", f"LJ001-0001|No. 1 “{WANT}”|number one {WANT}", f"LJ001-0002|{SPITE}|")
    summary = prepare(tmp_path, tmp_path / "out/x.tsv", jobs=1)
    rows = list(read_manifest(tmp_path / "out/x.tsv"))
    assert [(row.id, row.text) for row in rows] == [("LJ001-0001", f"number one {WANT}"), ("LJ001-0002", SPITE)]
    assert {row.speaker for row in rows} == {""}
    assert (summary.corpus, summary.kept, summary.ignored) == ("table", 2, {})
    assert f"table: 2 rows of {tmp_path / 'metadata.csv'}" in str(summary)


LINES = {
    "transcripts.txt": ["a\tone", "b\ttwo words"],
    "line_index.tsv": ["a\tone", "b\ttwo words"],
    "text": ["a one", "b two words"],
    "sets.list": ["wav/a.wav|one of", "wav/b.wav|two words"],
    "prompts.data": ['( a "one" )', '( b "two words" )'],
    "all.transcription": ["<s> one </s> (a)", "<s> two words </s> (b)"],
    "files.trans.txt": ["a one", "b two words"],
    "filelist.txt": ["wav/a.wav|7|one of", "wav/b.wav|7|two words"],
    "fleurs.tsv": ["1\ta.wav\tOne!\tone of\to n e\t320\tMALE", "2\tb.wav\tTwo words\ttwo words\tt w o\t320\tFEMALE"],
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("folder", ["", "lists/"])
def test_lines_of_names_and_texts_are_a_table(name, folder, tmp_path):
    clips(tmp_path, "wav/a.wav", "wav/b.wav")
    put(tmp_path / f"{folder}{name}", *LINES[name])
    assert list(texts(tmp_path).values()) in (["one", "two words"], ["one of", "two words"])
    rows, corpus = find_rows(tmp_path)
    assert corpus == "table"
    assert {row.speaker for row in rows} == ({"7"} if name == "filelist.txt" else {""})


@pytest.mark.parametrize("path", ["wav/a.wav", "./wav/a.wav", "a.wav", "a", "a.mp3", "/home/ada/corpus/wav/a.wav"])
def test_a_table_finds_its_recordings_wherever_it_was_written(path, tmp_path):
    clips(tmp_path, "wav/a.wav", "wav/b.wav")
    put(tmp_path / "meta/all.tsv", "path\ttext\tgender", f"{path}\tone\tf")
    assert texts(tmp_path) == {"wav/a.wav": "one", "wav/b.wav": ""}
    assert find_rows(tmp_path)[0][0].extra == {"gender": "f"}


@pytest.mark.parametrize(
    "name, lines",
    [
        ("metadata.csv", ["file_name,transcription,speaker_id", '"wav/a.wav","one, two",anna', "wav/b.wav,three,ben"]),
        ("metadata.jsonl", ['{"file_name": "wav/a.wav", "transcription": "one, two", "speaker": "anna"}'] * 1),
        ("data.csv", ["utt_key;Sentence;spk", "a;one, two;anna", "b;three;ben"]),
        ("Akan.csv", ["Audio Key,Transcript,Speaker", '"a","one, two","anna"', "b,three,ben"]),
        ("corpus.tsv", ["wav_name\tduration\ttext\tspk", "a\t1.5\tone, two\tanna", "b\t2\tthree\tben"]),
    ],
)
def test_tables_with_names_of_their_own(name, lines, tmp_path):
    clips(tmp_path, "wav/a.wav", "wav/b.wav")
    put(tmp_path / name, *lines)
    row = next(row for row in find(tmp_path).rows if row.path.endswith("a.wav"))
    assert (row.text, row.speaker) == ("one, two", "anna")


def test_parquet_with_the_audio_inside_is_unpacked(tmp_path):
    cells = [{"bytes": CLIP.read_bytes(), "path": f"{name}.flac"} for name in "ab"]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"audio": cells, "transcription": ["one", "two"]}), tmp_path / "in/train-00000.parquet")
    summary = prepare(tmp_path / "in", tmp_path / "x.tsv", jobs=1)
    assert (summary.corpus, summary.kept) == ("table", 2)
    assert [(row.text, row.split) for row in read_manifest(tmp_path / "x.tsv")] == [("one", "train"), ("two", "train")]


def test_the_encoding_is_that_of_tables_and_transcripts(tmp_path):
    clips(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "list.tsv").write_bytes("path\ttext\na.wav\tcafé\n".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("thé".encode("latin-1"))
    reading = Reading(encoding="latin-1")
    assert sorted(row.text for row in find(tmp_path, reading=reading).rows) == ["", "café", "thé"]
    notes, left = " ".join(find(tmp_path).notes), find(tmp_path).left_out
    assert "list.tsv is not read (is not UTF-8 text (" in notes and "at byte 19, line 2" in notes
    assert (
        left[0][0].endswith("b.wav") and "b.txt is not UTF-8 text" in left[0][1] and "--encoding latin-1" in left[0][1]
    )


def test_of_several_recordings_of_a_name_the_nearest_is_meant(tmp_path):
    clips(tmp_path, "train/anna/1.wav", "train/ben/1.wav", "test/anna/1.wav")
    put(tmp_path / "train/train.tsv", "path\ttext", "anna/1.wav\tone", "old/ben/1.wav\ttwo")
    put(tmp_path / "test/test.tsv", "path\ttext", "1.wav\tthree")
    assert texts(tmp_path) == {"train/anna/1.wav": "one", "train/ben/1.wav": "two", "test/anna/1.wav": "three"}


def test_tables_of_splits_fill_the_column(tmp_path):
    clips(tmp_path, "train/a.wav", "validation/a.wav", "test/a.wav")
    for folder in ("train", "validation", "test"):
        line = json.dumps({"path": "a.wav", "text": f"of {folder}"})
        put(tmp_path / folder / "metadata.jsonl", line)
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    found = {row.text: (row.split, row.id) for row in read_manifest(tmp_path / "x.tsv")}
    assert found == {
        "of train": ("train", "train/a.wav"),
        "of validation": ("dev", "validation/a.wav"),
        "of test": ("test", "test/a.wav"),
    }
    assert (summary.kept, summary.rejected) == (3, 0)


def test_folders_of_splits_without_tables_fill_the_column_too(tmp_path):
    clips(tmp_path / "in", "train/anna/1.wav", "train/wav/2.wav", "dev/ben/1.wav")
    rows, _ = find_rows(tmp_path / "in")
    assert [(row.split, row.speaker) for row in rows] == [("dev", "ben"), ("train", "anna"), ("train", "")]
    clips(tmp_path / "own", "test/1.wav", "again/2.wav")  # nothing says that `test` is a split
    assert {row.split for row in find_rows(tmp_path / "own")[0]} == {""}


def common_voice(folder: Path) -> Path:
    """A release of Common Voice with all its tables."""
    tables = {"train": [1], "dev": [2], "test": [3], "validated": [1, 2, 3, 4], "other": [5], "invalidated": [6]}
    clips(folder, *[f"clips/cv_{number}.mp3" for number in range(1, 8)])
    for name, numbers in tables.items():
        rows = [f'abc{number}\tcv_{number}.mp3\tSagt "ja" {number}.\t2\t0' for number in numbers]
        put(folder / f"{name}.tsv", "client_id\tpath\tsentence\tup_votes\tdown_votes", *rows)
    return folder


def test_common_voice_has_its_splits_and_its_unapproved_clips_are_named(tmp_path):
    folder = common_voice(tmp_path / "cv")
    result = find(folder)
    assert [(row.id, row.split, row.text) for row in result.rows][:3] == [
        ("cv_1", "train", 'Sagt "ja" 1.'),
        ("cv_2", "dev", 'Sagt "ja" 2.'),
        ("cv_3", "test", 'Sagt "ja" 3.'),
    ]
    assert [row.id for row in result.rows][3:] == ["clips/cv_7.mp3"]  # in no table
    assert result.corpus == "common-voice + folder"
    for name, count in (("validated", 1), ("other", 1), ("invalidated", 1)):
        assert f"{name}.tsv is not read: {count} clips that are in no split; `speechssl prepare" in " ".join(
            result.notes
        )
    summary = prepare(folder / "other.tsv", tmp_path / "other.tsv", jobs=1)  # the command that the note gives
    assert (summary.kept, read_manifest(tmp_path / "other.tsv")[0].text) == (1, 'Sagt "ja" 5.')


def test_a_mixed_folder_is_read_part_by_part(tmp_path):
    names = [
        path.name for speaker in ("george", "lucas", "theo") for path in (DATA / "fsdd").glob(f"[0-4]_{speaker}_1.flac")
    ]
    for name in names:
        clips(tmp_path, f"digits/{name}")
    clips(
        tmp_path,
        "libri/84/121/84-121-0000.flac",
        "mine/1_theo_1.wav",
        "own/1_mary_1.wav",
        "lj/wavs/x.wav",
        "kaldi/k.wav",
    )
    put(tmp_path / "libri/84/121/84-121.trans.txt", "84-121-0000 HELLO")
    put(tmp_path / "mine/1_theo_1.txt", "my own words")
    put(tmp_path / "lj/metadata.csv", "x|One.|one")
    put(tmp_path / "kaldi/train/wav.scp", "u1 /elsewhere/k.wav")
    put(tmp_path / "kaldi/train/text", "u1 from kaldi")
    result = find(tmp_path)
    assert result.corpus == "table + librispeech + fsdd + folder"
    by_part = {part.corpus: part.count for part in result.parts}
    assert by_part == {"table": 1, "librispeech": 1, "fsdd": len(names), "folder": 2}
    found = texts(tmp_path)
    assert found["kaldi/k.wav"] == "from kaldi" and found["libri/84/121/84-121-0000.flac"] == "HELLO"
    assert found["mine/1_theo_1.wav"] == "my own words" and found["lj/wavs/x.wav"] == "one"
    assert {row.label for row in result.rows if "mine" in row.path or "own" in row.path} == {""}
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, summary.rejected, summary.ignored) == (len(names) + 5, 0, {})
    assert (
        f"fsdd: {len(names)} rows of {tmp_path / 'digits'} (file names digit_speaker_take of its six speakers"
        in str(summary)
    )
    assert "if it is not that, --corpus folder" in str(summary)


def test_parts_with_the_same_ids_lose_no_row(tmp_path):
    for name in ("one", "two", "three"):
        clips(tmp_path, f"{name}/wavs/x.wav")
        put(tmp_path / name / "metadata.csv", f"x|text of {name}|text of {name}")
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, summary.rejected) == (3, 0)


@pytest.mark.parametrize("source", ["corpus", "./corpus", "../here/corpus", "link", "whole"])
def test_a_recording_is_one_however_its_path_is_written(source, tmp_path, monkeypatch):
    """A Kaldi folder with paths from the working folder, a table with absolute ones, and one through a link."""
    here = tmp_path / "here"
    clips(here / "corpus", "wav/a.wav", "wav/b.wav")
    (here / "link").symlink_to(here / "corpus")
    put(here / "corpus/train/wav.scp", "a corpus/wav/a.wav", "b corpus/wav/b.wav")
    put(here / "corpus/train/text", f"a {WANT}", f"b {SPITE}")
    put(here / "corpus/all.tsv", "path\ttext", f"{here}/corpus/wav/a.wav\tx", f"{here}/link/wav/b.wav\ty")
    monkeypatch.chdir(here)
    found = find(here / "corpus" if source == "whole" else Path(source))
    assert {row.id: row.text for row in found.rows} == {"a": WANT, "b": SPITE} and len(found.rows) == 2
    assert "another part has them already: 2 rows" in " ".join(found.notes)


def test_a_table_wins_over_the_names(tmp_path):
    clips(tmp_path, "7_theo_1.wav", "8_george_2.wav", "9_lucas_3.wav")
    assert find_rows(tmp_path)[1] == "fsdd"
    put(
        tmp_path / "mine.tsv",
        "path\ttext\tlabel",
        "7_theo_1.wav\tsieben\t",
        "8_george_2.wav\tacht\t",
        "9_lucas_3.wav\tneun\tx",
    )
    rows, corpus = find_rows(tmp_path)
    assert corpus == "table"
    assert [(row.text, row.label) for row in rows] == [("sieben", ""), ("acht", ""), ("neun", "x")]


def test_the_way_out_reads_names_and_tables_as_nothing(tmp_path):
    clips(tmp_path, "7_theo_1.wav", "8_george_2.wav", "9_lucas_3.wav")
    rows, corpus = find_rows(tmp_path, "folder")
    assert corpus == "folder"
    assert {(row.text, row.label) for row in rows} == {("", "")}


def test_names_without_evidence_are_told_with_the_way_in(tmp_path):
    clips(tmp_path, "a01.wav", "a02.wav", "d03.wav", "f04.wav", "n15.wav")
    note = " ".join(find(tmp_path).notes)
    assert "5 names have the form of savee's, which proves nothing here" in note and "--corpus savee reads them" in note
    assert {row.label for row in find_rows(tmp_path, "savee")[0]} == {"anger", "disgust", "fear", "neutral"}


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_corpus_may_be_forced_on_any_folder(corpus, tmp_path, monkeypatch):
    clips(tmp_path, "a.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    if corpus == "common-voice":
        with pytest.raises(InputError, match=r"neither train\.tsv nor validated\.tsv"):
            find_rows(Path("."), corpus)
        return
    assert len(find_rows(Path("."), corpus)[0]) == (0 if corpus == "crema-d" else 2)


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_a_table_that_cannot_be_read_is_named_with_the_reason_and_the_command(suffix, tmp_path):
    clips(tmp_path, "a.wav", "b.wav")
    put(tmp_path / f"who{suffix}", "a\tf\tyoung\tx", "b\tm\told\ty")
    put(tmp_path / f"gone{suffix}", "path\ttext", "c.wav\tone")
    notes = " ".join(find(tmp_path).notes)
    assert f"who{suffix} is not read (its columns have no names" in notes
    assert f"`speechssl prepare {tmp_path / f'who{suffix}'} --out x.tsv` reads it" in notes
    assert f"gone{suffix} is not read (1 of its 1 rows name no audio of the folder)" in notes
    assert not find(tmp_path).ignored


def test_its_own_manifest_does_not_hide_new_recordings(tmp_path):
    clips(tmp_path, "anna/1.wav")
    out = tmp_path / "all.tsv"
    for name in ("anna/2.wav", "anna/3.wav"):
        prepare(tmp_path, out, jobs=1)
        clips(tmp_path, name)
    summary = prepare(tmp_path, tmp_path / "other.tsv", jobs=1)
    assert (summary.corpus, summary.kept, {row.speaker for row in read_manifest(tmp_path / "other.tsv")}) == (
        "folder",
        3,
        {"anna"},
    )


def test_a_dry_run_shows_the_parts_and_writes_nothing(tmp_path, capsys, monkeypatch):
    folder = common_voice(tmp_path / "cv")
    clips(folder, "mine/a.wav")
    put(folder / "mine/a.txt", "my own words")
    monkeypatch.setattr("speechssl.data.prepare.inspect", lambda path: pytest.fail(f"{path} is decoded"))
    before = sorted(tmp_path.rglob("*"))
    cli.main(["prepare", str(folder), "--dry-run"])
    shown = capsys.readouterr().out
    for part in (
        "5 rows as common-voice + folder; nothing is decoded or written",
        f"common-voice: 3 rows of {folder} (clips/ beside train.tsv, dev.tsv, test.tsv with client_id",
        'clips/cv_1.mp3: speaker abc1, split train, text Sagt "ja" 1.',
        "mine/a.wav: speaker mine, text my own words",
        "other.tsv is not read: 1 clips",
    ):
        assert part in shown
    assert sorted(tmp_path.rglob("*")) == before
    cli.main(["prepare", str(folder), "--dry-run", "--where", "split=dev"])
    shown = capsys.readouterr().out
    assert "1 row as" in shown and "cv_2" in shown and "cv_1" not in shown


def test_without_a_dry_run_out_is_required(capsys, tmp_path):
    assert "required: --out" in refused(capsys, "prepare", clips(tmp_path, "a.wav"))
