"""Transcripts of conversations: Transcriber, CHAT and CTM become rows with times and speakers."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechssl.core.errors import InputError
from speechssl.data.corpora import find
from speechssl.data.nist import read_ctm
from speechssl.data.prepare import prepare
from speechssl.data.tables import read_manifest
from speechssl.data.talk import read_chat, read_trs
from speechssl.sound import audio
from tests.data.test_sidecars import recording, rows_of

TRS = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE Trans SYSTEM "trans-14.dtd">
<Trans scribe="x" audio_filename="a" version="2" version_date="040101">
<Speakers><Speaker id="spk1" name="Amélie" type="female"/><Speaker id="spk2" name="Bruno"/></Speakers>
<Episode><Section type="report" startTime="0" endTime="1.9">
<Turn startTime="0" endTime="0.25"><Sync time="0"/></Turn>
<Turn speaker="spk1" startTime="0.25" endTime="1.2"><Sync time="0.25"/>
il était <Event desc="b" type="noise" extent="instantaneous"/> là
<Sync time="0.75"/>
<Comment desc="bas"/>oui
</Turn>
<Turn speaker="spk1 spk2" startTime="1.2" endTime="1.9"><Sync time="1.2"/>
<Who nb="1"/>
non
<Who nb="2"/>
mais si
</Turn></Section></Episode></Trans>
"""

CHAT = (
    "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tCHI Ida Target_Child, MOT Mother\n@Media:\ta, audio\n"
    "*CHI:\tmore cookie . \x15100_600\x15\n%mor:\tqn|more n|cookie .\n"
    "*MOT:\t&-uh <you want> [/] you want (an)other ice+cream@s:eng (.) 0do &=laughs\n\tdog(s) [* p] ? \x15700_1200\x15\n"
    "*CHI:\txxx mine . \x151200_1400\x15\n*MOT:\t&=sighs .\n*CHI:\t+< no +/. \x151500_1900\x15\n@End\n"
)

CTM = ";; by hand\na 1 0.10 0.20 one 0.9\na 1 0.35 .15 two\na 1 0.6 0.1 <eps>\na 1 1.2 0.3 three 1.0\n"


