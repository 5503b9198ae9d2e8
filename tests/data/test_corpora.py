"""Trees of the known corpora, built from real clips under the names that the corpora use."""

import os
import shutil

import pytest

from speechssl.core.errors import InputError
from speechssl.data.corpora import CORPORA, audio_files, find_rows
from speechssl.data.named import NAMED
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from tests.conftest import CLIP

TREES = {
    "librispeech": {
        "train-clean/84/121/84-121-0000.flac": {"speaker": "84", "text": "HELLO THERE", "split": "train-clean"},
        "train-clean/84/121/84-121-0001.flac": {"speaker": "84", "text": "CAFÉ", "split": "train-clean"},
        "dev-clean/17/5/17-5-0000.flac": {"speaker": "17", "text": "", "split": "dev-clean"},
    },
    "common-voice": {
        "clips/cv_1.mp3": {"speaker": "abc", "text": 'Er sagte "ja".', "split": "train"},
        "clips/cv_2.mp3": {"speaker": "def", "text": "नमस्ते", "split": "dev"},
    },
    "crema-d": {
        "1001_DFA_ANG_XX.wav": {"speaker": "1001", "label": "anger"},
        "1002_IEO_HAP_HI.wav": {"speaker": "1002", "label": "happy"},
        "1091_WSI_NEU_XX.wav": {"speaker": "1091", "label": "neutral"},
    },
    "ravdess": {
        "Actor_01/03-01-01-01-01-01-01.wav": {"speaker": "01", "label": "neutral"},
        "Actor_12/03-01-06-01-02-01-12.wav": {"speaker": "12", "label": "fearful"},
        "Actor_24/03-01-08-02-02-02-24.wav": {"speaker": "24", "label": "surprised"},
    },
    "emodb": {
        "03a01Fa.wav": {"speaker": "03", "label": "happiness"},
        "16b10Wb.wav": {"speaker": "16", "label": "anger"},
        "08a07Na.wav": {"speaker": "08", "label": "neutral"},
    },
    "savee": {
        "DC_sa01.wav": {"speaker": "DC", "label": "sadness"},
        "JE_a02.wav": {"speaker": "JE", "label": "anger"},
        "KL_n03.wav": {"speaker": "KL", "label": "neutral"},
    },
    "tess": {
        "OAF_back_angry.wav": {"speaker": "OAF", "label": "angry"},
        "YAF_dog_ps.wav": {"speaker": "YAF", "label": "surprise"},
        "OAF_home_sad.wav": {"speaker": "OAF", "label": "sad"},
        "OAF_neutral/OA_bite_neutral.wav": {"speaker": "OAF", "label": "neutral"},
    },
    "nemo": {
        "AB0_anger_1.wav": {"speaker": "AB0", "label": "anger", "text": "Cześć."},
        "AB0_fear_2.wav": {"speaker": "AB0", "label": "fear"},
        "CD1_sadness_3.wav": {"speaker": "CD1", "label": "sadness"},
    },
    "emovo": {
        "f1/gio-f1-b1.wav": {"speaker": "f1", "label": "joy"},
        "m3/neu-m3-l2.wav": {"speaker": "m3", "label": "neutral"},
        "m3/rab-m3-n5.wav": {"speaker": "m3", "label": "anger"},
    },
    "shemo": {
        "female/F01A01.wav": {"speaker": "F01", "label": "anger"},
        "female/F02W12.wav": {"speaker": "F02", "label": "surprise"},
        "male/M33N05.wav": {"speaker": "M33", "label": "neutral"},
    },
    "fsdd": {
        "7_theo_12.wav": {"speaker": "theo", "label": "7", "text": "seven"},
        "0_george_0.wav": {"speaker": "george", "label": "0", "text": "zero"},
        "9_lucas_3.wav": {"speaker": "lucas", "label": "9", "text": "nine"},
    },
    "speech-commands": {
        "yes/0a7c2a8d_nohash_0.wav": {"speaker": "0a7c2a8d", "label": "yes", "text": "yes", "split": ""},
        "yes/1b88bf70_nohash_1.wav": {"speaker": "1b88bf70", "label": "yes", "text": "yes"},
        "no/3cdbe5f7_nohash_0.wav": {"speaker": "3cdbe5f7", "label": "no"},
        "no/4bdbe5f7_nohash_0.wav": {"speaker": "4bdbe5f7", "label": "no"},
        "no/2bdbe5f7_nohash_0.wav": {"speaker": "2bdbe5f7", "label": "no", "text": "no"},
    },
    "vctk": {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": {"speaker": "p225", "text": "Please call Stella."},
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": {"speaker": "p225", "text": "Please call Stella."},
        "wav48_silence_trimmed/s5/s5_002_mic1.flac": {"speaker": "s5", "text": ""},
    },
    "folder": {
        "anna/one two.flac": {"speaker": "anna", "text": "one two"},
        "anna/one two.ogg": {"speaker": "anna", "text": "one two"},
        "Юля/привет.wav": {"speaker": "Юля", "text": ""},
        "e\u0301.wav": {"speaker": "", "text": ""},
    },
}


