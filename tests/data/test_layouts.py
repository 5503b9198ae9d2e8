"""Corpora in the layouts in which their authors publish them, and what cannot be read of one is named."""

import json
import shutil
from pathlib import Path

import pytest

from speechssl.core.errors import InputError
from speechssl.data.columns import Reading
from speechssl.data.corpora import find
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from tests.data.test_folders import SPITE, WANT, clips, put

Rows = list[tuple]


def rows(folder, *names: str, **options) -> Rows:
    """The named columns of the rows of a folder."""
    return sorted(tuple(getattr(row, name) for name in names) for row in find(folder, **options).rows)


def test_babel_has_the_segments_between_its_times(tmp_path):
    clips(tmp_path, "audio/B_inLine.sph")
    lines = [
        "[0.0]",
        "<no-speech>",
        "[0.2]",
        "ngiyabonga <breath> kakhulu",
        "[0.5]",
        "(()) yebo",
        "[0.6]",
        "yebo",
        "[0.9]",
    ]
    put(tmp_path / "transcription/B_inLine.txt", *lines)
    found = find(tmp_path)
    assert [(row.start, round(row.duration, 3), row.text) for row in found.rows] == [
        (0.2, 0.3, "ngiyabonga kakhulu"),
        (0.6, 0.3, "yebo"),
    ]
    assert "not all of the utterance is understood" in found.left_out[0][1]


def test_a_time_is_no_text(tmp_path):
    """Europarl-ST's segments.lst, whose texts are in a file of their own; CSS10's last column."""
    clips(tmp_path, "audios/a.wav", "audios/b.wav")
    put(tmp_path / "train/segments.lst", "a 0.1 0.5", "b 0.6 1.2")
    assert rows(tmp_path, "text") == [("",), ("",)] and "segments.lst is not read" in " ".join(find(tmp_path).notes)
    put(tmp_path / "transcript.txt", f"audios/a.wav|{SPITE}!|{SPITE}|1.50", f"audios/b.wav|{WANT}.|{WANT}|2.05")
    assert rows(tmp_path, "text") == [(SPITE,), (WANT,)]


def test_iemocap_has_the_texts_of_a_dialogue_in_a_file_called_as_its_recording(tmp_path):
    clips(tmp_path, "sentences/wav/S1/S1_F000.wav", "sentences/wav/S1/S1_M000.wav", "dialog/wav/S1.wav")
    lines = [f"S1_F000 [006.2901-008.2357]: {SPITE}", f"S1_M000 [007.5712-010.4750]: {WANT}"]
    put(tmp_path / "dialog/transcriptions/S1.txt", *lines)
    assert rows(tmp_path, "id", "text") == [("S1_F000", SPITE), ("S1_M000", WANT), ("dialog/wav/S1.wav", "")]


def test_a_text_in_a_folder_of_its_own_is_no_table_for_beginning_with_a_name(tmp_path):
    clips(tmp_path, "wav/yes.wav", "wav/no.wav")
    put(tmp_path / "txt/yes.txt", "yes of course", "yes indeed")
    put(tmp_path / "txt/no.txt", "no never")
    assert rows(tmp_path, "text") == [("no never",), ("yes of course yes indeed",)]


def test_thchs_has_the_first_line_of_what_its_pointers_lead_to_and_each_recording_once(tmp_path):
    clips(tmp_path, "data/A11_0.wav", "data/D4_1.wav")
    for split, name, text in (("train", "A11_0", "绿 是 阳春"), ("test", "D4_1", "他 仅")):
        put(tmp_path / f"data/{name}.wav.trn", text, "lv4 shi4", "l v4 sh ix4")
        put(tmp_path / f"{split}/{name}.wav.trn", f"../data/{name}.wav.trn")
        (tmp_path / f"{split}/{name}.wav").symlink_to(f"../data/{name}.wav")
    assert rows(tmp_path, "text", "split") == [("他 仅", "test"), ("绿 是 阳春", "train")]
    assert "read once: 2 recordings to which a link leads too" in find(tmp_path).notes


def test_voxforge_finds_the_recordings_of_its_own_folder(tmp_path):
    for speaker in ("anon-1", "ralf-2"):
        clips(tmp_path, f"{speaker}/wav/a0001.wav", f"{speaker}/wav/a0002.wav")
        lines = [f"{speaker}/mfc/a000{number} {speaker[:4].upper()} {number} SAID" for number in (1, 2)]
        put(tmp_path / f"{speaker}/etc/PROMPTS", *lines)
    assert rows(tmp_path, "speaker", "text") == [
        (speaker, f"{speaker[:4].upper()} {number} SAID") for speaker in ("anon-1", "ralf-2") for number in (1, 2)
    ]