def test_transcriber_files_become_rows_whatever_encoding_they_name(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.trs").write_bytes(TRS.encode("latin-1"))
    assert rows_of(tmp_path) == [
        ("a.wav", 0.25, 0.75, "il était là", "Amélie"),
        ("a.wav", 0.75, 1.2, "oui", "Amélie"),
        ("a.wav", 1.2, 1.9, "mais si", "Bruno"),
        ("a.wav", 1.2, 1.9, "non", "Amélie"),
    ]
    assert not find(tmp_path).ignored


def test_chat_files_become_rows_of_what_is_said(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.cha").write_text(CHAT, encoding="utf-8")
    assert rows_of(tmp_path) == [
        ("a.wav", 0.1, 0.6, "more cookie.", "Ida"),
        ("a.wav", 0.7, 1.2, "uh you want you want other ice cream dog?", "a/MOT"),
        ("a.wav", 1.5, 1.9, "no", "Ida"),
    ]
    summary = prepare(tmp_path, tmp_path / "out" / "all.tsv")
    assert (summary.kept, summary.speakers, summary.rejected) == (3, 2, 1)
    assert "1 rejected: not all of the utterance is understood or written down" in str(summary)


def test_chat_utterances_without_a_time_among_others_with_one_are_counted(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.cha").write_text(CHAT.replace(" \x15700_1200\x15", ""), encoding="utf-8")
    summary = prepare(tmp_path, tmp_path / "out" / "all.tsv")
    assert "1 rejected: the utterance has no time, while others have one" in str(summary) and summary.kept == 2
    assert "you want other ice cream dog? at 0.6 s" in (tmp_path / "out" / "all.rejected.tsv").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("<xxx> [>] .", None),
        ("go to xxx.", None),
        ("⌈xxx⌉ okay .", None),
        ("go xxx@si .", None),
        ("&{n=waves the cat &}n=waves", "the cat"),
        ("⌈2 yes⌉2 no ⌊3 mhm ⌋3", "yes no mhm"),
        ("compound@s&eng+spa .", "compound."),
        ("at 10:30 no: .", "at 10:30 no."),
        ("(what is it) ‹bye›", "what is it bye"),
    ],
)
def test_marks_of_chat_are_no_text(line, said):
    (tier,) = read_chat(f"@Begin\n*MOT:\t{line} \x150_900\x15\n@End\n", "a.cha")
    assert [segment.text for segment in tier.spoken] == ([] if said is None else [said])
    assert all(segment.fault for segment in tier.segments) == (said is None)


def test_chat_without_times_is_the_text_of_the_recording(tmp_path):
    untimed = "".join(part for part in CHAT.split("\x15") if "_" not in part or "Child" in part)
    (tier,) = read_chat(untimed.replace("xxx", "all"), "a.cha")
    assert [segment.text for segment in tier.spoken] == [
        "more cookie. uh you want you want other ice cream dog? all mine. no"
    ]
    (tier,) = read_chat(untimed, "a.cha")  # the text of the whole would lack a part
    assert not tier.spoken and "understood" in tier.segments[0].fault


def test_a_pause_of_transcriber_belongs_to_no_segment():
    text = TRS.replace('<Sync time="0.75"/>', '<Sync time="0.5"/>\n<Event desc="music"/>\n<Sync time="0.75"/>')
    (tier,) = read_trs(text, "a.trs")
    assert [(part.start, part.end, part.text) for part in tier.spoken[:2]] == [
        (0.25, 0.5, "il était là"),
        (0.75, 1.2, "oui"),
    ]
    numbered = read_trs(text.replace('name="Bruno"', 'name="speaker#2"'), "b/a.trs")[0]
    assert {part.speaker for part in numbered.spoken} == {"Amélie", "a/speaker#2"}


def test_a_ctm_of_a_call_is_read_channel_by_channel_and_in_the_order_of_time(tmp_path):
    lines = ["a A 5 .3 last", "a A 0 .5 hello", "a A .6 .3 world", "a B 3 .5 yes", "a B 3.5 .3 sir", "b A 0 1 other"]
    (tier,) = read_ctm("\n".join([*lines, "a A * * <ALT_BEGIN>"]), "x/a.ctm")
    assert [(part.start, part.text, part.channel) for part in tier.spoken] == [
        (0.0, "hello world", "0"), (5.0, "last", "0"), (3.0, "yes sir", "1"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="2 recordings, of which none is called c"):
        read_ctm("\n".join(lines), "c.ctm")
    (tier,) = read_ctm("a 1 0 5 long\na 1 0.5 0.3 short", "a.ctm")
    assert tier.spoken[0].end == 5.0


def test_words_of_a_ctm_are_cut_at_pauses(tmp_path):
    recording(tmp_path)
    (tmp_path / "a.ctm").write_text(CTM)
    assert rows_of(tmp_path) == [("a.wav", 0.1, 0.5, "one two", ""), ("a.wav", 1.2, 1.5, "three", "")]
    (tmp_path / "a.txt").write_text("one two, three")
    assert [row[3] for row in rows_of(tmp_path)] == [
        "one two, three"
    ]  # the whole text, with its punctuation, comes first


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_trs, TRS[:600], "not a whole Transcriber file"),
        (read_trs, TRS.replace('endTime="1.2"', 'endTime="x"'), "not a whole Transcriber file"),
        (read_trs, TRS.replace("<Trans ", '<!ENTITY e "x"><Trans '), "declares entities"),
        (read_chat, "CHI: hello", "no line @Begin"),
        (read_trs, TRS.replace('startTime="0.25"', 'startTime="nan"'), "not a whole Transcriber file"),
        (read_trs, "<foo/>", "it begins with <foo>"),
        (read_ctm, "a 1 0.1 one", "line 1 is not `file channel start duration word`"),
        (read_ctm, ";; nothing", "holds no words"),
    ],
)
def test_damaged_files_are_named(read, text, message):
    with pytest.raises(InputError, match=message):
        read(text, "a.x")


@pytest.mark.parametrize(("read", "text"), [(read_trs, TRS), (read_chat, CHAT), (read_ctm, CTM)])
def test_no_damage_ends_in_a_traceback(read, text):
    random, letters = np.random.default_rng(1), np.array(list(text))
    for _ in range(300):
        damaged = letters.copy()
        damaged[random.integers(len(letters), size=3)] = random.choice(list('<>"&\n\t 0a\x15'), size=3)
        try:
            read("".join(damaged), "a.x")
        except InputError:
            continue


