"""The formats of transcripts."""

import json
import re
from itertools import pairwise

import pytest

from speechssl.data.aligned import choose, read_elan, read_textgrid
from speechssl.data.nist import read_ctm
from speechssl.text.formats import captions, clock, dialogue, in_lines, width, write
from speechssl.text.transcript import Transcript, Word


def spoken(*times: tuple[float, float]) -> Transcript:
    """Words at given times."""
    words = [Word(text=f"w{i}", start=a, end=b, score=0.5) for i, (a, b) in enumerate(times)]
    return Transcript(text=" ".join(word.text for word in words), words=words, duration=times[-1][1])


def test_captions_keep_every_word_and_end_at_pauses():
    transcript = spoken((0, 1), (1.2, 2), (4, 5), (5, 8), (8, 12), (12, 12.5))
    groups = captions(transcript.words)
    assert [word for group in groups for word in group] == transcript.words
    assert [len(group) for group in groups] == [2, 2, 2]


def test_formats():
    transcript = spoken((0.0, 1.5), (3661.25, 3662.0))
    assert write(transcript, "txt") == "w0 w1\n"
    assert json.loads(write(transcript, "json"))["words"][1]["start"] == 3661.25
    stamp = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"1\n{stamp},000 --> {stamp},500\nw0\n\n2\n01:01:01,250 --> 01:01:02,000\nw1\n", write(transcript, "srt")
    )
    assert write(transcript, "vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nw0\n")


@pytest.mark.parametrize(
    "texts, text",
    [(["你", "好", "世", "界"], "你好 世界"), (["ab", "a", "b"], "ab a b"), (["a", "ab"], "aab"), (["a", "a"], "a-a")],
)
def test_captions_have_the_spaces_of_the_text(texts, text):
    """Joined, they are the text again, wherever they are cut."""
    for start in range(len(texts) + 1):
        times = [i if i < start else i + 100 for i in range(len(texts))]
        words = [Word(text=w, start=t, end=t + 0.5, score=1.0) for w, t in zip(texts, times, strict=True)]
        blocks = write(Transcript(text=text, words=words, duration=200.0), "srt").split("\n\n")
        lines = [block.splitlines()[2] for block in blocks]
        assert len(lines) == (1 if start in (0, len(texts)) else 2)
        joined = re.escape(lines[0]) + "".join(f"[ -]?{re.escape(line)}" for line in lines[1:])
        assert re.fullmatch(joined, text)


def test_captions_of_speech_without_spaces_are_no_longer_than_the_limit():
    words = [Word(text="你", start=i / 3, end=i / 3 + 0.3, score=1.0) for i in range(78)]
    groups = captions(words)
    assert len(groups) == 5
    assert all(group[-1].end - group[0].start <= 6 for group in groups)


def test_clocks_carry():
    assert [clock(s, ".") for s in (0, 59.9996, 3599.9999, 36_000)] == [
        "00:00:00.000",
        "00:01:00.000",
        "01:00:00.000",
        "10:00:00.000",
    ]


def odd() -> Transcript:
    """Words with quotes, markup and touching times, then a pause."""
    texts, times = ["say", '"hi"', "a<b&c", "नमस्ते"], [(0.1, 0.5), (0.5, 0.9), (0.9, 0.9), (2.5, 3.0)]
    words = [Word(text=w, start=a, end=b, score=0.25) for w, (a, b) in zip(texts, times, strict=True)]
    return Transcript(text=" ".join(texts), words=words, duration=3.2)


def test_praat_reads_our_textgrid(tmp_path):
    from praatio import textgrid

    (tmp_path / "a.TextGrid").write_text(write(odd(), "TextGrid"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=True)
    assert grid.tierNames == ("utterances", "words") and grid.maxTimestamp == 3.2
    entries = grid.getTier("words").entries
    assert [entry.label for entry in entries if entry.label] == ["say", '"hi"', "a<b&c", "नमस्ते"]
    assert entries[0][:2] == (0, 0.1) and entries[-1][:2] == (3.0, 3.2)
    assert all(one.end == other.start for one, other in pairwise(entries))
    (tier,) = choose(read_textgrid(write(odd(), "TextGrid"), "a"))
    assert [(part.start, part.text) for part in tier.spoken] == [(0.1, 'say "hi" a<b&c'), (2.5, "नमस्ते")]


def test_elan_reads_our_eaf(tmp_path):
    from pympi.Elan import Eaf

    both = dialogue({"left": odd(), "right": spoken((0.0, 1.5), (1.6, 2.0))})
    (tmp_path / "a.eaf").write_text(write(both, "eaf", "a b.wav"), encoding="utf-8")
    found = Eaf(str(tmp_path / "a.eaf"))
    assert set(found.get_tier_names()) == {"utterances - left", "words - left", "utterances - right", "words - right"}
    assert sorted(found.get_annotation_data_for_tier("words - left"))[1] == (500, 900, '"hi"')
    assert sorted(found.get_annotation_data_for_tier("utterances - right")) == [(0, 2000, "w0 w1")]
    spoken_by = [
        (part.start, part.text, part.speaker)
        for tier in choose(read_elan(write(both, "eaf"), "a"))
        for part in tier.spoken
    ]
    assert (2.5, "नमस्ते", "left") in spoken_by and (0.0, "w0 w1", "right") in spoken_by


def test_ctm_has_a_line_for_each_word():
    lines = write(odd(), "ctm", "my call.wav").splitlines()
    assert lines[0] == "my_call.wav 1 0.100 0.400 say 0.2500" and len(lines) == 4
    (tier,) = read_ctm(write(odd(), "ctm", "a"), "a")
    assert [part.text for part in tier.spoken] == ['say "hi" a<b&c', "नमस्ते"]


def test_captions_are_two_lines_of_42_letters_divided_at_pauses():
    words = [Word(text="letters", start=i * 0.2, end=i * 0.2 + 0.19, score=1.0) for i in range(40)]
    words = [
        Word(text=w.text, start=w.start + 0.3 * (i >= 7), end=w.end + 0.3 * (i >= 7), score=1.0)
        for i, w in enumerate(words)
    ]
    groups = captions(words)
    assert [word for group in groups for word in group] == words and len(groups[0]) == 7
    for block in (
        write(Transcript(text=" ".join(w.text for w in words), words=words, duration=9.0), "srt").strip().split("\n\n")
    ):
        lines = block.splitlines()[2:]
        assert 1 <= len(lines) <= 2 and all(len(line) <= 42 for line in lines)
    assert (width("世界"), width("नमस्ते"), width("ab")) == (4, 4, 2)
    assert in_lines("世" * 30) == "世" * 15 + "\n" + "世" * 15
    assert in_lines("short") == "short"