def build(folder, corpus: str):
    """The tree of a corpus."""
    for name in TREES[corpus]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, path)
    if corpus == "librispeech":
        lines = "84-121-0000 HELLO THERE\r\n84-121-0001 CAFÉ\r\n"
        (folder / "train-clean/84/121/84-121.trans.txt").write_bytes(lines.encode("utf-8-sig"))
    if corpus == "common-voice":
        for split, row in zip(("train", "dev"), TREES[corpus].items(), strict=True):
            cells = [row[1]["speaker"], row[0].removeprefix("clips/"), row[1]["text"]]
            (folder / f"{split}.tsv").write_text("client_id\tpath\tsentence\n" + "\t".join(cells) + "\n", "utf-8")
    if corpus == "vctk":
        (folder / "txt/p225").mkdir(parents=True)
        (folder / "txt/p225/p225_001.txt").write_text("Please call Stella.\n")
    if corpus == "nemo":
        lines = ["file_id\temotion\traw_text\tspeaker_id", "AB0_anger_1\tanger\tCześć.\tAB0"]
        (folder / "data.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    if corpus == "folder":
        (folder / "anna/one two.txt").write_bytes("\ufeffone two\r\n".encode())
    return folder


@pytest.mark.parametrize("corpus", TREES)
def test_a_tree_is_recognised_and_read(corpus, tmp_path):
    assert set(TREES) == set(CORPORA)
    folder = build(tmp_path / "tree", corpus)
    found, name = find_rows(folder)
    assert name == corpus
    rows = {os.path.relpath(row.path, folder): row for row in found}
    assert set(rows) == set(TREES[corpus])
    assert len({row.id for row in rows.values()}) == len(rows)
    for name, expected in TREES[corpus].items():
        assert {key: getattr(rows[name], key) for key in expected} == expected


@pytest.mark.parametrize("corpus", TREES)
def test_prepare_keeps_every_row_of_a_tree(corpus, tmp_path):
    summary = prepare(build(tmp_path / "tree", corpus), tmp_path / "x.tsv", jobs=1)
    assert (summary.corpus, summary.kept, summary.rejected) == (corpus, len(TREES[corpus]), 0)
    assert not summary.ignored


def test_a_few_strangers_do_not_hide_a_corpus(tmp_path):
    folder = build(tmp_path / "tree", "emodb")
    for name in ("._03a01Fa.wav", "._16b10Wb.wav", "09a02Ab.wav", "10a02Ab.wav", "readme.wav"):
        shutil.copy(CLIP, folder / name)
    rows, corpus = find_rows(folder)
    assert corpus == "emodb"
    assert {row.speaker for row in rows} == {"03", "16", "08", "09", "10", ""}


OWN = {  # names that match a corpus, in folders that are somebody's own
    "savee": ["a01", "a02", "d03", "f04", "n15"],
    "savee with initials": ["AB_a01", "AB_sa02", "CD_h03"],
    "savee with its own initials": ["DC_a01", "JK_a02", "KL_h03", "DC_n01"],  # conditions a, h, n
    "savee with initials as folders": ["DC/a01", "JK/a02", "JK/d01", "KL/h03"],
    "fsdd": ["1_anna_01", "2_anna_01", "3_ben_1"],
    "fsdd with its own names": ["1_theo_01", "2_lucas_02", "3_george_03"],  # numbers with zeros
    "fsdd of one name": ["1_theo_1", "2_theo_1", "3_theo_1"],
    "fsdd with one more": ["1_theo_1", "2_lucas_1", "3_george_1", "4_nicolas_1", "5_jackson_1", "6_mary_1"],
    "emodb": ["01a01Na", "01a02Na", "02b03Fa"],  # subject, list and item, condition, version
    "emodb with its own numbers": ["10a01Na", "11a02Fa", "12a03Wa", "13b01Na", "14b02Fa", "15b03Ta"],  # no sentence a03
    "shemo": ["F01A01", "F01A02", "M02S01"],
    "shemo in its folders": ["female/F01A01", "female/F02B01", "male/M02A01", "male/M01C01", "male/M03D01"],  # lists
    "ravdess": ["24-01-05-12-30-15-01", "24-01-06-09-10-00-01", "24-02-01-23-59-59-02"],  # a date and a time
    "ravdess of a design": ["03-01-01-02-01-01-01", "03-01-02-01-01-01-02", "03-01-03-01-02-01-03"],
    "ravdess of sessions": ["01-01-02-01-01-01-01", "01-01-03-01-01-02-02", "02-01-04-01-02-01-03"],
    "tess": ["OAF_home_sad", "YAF_dog_happy", "OAF_cat_angry", "YAF_car_fear"],  # older, younger adult female
    "tess of adults": ["OA_home_sad", "YA_dog_happy", "OA_cat_angry"],
    "nemo": ["AB0_anger_1", "AB0_fear_2", "CD1_sadness_3"],
    "emovo": ["neu-f1-01", "tri-f2-02", "dis-m1-03"],
    "crema-d": ["2024_ABC_SAD_AB", "2024_DEF_HAP_CD", "2025_ABC_NEU_XX"],
    "librispeech": ["x.trans", "y.trans", "z.trans"],
    "dates": ["2024-05-0001", "2024-05-0002", "2024-05-0003"],
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("texts", [False, True])
def test_names_like_those_of_a_corpus_do_not_make_one(name, texts, tmp_path):
    for stem in OWN[name]:
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        shutil.copy(CLIP, tmp_path / f"{stem.removesuffix('.trans')}.wav")
        if texts or name == "librispeech":
            (tmp_path / f"{stem}.txt").write_text(f"text of {stem}")
    rows, corpus = find_rows(tmp_path)
    assert corpus == "folder"
    assert {row.label for row in rows} == {""}
    assert {row.speaker for row in rows} == {stem.rpartition("/")[0] for stem in OWN[name]}
    if name != "librispeech":
        assert {row.text for row in rows} == ({f"text of {stem}" for stem in OWN[name]} if texts else {""})


@pytest.mark.parametrize("corpus", ["crema-d", *NAMED, "pattern"])
def test_a_transcript_beside_the_audio_wins_over_the_corpus(corpus, tmp_path):
    folder = build(tmp_path / "tree", "fsdd" if corpus == "pattern" else corpus)
    clips = audio_files(folder)
    clips[0].with_suffix(".txt").write_text("my own words")
    pattern = r"^(?P<label>\d)_(?P<speaker>[a-z]+)" if corpus == "pattern" else ""
    rows, found = find_rows(folder, pattern=pattern)
    assert found == corpus
    assert all(row.label for row in rows)
    assert next(row.text for row in rows if row.path == str(clips[0])) == "my own words"


def test_savee_may_have_its_speakers_in_folders(tmp_path):
    for name in ("DC/a01", "JE/sa02", "KL/n03"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(CLIP, tmp_path / f"{name}.wav")
    rows, corpus = find_rows(tmp_path)
    assert corpus == "savee"
    assert sorted((row.speaker, row.label) for row in rows) == [("DC", "anger"), ("JE", "sadness"), ("KL", "neutral")]


def test_songs_of_ravdess_have_no_label(tmp_path):
    folder = build(tmp_path / "tree", "ravdess")
    shutil.copy(CLIP, folder / "Actor_01/03-02-03-01-01-01-01.wav")
    rows, _ = find_rows(folder, "ravdess")
    assert sorted(row.label for row in rows) == ["", "fearful", "neutral", "surprised"]


def test_a_manifest_beside_a_folder_of_clips_is_not_common_voice(tmp_path):
    (tmp_path / "clips").mkdir()
    shutil.copy(CLIP, tmp_path / "clips")
    for _ in range(2):  # the second time the manifest of the first lies beside the clips
        assert prepare(tmp_path, tmp_path / "train.tsv", jobs=1).corpus == "folder"
    with pytest.raises(InputError, match=r"neither train.tsv nor validated.tsv"):
        prepare(tmp_path / "clips", tmp_path / "x.tsv", corpus="common-voice", jobs=1)


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    shutil.copy(CLIP, tmp_path / "far" / "a.flac")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "again").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "near")
    (tmp_path / "near" / "self.wav").symlink_to("self.wav")
    found = [path.relative_to(tmp_path / "near").as_posix() for path in audio_files(tmp_path / "near")]
    assert found == ["again/a.flac", "self.wav"]


def test_a_transcript_that_is_not_utf8_is_counted(tmp_path):
    for name, text in (("a", b"caf\xe9"), ("b", "café".encode())):
        shutil.copy(CLIP, tmp_path / f"{name}.flac")
        (tmp_path / f"{name}.txt").write_bytes(text)
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, dict(summary.reasons)) == (1, {"transcript cannot be read": 1})
    told = (tmp_path / "x.rejected.tsv").read_text()
    assert all(part in told for part in ("a.flac", "a.txt is not UTF-8", "at byte 3", "--encoding latin-1"))


