"""Transcripts beside recordings: what Praat, ELAN and caption tools write becomes rows, and nothing of it is lost unsaid."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier
from praatio.data_classes.point_tier import PointTier
from pympi.Elan import Eaf

from speechssl.core.errors import InputError
from speechssl.data.aligned import read_captions, read_elan, read_plain, read_textgrid
from speechssl.data.corpora import find, find_rows
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.text.formats import write
from speechssl.text.transcript import Transcript, Word
from tests.conftest import CLIP, DATA

LONG = DATA / "librispeech_test" / "3331-159605-0004.flac"
SAID = [(0.1, 0.9, 'she said "hi"'), (0.9, 1.25, "Ünï xmin = 3"), (1.5, 2.0, "नमस्ते")]


def recording(folder: Path, name: str = "a.wav") -> Path:
    """A clip of two seconds."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(CLIP, path)
    return path


def rows_of(folder: Path, **options) -> list[tuple]:
    """(name, start, end, text, speaker) of every row."""
    rows = find(folder, **options).rows
    ends = [round(row.start + row.duration, 3) if row.duration == row.duration else None for row in rows]
    return [(Path(r.path).name, r.start, end, r.text, r.speaker) for r, end in zip(rows, ends, strict=True)]


def grid(path: Path, style: str, *tiers, maximum: float = 2.0) -> Path:
    """A TextGrid written by praatio. tiers: (name, entries); entries of two are points."""
    made = textgrid.Textgrid(0, maximum)
    for name, entries in tiers:
        kind = PointTier if len(entries[0]) == 2 else IntervalTier
        made.addTier(kind(name, entries, 0, maximum))
    made.save(str(path), format=style, includeBlankSpaces=True)
    return path


@pytest.mark.parametrize("style", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_textgrid_becomes_rows(style, encoding, tmp_path):
    recording(tmp_path, "anna/a.wav")
    path = grid(tmp_path / "anna/a.TextGrid", style, ("bell", [(0.5, "ding")]), ("utterance", SAID))
    text = path.read_text("utf-8")
    path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))
    assert rows_of(tmp_path) == [("a.wav", start, end, text, "anna") for start, end, text in SAID]
    assert "3 rows with the text of .TextGrid files beside the audio: tier utterance" in find(tmp_path).notes


def test_a_textgrid_may_have_comments_line_breaks_and_no_labels():
    text = 'File type = "ooTextFile"\nObject class = "TextGrid"\n! by hand\n0s 2s <exists> 1 ! one tier\n'
    text += '"IntervalTier" "words" 0 2 2\n0 1 "one\ntwo" ! comment "here"\n1 2s ""\n'
    (tier,) = read_textgrid(text, "a.TextGrid")
    assert [tuple(segment)[:3] for segment in tier.spoken] == [(0.0, 1.0, "one two")]


@pytest.mark.parametrize("cut", [20, 60, 200, 330])
def test_a_damaged_textgrid_leaves_its_recording_out_and_says_so(cut, tmp_path):
    recording(tmp_path)
    recording(tmp_path, "b.wav")
    path = grid(tmp_path / "a.TextGrid", "long_textgrid", ("utterance", SAID))
    path.write_text(path.read_text("utf-8")[:cut], "utf-8")
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, dict(summary.reasons)) == (1, {"transcript cannot be read": 1})
    assert "a.TextGrid is not a whole TextGrid" in (tmp_path / "x.rejected.tsv").read_text("utf-8")


def test_the_tier_is_chosen_by_its_name_and_the_others_are_named(tmp_path):
    recording(tmp_path)
    tiers = [("notes", [(0, 2, "a dog barks")]), ("ortho", [(0, 1, "hello")]), ("words", [(0, 1, "hallo")])]
    grid(tmp_path / "a.TextGrid", "short_textgrid", *tiers)
    assert rows_of(tmp_path) == [("a.wav", 0, 1, "hello", "")]
    assert "tier ortho (not read: notes, words; --tier chooses)" in find(tmp_path).notes[0]
    assert rows_of(tmp_path, tier="notes") == [("a.wav", 0, 2, "a dog barks", "")]
    left = find(tmp_path, tier="gloss").left_out
    assert left[0][0].endswith("a.wav") and "no tier 'gloss' with text in a.TextGrid" in left[0][1]