@pytest.mark.parametrize("pair, texts", [("en-de", ["en", "de"]), ("taq_fra", ["fra"])])
def test_must_c_has_its_segments_with_the_language_that_is_spoken(pair, texts, tmp_path):
    for split in ("train", "dev"):
        txt = tmp_path / f"{pair}/data/{split}/txt"
        clips(tmp_path, f"{pair}/data/{split}/wav/{split}_1.wav")
        line = "- {{duration: 0.25, offset: {}, rW: 9, uW: 0, speaker_id: spk.1, wav: {}_1.wav}}"
        put(txt / f"{split}.yaml", line.format(0.1, split), line.format("0.500000", split))
        for name in texts:
            put(txt / f"{split}.{name}", f"{name} one", f"{name} two")
    first = texts[0]
    expected = [
        (split, start, 0.25, f"{first} {n}") for split in ("dev", "train") for start, n in ((0.1, "one"), (0.5, "two"))
    ]
    assert rows(tmp_path, "split", "start", "duration", "text") == expected
    assert not find(tmp_path).notes and not find(tmp_path).ignored
    table = tmp_path / f"{pair}/data/dev/txt/dev.yaml"
    assert [row.text for row in read_manifest(table)] == [f"{first} one", f"{first} two"]  # wav beside txt is found
    (table.parent / "dev.xx").write_text("one\n")
    with pytest.raises(InputError, match=r"has 2 segments, and dev\.xx 1 lines"):
        read_manifest(table)


def test_of_two_languages_that_nothing_tells_apart_one_is_named_by_hand(tmp_path):
    clips(tmp_path, "wav/a.wav")
    put(tmp_path / "txt/a.yaml", "- {duration: 0.5, offset: 0.1, wav: a.wav}")
    for name in ("bem", "eng"):
        put(tmp_path / f"txt/a.{name}", f"{name} one")
    with pytest.raises(InputError, match=r"nothing says which of bem, eng is spoken; say so: .* --columns text=bem"):
        read_manifest(tmp_path / "txt/a.yaml")
    assert "nothing says which of bem, eng is spoken" in find(tmp_path).notes[0]
    put(tmp_path / "settings.yaml", "rate: 16000")
    assert len([note for note in find(tmp_path).notes if "settings.yaml" in note]) == 1  # no table
    assert read_manifest(tmp_path / "txt/a.yaml", reading=Reading(columns={"text": "bem"}))[0].text == "bem one"


def test_an_stm_of_many_recordings_is_a_table(tmp_path):
    clips(tmp_path, "wav/call.wav", "wav/talk.wav")
    lines = [
        "call A ann 0.1 0.4 <o> one",
        "call B bob 0.1 0.5 <o> two",
        "call A ann 0.6 0.7 ignore_time_segment_in_scoring",
    ]
    put(tmp_path / "ref.stm", ";; by hand", *lines, f"talk 1 cid 0.2 0.9 {WANT}")
    expected = [("call", "0", "ann", 0.1, "one"), ("call", "1", "bob", 0.1, "two"), ("talk", "", "cid", 0.2, WANT)]
    found = find(tmp_path).rows
    assert [(r.id.partition("@")[0], r.channel, r.speaker, r.start, r.text) for r in found] == expected
    assert len(set(found.column("id"))) == 3 and not find(tmp_path).notes
    put(tmp_path / "hyp.ctm", "talk 1 0.1 0.2 one", "talk 1 0.4 0.2 two", "call A 0.1 0.3 three")
    assert [row.text for row in read_manifest(tmp_path / "hyp.ctm")] == ["one two", "three"]


@pytest.mark.parametrize("indent", [None, 1])
def test_gigaspeech_has_a_row_for_each_segment(indent, tmp_path):
    clips(tmp_path, "audio/P1.wav")
    parts = [
        {"sid": f"P1_S{n}", "begin_time": n / 2, "end_time": n / 2 + 0.25, "text_tn": f"SAY {n}", "subsets": ["{XS}"]}
        for n in (0, 1)
    ]
    whole = {"aid": "P1", "path": "audio/P1.wav", "duration": 900, "segments": parts, "language": "EN"}
    document = {"dataset": "GigaSpeech", "version": "1", "audios": [whole]}
    (tmp_path / "GigaSpeech.json").write_text(json.dumps(document, indent=indent))
    assert rows(tmp_path, "start", "duration", "text") == [(0, 0.25, "SAY 0"), (0.5, 0.25, "SAY 1")]


def test_globalphone_and_wsj_have_the_texts_of_their_lists(tmp_path):
    clips(tmp_path, "HA/wav/001/HA001_1.wav", "HA/wav/001/HA001_2.wav", "wsj0/si/011c0201.wav", "wsj0/si/011c0202.wav")
    put(tmp_path / "HA/trl/HA001.trl", ";SprecherID 001", "; 1:", "ina kwana", "; 2:", "lafiya lau")
    put(tmp_path / "wsj0/dots/011c0200.dot", "The sale (011c0201)", "is part of it (011c0202)")
    assert rows(tmp_path, "id", "text") == [
        ("011c0201", "The sale"),
        ("011c0202", "is part of it"),
        ("HA001_1", "ina kwana"),
        ("HA001_2", "lafiya lau"),
    ]