@pytest.mark.parametrize(
    "pattern, complaint", [("(?P<label>", "not a regular"), (r"(\w+)", "must name"), ("(?P<mood>x)", "label, s")]
)
def test_patterns_that_cannot_be_used(pattern, complaint, tmp_path):
    shutil.copy(CLIP, tmp_path)
    with pytest.raises(InputError, match=complaint):
        find_rows(tmp_path, pattern=pattern)


def test_prepare_takes_a_pattern(tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(CLIP, tmp_path / "in" / "F_01_OISHI_ANGRY_1.flac")
    prepare(tmp_path / "in", tmp_path / "x.tsv", pattern=r"(?P<speaker>[FM]_\d+)_.*_(?P<label>[A-Z]+)_\d+$")
    (row,) = read_manifest(tmp_path / "x.tsv")
    assert (row.speaker, row.label) == ("F_01", "ANGRY")


def test_a_pattern_is_for_folders(tmp_path):
    (tmp_path / "x.tsv").write_text("path\na.wav\n")
    with pytest.raises(InputError, match=r"x\.tsv is a manifest; fill in its columns"):
        find_rows(tmp_path / "x.tsv", pattern="(?P<label>a)")
    with pytest.raises(InputError, match="leave it out, or the name of a corpus"):
        find_rows(tmp_path, "ravdess", "(?P<label>a)")