def test_tiers_of_several_speakers_are_read_when_named(tmp_path):
    recording(tmp_path)
    grid(tmp_path / "a.TextGrid", "long_textgrid", ("Anna", [(0, 1, "hello")]), ("Ben", [(0.5, 2, "yes?")]))
    assert rows_of(tmp_path) == [("a.wav", 0, 1, "hello", "")]
    assert "tier anna (not read: ben; --tier chooses)" in find(tmp_path).notes[0]
    both = [("a.wav", 0, 1, "hello", "Anna"), ("a.wav", 0.5, 2, "yes?", "Ben")]
    assert rows_of(tmp_path, tier="Anna,Ben") == both


def test_words_and_phones_of_an_aligner_do_not_replace_the_sentence(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.lab").write_text("hello there\n")
    tiers = [("anna - words", [(0, 1, "hello"), (1, 2, "there")]), ("anna - phones", [(0, 1, "h"), (1, 2, "e")])]
    grid(tmp_path / "a.TextGrid", "long_textgrid", *tiers)
    assert rows_of(tmp_path) == [("a.wav", 0, None, "hello there", "")]
    assert rows_of(tmp_path, tier="words") == [("a.wav", 0, 1, "hello", "anna"), ("a.wav", 1, 2, "there", "anna")]


def elan(path: Path) -> Path:
    """An ELAN file written by pympi: two speakers, the one with a tier that refers to another, and notes."""
    made = Eaf()
    made.add_linguistic_type("refers", "Symbolic_Association")
    for speaker, times in (("anna", [(100, 900), (900, 1250)]), ("ben", [(1000, 2000)])):
        made.add_tier(f"ref@{speaker}", part=speaker)
        made.add_tier(f"orth@{speaker}", ling="refers", parent=f"ref@{speaker}", part=speaker)
        for number, (start, end) in enumerate(times):
            made.add_annotation(f"ref@{speaker}", start, end, f".00{number}")
            made.add_ref_annotation(f"orth@{speaker}", f"ref@{speaker}", start + 1, f"{speaker} sagt {number}")
    made.add_tier("notes")
    made.add_annotation("notes", 0, 2000, "a dog barks")
    made.to_file(str(path))
    return path


def test_elan_tiers_become_rows_with_their_speakers(tmp_path):
    recording(tmp_path)
    elan(tmp_path / "a.eaf")
    said = [(0.1, 0.9, "anna sagt 0", "anna"), (0.9, 1.25, "anna sagt 1", "anna"), (1.0, 2.0, "ben sagt 0", "ben")]
    assert rows_of(tmp_path) == [("a.wav", *row) for row in said]
    assert "tier orth (not read: ref, notes; --tier chooses)" in find(tmp_path).notes[0]
    assert [row[3] for row in rows_of(tmp_path, tier="notes")] == ["a dog barks"]
    assert [row[4] for row in rows_of(tmp_path, tier="orth@ben")] == ["ben"]


ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL="file:///a.wav"/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="t2"/><TIME_SLOT TIME_SLOT_ID="t3"/>
<TIME_SLOT TIME_SLOT_ID="t4" TIME_VALUE="1500"/></TIME_ORDER>
<TIER TIER_ID="anna">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2">
<ANNOTATION_VALUE>one</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="t2" TIME_SLOT_REF2="t3">
<ANNOTATION_VALUE>two</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="t3" TIME_SLOT_REF2="t4">
<ANNOTATION_VALUE></ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="gloss" PARENT_REF="anna">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1"><ANNOTATION_VALUE>eins</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a1" PREVIOUS_ANNOTATION="a4">
<ANNOTATION_VALUE>a</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
</ANNOTATION_DOCUMENT>"""


def test_elan_slots_without_a_time_lie_evenly_and_parts_of_an_annotation_are_joined():
    anna, gloss = read_elan(ELAN, "a.eaf")
    assert [tuple(segment)[:4] for segment in anna.spoken] == [(0.0, 0.5, "one", "anna"), (0.5, 1.0, "two", "anna")]
    assert [tuple(segment)[:4] for segment in gloss.spoken] == [(0.0, 0.5, "eins a", "anna")]
    shifted = read_elan(ELAN.replace('"file:///a.wav"', '"file:///a.wav" TIME_ORIGIN="250"'), "a.eaf")
    assert shifted[0].segments[0].start == 0.25


def test_elan_files_cannot_reach_out(tmp_path):
    (tmp_path / "secret.txt").write_text("precious")
    head = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{tmp_path}/secret.txt">]>'
    with pytest.raises(InputError, match=r"a\.eaf .*it declares entities"):
        read_elan(
            ELAN.replace("<ANNOTATION_DOCUMENT>", head + "<ANNOTATION_DOCUMENT>").replace(">one<", ">&e;<"), "a.eaf"
        )
    for damaged in (ELAN[:700], ELAN.replace('ANNOTATION_REF="a1"', 'ANNOTATION_REF="a9"'), "<x/", ""):
        with pytest.raises(InputError, match="not a whole ELAN file"):
            read_elan(damaged, "a.eaf")


@pytest.mark.parametrize("read", [read_textgrid, read_elan, read_captions, read_plain])
def test_no_damaged_transcript_ends_in_a_traceback(read, tmp_path):
    random = np.random.default_rng(1)
    whole = {
        read_textgrid: grid(tmp_path / "a.TextGrid", "long_textgrid", ("text", SAID)).read_text("utf-8"),
        read_elan: ELAN,
        read_captions: "WEBVTT\n\n00:00.250 --> 00:01.000\n<v Anna>one &amp; two</v>\n",
        read_plain: "0.1\t0.9\tone\n",
    }[read]
    for _ in range(400):
        letters = list(whole)
        for place in random.integers(len(letters), size=random.integers(1, 6)):
            letters[place] = random.choice([*'9"<>=/&\n\t ', "9" * 400, "", whole[:50]])
        with contextlib.suppress(InputError):
            tiers = read("".join(letters), "a")
            assert all(isinstance(segment.text, str) for tier in tiers for segment in tier.segments)


def test_captions_become_rows(tmp_path):
    recording(tmp_path)
    recording(tmp_path, "b.wav")
    srt = "1\n00:00:00,100 --> 00:00:00,900\n<i>one</i>\ntwo\n\n2\n00:00:01,000 --> 00:00:01,500\n3 {\\an8}& 4\n"
    (tmp_path / "a.srt").write_bytes(srt.replace("\n", "\r\n").encode("utf-8-sig"))
    cue = "x\n00:00.250 --> 00:01.000 align:start\n<v Anna>one &amp; <00:00.500>two</v>\n"
    (tmp_path / "b.vtt").write_text(f"WEBVTT\n\nNOTE not said\n\nSTYLE\n::cue {{}}\n\n{cue}")
    assert rows_of(tmp_path) == [
        ("a.wav", 0.1, 0.9, "one two", ""),
        ("a.wav", 1.0, 1.5, "3 & 4", ""),
        ("b.wav", 0.25, 1.0, "one & two", "Anna"),
    ]


def test_captions_of_one_language_are_read_and_of_two_are_named(tmp_path):
    recording(tmp_path, "talk.wav")
    (tmp_path / "talk.en.vtt").write_text("WEBVTT\n\n00:00.250 --> 00:01.000\none\n")
    assert [row[3] for row in rows_of(tmp_path)] == ["one"]
    (tmp_path / "talk.pt-BR.vtt").write_text("WEBVTT\n\n00:00.250 --> 00:01.000\num\n")
    assert [row[3] for row in rows_of(tmp_path)] == [""]
    assert "2 files (.vtt) such as" in find(tmp_path).notes[0]


def test_of_several_transcripts_the_best_is_read_and_the_others_are_named(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.txt").write_text("the whole")
    (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\none\n")
    assert [row[3] for row in rows_of(tmp_path)] == ["one"]
    assert find(tmp_path).notes == ["1 row with the text of .srt files beside the audio; not of .txt files there"]


def test_where_no_text_is_needed_a_damaged_transcript_costs_no_recording(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert [row.text for row in find_rows(tmp_path)[0]] == [""]
    assert len(find(tmp_path).rows) == 0


def test_captions_without_empty_lines_are_told_apart():
    (tier,) = read_captions("1\n00:00:00,1 --> 00:00:01,0\n12 apples\n2\n00:00:01,0 --> 00:00:02,0\nmore\n", "a.srt")
    assert [segment.text for segment in tier.segments] == ["12 apples", "more"]


def test_labels_of_audacity_and_of_htk_have_times_and_a_text_of_numbers_has_none():
    (tier,) = read_plain("0.100000\t0.900000\tone two\n\\\t100\t200\n1,5\t2,0\tthree\n", "a.txt")
    assert [tuple(segment)[:3] for segment in tier.segments] == [(0.1, 0.9, "one two"), (1.5, 2.0, "three")]
    (tier,) = read_plain("0 1200000 sil\n1200000 2500000 a\n", "a.lab")
    assert [segment.end for segment in tier.segments] == pytest.approx([0.12, 0.25])
    for text in ("1 2 3", "10 20 30\n40 50 60"):
        (tier,) = read_plain(text, "a.txt")
        assert tier.segments[0].text == " ".join(text.split())


def test_what_transcribe_writes_is_read_back(tmp_path):
    words = [Word(text="one", start=0.1, end=0.5, score=1.0), Word(text="two", start=1.7, end=2.0, score=1.0)]
    recording(tmp_path)
    for style in ("srt", "vtt"):
        (tmp_path / f"a.{style}").write_text(write(Transcript(text="one two", words=words, duration=2.0), style))
        assert [row[1:4] for row in rows_of(tmp_path)] == [(0.1, 0.5, "one"), (1.7, 2.0, "two")]
        (tmp_path / f"a.{style}").unlink()


def test_two_who_speak_at_once_are_two_rows_in_the_manifest(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:00.100 --> 00:01.000\n<v Anna>one\n\n00:00.100 --> 00:02.000\n<v Ben>two\n\n00:01.900 --> 00:09.000\nend\n"
    )
    summary = prepare(tmp_path, tmp_path / "x.tsv", jobs=1)
    rows = list(read_manifest(tmp_path / "x.tsv"))
    assert (summary.kept, summary.rejected) == (3, 0)
    assert [(row.text, row.speaker) for row in rows] == [("one", "Anna"), ("two", "Ben"), ("end", "")]
    assert rows[2].duration == pytest.approx(audio.info(CLIP).duration - 1.9, abs=2e-3)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.lab", "a.normalized.txt", "a.wav.txt"])
def test_a_plain_text_is_the_transcript_of_the_whole(name, tmp_path):
    recording(tmp_path)
    (tmp_path / "a.original.txt").write_text("One, Two!")
    (tmp_path / name).write_text("one\n two\n")
    assert rows_of(tmp_path) == [("a.wav", 0, None, "one two", "")]
    assert not find(tmp_path).ignored


@pytest.mark.parametrize("composed", [True, False])
def test_composed_and_decomposed_names_meet(composed, tmp_path):
    sound, text = ("\u00e9", "e\u0301") if composed else ("e\u0301", "\u00e9")
    recording(tmp_path, f"{sound}.wav")
    (tmp_path / f"{text}.txt").write_text("café")
    assert [row[3] for row in rows_of(tmp_path)] == ["café"]
    (tmp_path / "metadata.tsv").write_text(f"path\ttext\n{text}.wav\tfrom the table\n", "utf-8")
    (row,) = find(tmp_path).rows
    assert (row.text, os.path.exists(row.path)) == ("from the table", True)


def test_a_full_stop_in_a_name_is_not_an_ending(tmp_path):
    for name in ("1.wav", "1.1.wav", "1.2.wav"):
        recording(tmp_path, name)
    (tmp_path / "1.1.txt").write_text("of one point one")
    (tmp_path / "1.TextGrid").write_bytes(
        grid(tmp_path / "x.TextGrid", "long_textgrid", ("text", SAID[:1])).read_bytes()
    )
    assert [(row[0], row[3]) for row in rows_of(tmp_path)] == [
        ("1.1.wav", "of one point one"),
        ("1.2.wav", ""),
        ("1.wav", 'she said "hi"'),
    ]


def test_transcripts_may_lie_in_a_folder_that_mirrors_the_audio(tmp_path):
    for speaker in ("anna", "ben"):
        recording(tmp_path, f"wav/{speaker}/1.wav")
        (tmp_path / "txt" / speaker).mkdir(parents=True)
        (tmp_path / "txt" / speaker / "1.txt").write_text(f"I am {speaker}")
    assert [(row[3], row[4]) for row in rows_of(tmp_path)] == [("I am anna", "anna"), ("I am ben", "ben")]


def test_a_transcript_that_could_be_of_two_recordings_is_of_none(tmp_path):
    for name in ("train/1.wav", "more/1.wav", "ben/1.wav"):
        recording(tmp_path, name)
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/1.txt").write_text("whose?")
    (tmp_path / "ben/1.txt").write_text("mine")
    assert sorted(row[3] for row in rows_of(tmp_path)) == ["", "", "mine"]


def test_transcripts_that_are_not_read_are_named(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.mlf").write_text("#!MLF!#")
    grid(tmp_path / "gone.TextGrid", "short_textgrid", ("utterance", SAID))
    notes = " ".join(find(tmp_path).notes)
    assert "not read: 1 .mlf file beside the audio" in notes
    assert f"as they name no recording here: 1 file (.textgrid) such as {tmp_path / 'gone.TextGrid'}" in notes
    assert [row.text for row in find_rows(tmp_path)[0]] == [""]
