"""Manifests of every kind: what is written is read again, and each fault is reported with its place."""

import json
import math
import tracemalloc

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import InputError
from speechssl.data.manifest import COLUMNS, Manifest, Utterance, write_manifest
from speechssl.data.tables import read_manifest
from tests.conftest import DATA


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.tsv")))
def test_our_manifests_survive_a_round_trip(name, tmp_path):
    rows = list(read_manifest(DATA / name))
    write_manifest(rows, tmp_path / "x.tsv")
    assert list(read_manifest(tmp_path / "x.tsv")) == rows


def test_hostile_names_and_texts_survive(tmp_path):
    names = [
        "two  spaces .wav",
        "привет мир.wav",
        "e\u0301.wav",
        "é.wav",
        "你好.flac",
        "nbsp\u00a0x.wav",
        'q"uote.wav',
        "a,b.wav",
    ]
    rows = [Utterance(id=name, path=str(tmp_path / name), duration=1.0, text=f'he said "{name}"') for name in names]
    write_manifest(rows, tmp_path / "x.tsv")
    found = read_manifest(tmp_path / "x.tsv")
    assert found.column("path") == [row.path for row in rows]
    assert found.column("id") == names
    assert found.column("text") == [" ".join(row.text.split()) for row in rows]


def test_white_space_inside_a_text_never_breaks_the_table(tmp_path):
    row = Utterance(id="a", path=str(tmp_path / "a.wav"), duration=1.0, text="one\ttwo\nthree\u2028four\x85five")
    write_manifest([row], tmp_path / "x.tsv")
    assert read_manifest(tmp_path / "x.tsv").column("text") == ["one two three four five"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(ending, mark, tmp_path):
    lines = [f"{mark}path\ttext\tduration", 'a.wav\t"said" \u2028 x\t1.5', "", "b.wav\tand\x0bb"]
    (tmp_path / "x.tsv").write_bytes(ending.join([*lines, ""]).encode())
    first, second = read_manifest(tmp_path / "x.tsv")
    assert (first.path, first.text, first.duration) == (str(tmp_path / "a.wav"), '"said" x', 1.5)
    assert (second.text, math.isnan(second.duration)) == ("and b", True)


def test_further_columns_are_kept(tmp_path):
    row = Utterance(id="a", path=str(tmp_path / "a.wav"), duration=2.0, extra={"age": "42"})
    write_manifest([row], tmp_path / "x.tsv")
    assert read_manifest(tmp_path / "x.tsv")[0] == row


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", r"x\.tsv has no column `path`"),
        ("id\tpath\n", r"x\.tsv has no rows"),
        ("sound\ttext\na\tb\n", r"no column `path`.*--columns path=COLUMN.*it has: sound, text"),
        ("file\twav\na\tb\n", r"each of the columns 'file' and 'wav' may be the path; .*--columns path=file"),
        ("path\ttext\ttext\na\tb\tc\n", r"names the column 'text' twice"),
        ("path,text\na,b,c\n", r"line 2 has 3 fields but the first line names 2; if ',' is inside a field, .* quote"),
        ('path,text\na,"b, c\n', r"x\.tsv: the quotes cannot be understood \(unexpected end of data\)"),
        ("path\tstart\tend\na\t2\t1\n", r"line 2: the end 1 does not lie after the start 2"),
        ("path\nC:\\a.wav\n", r"line 2: C:\\a.wav is a path of a Windows machine; make the paths .* relative"),
        ("path\nhttps://b.org/a.wav\n", r"line 2: https://b.org/a.wav is an address, not a file; download it"),
        ("path\ttext\na\tb\tc\n", r"x\.tsv line 2 has 3 fields but the first line names 2"),
        ("path\ttext\n\tb\n", r"x\.tsv line 2 has no path"),
        ("path\tstart\na\t-1\n", r"x\.tsv line 2: start = '-1' is not a number of seconds"),
        ("path\tduration\na\t1\nb\tinf\n", r"x\.tsv line 3: duration = 'inf' is not"),
        ("path\tduration\na\tlong\n", r"duration = 'long' is not"),
        ("id\tpath\n1\ta\n1\tb\n", r"row 1 of .*x\.tsv and row 2 of .*x\.tsv have the same id '1'; ids must differ"),
        (
            b"path\ttext\na\tcaf\xe9\n",
            r"x\.tsv is not UTF-8 text .*byte 15, line 2\).*save it as UTF-8, or .*--encoding latin-1",
        ),
        ("/clips\na.wav\tmany\n", r"x\.tsv line 2: 'a\.wav\\tmany' is not `path<TAB>samples`"),
    ],
    ids=str,
)
def test_damaged_tables(text, complaint, tmp_path):
    (tmp_path / "x.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=complaint):
        read_manifest(tmp_path / "x.tsv")


def test_a_missing_manifest_names_the_verb_that_makes_one(tmp_path):
    with pytest.raises(InputError, match=r"x\.tsv does not exist; .*speechssl prepare FOLDER --out x\.tsv"):
        read_manifest(tmp_path / "x.tsv")
    with pytest.raises(InputError, match=r"is a folder without wav.scp"):
        read_manifest(tmp_path)


def test_fairseq(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(8000), 8000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.flac\t8000\nsub/b.flac\t8000\n")
    (tmp_path / "train.ltr").write_text("H I | Y O U |\nN O |\n")
    first, second = read_manifest(tmp_path / "train.tsv")
    assert (first.path, first.duration, first.text) == (f"{tmp_path}/a.flac", 1.0, "HI YOU")
    assert (second.id, str(second.duration), second.text) == ("sub/b.flac", "nan", "NO")  # its rate is not known
    (tmp_path / "train.wrd").write_text("HI YOU\n")
    with pytest.raises(InputError, match="2 rows but 1 transcripts"):
        read_manifest(tmp_path / "train.tsv")


def test_nemo(tmp_path):
    lines = [
        {"audio_filepath": "a.wav", "duration": 1.5, "text": "hi\tyou", "offset": None, "speaker": None, "age": 3},
        {"audio_filepath": "a.wav", "duration": 2, "text": None, "offset": 1.5},
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_manifest(tmp_path / "x.jsonl")
    assert (first.path, first.text, first.start, first.speaker) == (str(tmp_path / "a.wav"), "hi you", 0.0, "")
    assert (second.id, second.text, second.start, second.duration) == ("a.wav@1.5", "", 1.5, 2.0)
    assert first.extra == {"age": "3"}


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"text": "a"}'])
def test_damaged_jsonl(line, tmp_path):
    (tmp_path / "x.jsonl").write_text(f'{{"path": "a"}}\n\n{line}\n')
    with pytest.raises(InputError, match=r"x\.jsonl line 3"):
        read_manifest(tmp_path / "x.jsonl")


def kaldi(folder, **files: str):
    """A Kaldi folder."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_kaldi(tmp_path):
    kaldi(tmp_path, wav_scp="r1  /a b.wav \nr2 /c.wav\n", text="u1 hi you\n", utt2spk="u1 s1\nu2 s2\n")
    (tmp_path / "segments").write_text("u1 r1 0.5 2\nu2 r2 0 1\n")
    first, second = read_manifest(tmp_path)
    assert (first.path, first.start, first.duration, first.text, first.speaker) == (
        "/a b.wav",
        0.5,
        1.5,
        "hi you",
        "s1",
    )
    assert (second.id, second.text) == ("u2", "")
    (tmp_path / "segments").unlink()
    assert read_manifest(tmp_path).column("id") == ["r1", "r2"]


@pytest.mark.parametrize(
    "segments, complaint",
    [
        ("u1 r1 0", "is not `segment recording start end`"),
        ("u1 r1 x y", "is not `seg"),
        ("u1 r9 0 1", "r9, which .*wav.scp"),
    ],
)
def test_damaged_kaldi_segments(segments, complaint, tmp_path):
    kaldi(tmp_path, wav_scp="r1 /a.wav\n", segments=segments)
    with pytest.raises(InputError, match=complaint):
        read_manifest(tmp_path)


def test_kaldi_pipes_are_not_run(tmp_path):
    kaldi(tmp_path, wav_scp="r1 touch /tmp/x |\n")
    with pytest.raises(InputError, match="r1 is a shell pipe"):
        read_manifest(tmp_path)


def test_where():
    rows = read_manifest(DATA / "fsdd.tsv")
    chosen = rows.where("split=test")
    assert set(chosen.column("split")) == {"test"} and len(chosen) == rows.column("split").count("test")
    assert rows.where("") is rows
    two = rows.where(["split=train", "speaker=george,lucas"])
    assert set(two.column("speaker")) == {"george", "lucas"}
    assert list(two) == list(rows.where("split=train,speaker=george,speaker=lucas"))
    for condition, complaint in (
        ("split=x", "the column split holds dev, test, train"),
        ("nope=1", "no column 'nope'"),
    ):
        with pytest.raises(InputError, match=complaint):
            rows.where(condition)


def test_a_value_with_a_comma_is_one_value_where_a_row_has_it():
    rows = Manifest.of([Utterance(id=text, path="a.wav", text=text) for text in ("yes, sir", "yes", " sir")])
    assert rows.where("text=yes, sir").column("text") == ["yes, sir"]


def test_selecting_keeps_rows_whole():
    rows = read_manifest(DATA / "fsdd.tsv")
    assert list(rows.select([5, 3])) == [rows[5], rows[3]]
    assert set(Manifest.of([rows[0]]).columns) | {"start", "duration"} == set(COLUMNS)
    assert list(rows.select([5, 3, 9]).select([2, 0])) == [rows[9], rows[5]]


def test_a_column_that_comes_late_is_empty_before_and_names_may_be_no_utf_8():
    rows = [
        Utterance(id=f"{i}\udce9", path="a", duration=1.0, extra={"age": "42"} if i == 5000 else {})
        for i in range(5001)
    ]
    found = Manifest.of(iter(rows))
    assert found[5000] == rows[5000]
    assert found[7] == Utterance(id="7\udce9", path="a", duration=1.0, extra={"age": ""})


def test_a_large_manifest_takes_little_more_memory_than_its_file(tmp_path):
    line = "speaker/chapter/{0:07d}\tspeaker/chapter/{0:07d}.flac\t2.5\tspeaker\tAND SO THEY SAID ALL OF {0}\n"
    (tmp_path / "x.tsv").write_text("id\tpath\tduration\tspeaker\ttext\n" + "".join(map(line.format, range(40_000))))
    tracemalloc.start()
    rows = read_manifest(tmp_path / "x.tsv")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "x.tsv").stat().st_size
    assert kept < 3 * size and peak < 4 * size, (kept / size, peak / size)  # Python strings: 3.8 and 7.7
    assert rows[39_999].text.endswith("39999")


def test_other_people_s_names_never_hide_ours(tmp_path):
    (tmp_path / "a.tsv").write_text("path\ttext\tsentence\tspeaker_id\na.wav\tHELLO\tDFA\tanna\n")
    (tmp_path / "a.jsonl").write_text(
        '{"audio_filepath": "a.wav", "sentence": "", "text": "HELLO", "client_id": "anna"}\n'
    )
    for name in ("a.tsv", "a.jsonl"):
        row = read_manifest(tmp_path / name)[0]
        assert (row.text, row.speaker) == ("HELLO", "anna")


def test_kaldi_paths_may_start_above_the_folder(tmp_path):
    """As in speechocean762, opened from anywhere."""
    (tmp_path / "train").mkdir()
    (tmp_path / "WAVE").mkdir()
    (tmp_path / "WAVE" / "1.wav").touch()
    kaldi(tmp_path / "train", wav_scp="1 WAVE/1.wav\n", utt2spk="1 s\n")
    assert [row.path for row in read_manifest(tmp_path / "train")] == [str(tmp_path / "WAVE" / "1.wav")]
