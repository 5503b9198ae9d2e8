"""The formats of transcripts."""

import json
import re

import pytest

from speechssl.text.decode import Transcript, Word
from speechssl.text.formats import captions, clock, write


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