def test_speech_commands_has_its_speakers_words_and_splits(tmp_path):
    clips(
        tmp_path,
        *[f"{word}/{who}_nohash_0.wav" for word in ("yes", "no") for who in ("0a7c2a8d", "1b88bf70", "2bdbe5f7")],
    )
    put(tmp_path / "validation_list.txt", "yes/1b88bf70_nohash_0.wav", "no/1b88bf70_nohash_0.wav")
    put(tmp_path / "testing_list.txt", "yes/2bdbe5f7_nohash_0.wav", "no/2bdbe5f7_nohash_0.wav")
    assert rows(tmp_path, "label", "speaker", "text", "split") == [
        (word, who, word, split)
        for word in ("no", "yes")
        for who, split in (("0a7c2a8d", "train"), ("1b88bf70", "dev"), ("2bdbe5f7", "test"))
    ]
    assert not find(tmp_path).ignored


def test_transcripts_of_another_ending_are_named_and_read_on_demand(tmp_path):
    """Mboshi: .mb and .fr beside each recording. TIMIT's .WRD counts samples."""
    clips(tmp_path, "a.wav", "b.wav")
    for name, text in (("a", "ngá ibvúyá"), ("b", "wa bísi")):
        put(tmp_path / f"{name}.mb", text)
        put(tmp_path / f"{name}.fr", "moi le sac")
    assert "--columns text=.mb reads them" in " ".join(find(tmp_path).notes)
    assert rows(tmp_path, "text", reading=Reading(columns={"text": ".mb"})) == [("ngá ibvúyá",), ("wa bísi",)]
    put(tmp_path / "a.WRD", "1600 8000 she", "8000 12800 had")
    timed = rows(tmp_path, "start", "text", reading=Reading(columns={"text": ".wrd"}))
    assert timed == [(0, ""), (0.1, "she"), (0.5, "had")]
    with pytest.raises(InputError, match=r"holds no file that ends in \.xx"):
        find(tmp_path, reading=Reading(columns={"text": ".xx"}))


def test_lists_that_fit_no_recording_are_named_with_one_of_them(tmp_path):
    clips(tmp_path, "audio/sw02001.wav")
    put(tmp_path / "trans/sw2001A-trans.text", "sw2001A-0001 0.0 0.9 hi um yeah")
    put(tmp_path / "words/ES2002a.A.words.xml", "<nite/>")
    put(tmp_path / "README.txt", "x")
    note = next(note for note in find(tmp_path).notes if "name no recording here" in note)
    assert (
        note
        == f"not read, as they name no recording here: 2 files (.text, .xml) such as {tmp_path}/trans/sw2001A-trans.text"
    )


def test_globalphone_as_published_says_how_to_open_its_audio(tmp_path):
    put(tmp_path / "adc/001/HA001_1.adc.shn", "ajkg")
    put(tmp_path / "trl/HA001.trl", "; 1:", "ina kwana")
    with pytest.raises(InputError, match=r"holds no audio; .*not opened: 1 file .* \(convert them to wav"):
        find(tmp_path)


def test_mark_up_of_an_unknown_kind_is_no_transcript(tmp_path):
    clips(tmp_path, "a.wav", "b.wav")
    put(tmp_path / "a.exb", '<?xml version="1.0"?>', "<basic-transcription/>")
    put(tmp_path / "b.exb", "plain words")
    found = find(tmp_path, reading=Reading(columns={"text": ".exb"}))
    assert [row.text for row in found.rows] == ["plain words"] and "a.exb is no plain text" in found.left_out[0][1]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("texts.json", [json.dumps({"wav/a.wav": WANT, "wav/b.wav": SPITE})]),
        ("texts.txt", [f"a.wav: {WANT}", f"b.wav: {SPITE}"]),
        ("notes.txt", [f"a : {WANT}", f"b : {SPITE}"]),
        ("prompts.txt", [f"a = {WANT}", f"b = {SPITE}"]),
    ],
)
def test_names_and_texts_in_pairs(name, lines, tmp_path):
    clips(tmp_path, "wav/a.wav", "wav/b.wav")
    put(tmp_path / name, *lines)
    assert rows(tmp_path, "text") == [(SPITE,), (WANT,)]


def test_times_may_be_those_of_a_clock(tmp_path):
    clips(tmp_path, "a.wav")
    put(tmp_path / "t.csv", "file,start,end,text", 'a.wav,00:00:00.250,"0:01,5",one', "a.wav,0:1.5,00:00:02,two")
    assert [(row.start, row.duration) for row in read_manifest(tmp_path / "t.csv")] == [(0.25, 1.25), (1.5, 0.5)]


def test_what_datasets_saves_beside_its_tables_is_no_table(tmp_path):
    for split in ("train", "test"):
        shutil.copytree(Path(__file__).parent / "tables/saved", tmp_path / split)
    put(tmp_path / "dataset_dict.json", '{"splits": ["train", "test"]}')
    summary = prepare(tmp_path, tmp_path / "out/x.tsv", jobs=1)
    assert (summary.kept, summary.rejected, len(summary.notes)) == (4, 0, 2)
    assert sorted(row.split for row in read_manifest(tmp_path / "out/x.tsv")) == ["test", "test", "train", "train"]