def test_a_row_that_cannot_be_used_is_set_aside_and_the_others_are_read(tmp_path):
    seconds = len(audio.load(recording(tmp_path))) / audio.SAMPLE_RATE
    recording(tmp_path, "b.wav")
    lines = [
        "path,start,end,text",
        "a.wav,,,one",
        "b.wav,soon,,two",
        ",,,three",
        "b.wav,0.5,0.2,four",
        "b.wav,,,5,6",
        "b.wav,,,7",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "t.csv", tmp_path):
        out = tmp_path / "out" / "all.tsv"
        summary = prepare(source, out)
        assert (summary.kept, summary.rejected) == (2, 4) and summary.seconds == pytest.approx(2 * seconds, abs=1e-3)
        assert "4 rejected: the row cannot be used" in str(summary)
        left_out = out.with_name("all.rejected.tsv").read_text().splitlines()[1:]
        assert [line.partition("t.csv line ")[2][:1] for line in left_out] == ["3", "4", "5", "6"]
    (tmp_path / "t.csv").write_text("\n".join(lines[:1] + lines[2:4]) + "\n")
    with pytest.raises(InputError, match=r"t\.csv has no row that can be used; the last one, .*line 3: has no path"):
        prepare(tmp_path / "t.csv", tmp_path / "out" / "none.tsv")


def test_lines_of_kaldi_that_cannot_be_used_are_set_aside(tmp_path):
    recording(tmp_path)
    (tmp_path / "wav.scp").write_text("r1 a.wav\nr2 sph2pipe -f wav x.sph |\n")
    (tmp_path / "segments").write_text("u1 r1 0.1 0.9\nu2 r2 0 1\nu3 r3 0 1\nu4 r1 1 0.5\n")
    summary = prepare(tmp_path, tmp_path / "out" / "all.tsv")
    assert (summary.kept, summary.rejected) == (1, 3)


def test_rows_that_are_set_aside_are_not_lost(tmp_path):
    for name in "abcd":
        recording(tmp_path, f"{name}.wav")
    table, out = tmp_path / "x.tsv", tmp_path / "out" / "all.tsv"
    table.write_text("path\ttext\tsplit\tstart\na.wav\thello\ttrain\t\nb.wav\tbad\ttest\tsoon\nc.wav\tc\ttest\t\n")
    assert prepare(tmp_path, out).kept == 3
    assert [Path(row.path).name for row in read_manifest(out)] == [
        "a.wav",
        "c.wav",
        "d.wav",
    ]  # no b.wav without its split
    with pytest.raises(InputError, match=r"1 row of .*x\.tsv cannot be used, and would be lost"):
        prepare(table, table)
    assert "b.wav" in table.read_text()


def test_what_lhotse_cannot_give_costs_no_other_row(tmp_path):
    for name in "ab":
        recording(tmp_path, f"{name}.wav")
    parts = [
        {"id": f"r{name}", "sources": [{"type": "file", "channels": [0], "source": f"{name}.wav"}]} for name in "ab"
    ]
    parts += [
        {"id": "rc", "sources": [{"type": "command", "channels": [0], "source": "sox -"}]},
        {"id": "rd", "sources": 3},
    ]
    said = [{"id": f"u{name}", "recording_id": f"r{name}", "text": name} for name in "abcde"] + [{"id": "f"}]
    (tmp_path / "x_recordings.jsonl").write_text("".join(json.dumps(part | {"duration": 1}) + "\n" for part in parts))
    (tmp_path / "x_supervisions.jsonl").write_text("".join(json.dumps(one | {"start": 0}) + "\n" for one in said))
    for source in (tmp_path / "x_supervisions.jsonl", tmp_path):
        summary = prepare(source, tmp_path / "out" / "all.tsv", jobs=1)
        assert (summary.kept, summary.reasons["the row cannot be used"]) == (2, 4)
        assert sorted(row.text for row in read_manifest(tmp_path / "out" / "all.tsv")) == ["a", "b"]
    reasons = (tmp_path / "out" / "all.rejected.tsv").read_text()
    assert "output of a command" in reasons and "cut from re, which the recordings lack" in reasons
    cut = {"id": "c", "start": 0, "duration": 1, "recording": parts[0] | {"duration": 1}, "supervisions": []}
    lines = [cut, {"id": "m", "tracks": []}, cut | {"id": "n", "start": None}]
    (tmp_path / "cuts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = prepare(tmp_path / "cuts.jsonl", tmp_path / "out" / "cuts.tsv", jobs=1)
    assert (summary.kept, summary.reasons) == (1, {"the row cannot be used": 2})


def test_broken_lines_of_json_are_set_aside(tmp_path):
    recording(tmp_path)
    lines = ['{"text": "nopath"}', '{"audio_filepath": "a.wav", "text": "one"}', "{bad json", "[1, 2]", '{"text": "x"}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "x.jsonl", tmp_path):
        summary = prepare(source, tmp_path / "out" / "all.tsv")
        assert (summary.kept, summary.reasons) == (1, {"the row cannot be used": 4})
