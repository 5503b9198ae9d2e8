"""`speechssl transcribe MODEL -`: what is printed into a pipe, on a terminal, as JSON and as captions, and how it ends."""

import json
import os
import re
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import speechssl
from speechssl import cli
from speechssl.text.formats import width
from speechssl.text.transcript import Word
from speechssl.use.listen import Line
from speechssl.use.live import Event
from tests.conftest import CLIP, refused


@pytest.fixture
def piped(monkeypatch):
    """Make bytes what comes on standard input."""

    def pipe(data: bytes):
        read, write = os.pipe()
        threading.Thread(target=lambda: (os.write(write, data), os.close(write)), daemon=True).start()
        monkeypatch.setattr("sys.stdin", os.fdopen(read, "rb"))

    return pipe


def pcm(wave_S: np.ndarray) -> bytes:
    return (wave_S * 32_767).astype("<i2").tobytes()


def final(events: list[dict]) -> list[dict]:
    return [word for event in events if event["kind"] == "final" for word in event["words"]]


def test_samples_and_a_wav_give_the_lines_of_the_api(ctc_folder, clip, piped, capsys, tmp_path):
    events = list(speechssl.load(ctc_folder).stream([pcm(clip)]))
    soundfile.write(tmp_path / "x.wav", np.stack([clip] * 2, axis=1), 16_000, subtype="PCM_16")
    for data in (pcm(clip), (tmp_path / "x.wav").read_bytes()):
        piped(data)
        cli.main(["transcribe", str(ctc_folder), "-"])
        printed = capsys.readouterr().out
        assert printed == "".join(e.text + "\n" * e.pause for e in events if e.kind == "final")
        assert printed.endswith("\n") and len(printed) > 10


def test_json_has_a_line_for_each_event_and_srt_the_final_words(ctc_folder, clip, piped, capsys):
    expected = list(speechssl.load(ctc_folder).stream([pcm(clip)], context=2, look_ahead=0.5, step=0.25))
    piped(pcm(clip))
    how = ["transcribe", str(ctc_folder), "-", "--live", "2", "0.5", "0.25"]
    cli.main([*how, "--format", "json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(e["kind"], e["text"], e["seconds"], e["pause"]) for e in events] == [
        (e.kind, e.text, e.seconds, e.pause) for e in expected
    ]
    assert [(w["text"], w["start"], w["end"], w["score"]) for w in final(events)] == [
        (w.text, w.start, w.end, w.score) for e in expected if e.kind == "final" for w in e.words
    ]
    piped(pcm(clip))
    cli.main([*how, "--format", "ctm"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(float(row[2]), row[4]) for row in rows] == [(w["start"], w["text"]) for w in final(events)]


def test_ctrl_c_ends_with_what_was_heard(ctc_folder, clip, monkeypatch, capsys):
    """The pipe stays open; the signal comes while it is waited for."""
    read, write = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(read, "rb"))
    os.write(write, pcm(clip)[:60_000])
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    cli.main(["transcribe", str(ctc_folder), "-"])
    timer.cancel()
    os.close(write)
    assert signal.getsignal(signal.SIGINT) is before
    heard = speechssl.load(ctc_folder).stream([pcm(clip)[:60_000]])
    assert capsys.readouterr().out == "".join(e.text + "\n" * e.pause for e in heard if e.kind == "final")


def test_standard_input_that_is_no_pipe_is_told_with_an_example(ctc_folder, monkeypatch, capsys):
    for stdin in (None, SimpleNamespace(isatty=lambda: True)):
        monkeypatch.setattr("sys.stdin", stdin)
        assert "arecord -q -t raw -f S16_LE -r 16000 | speechssl transcribe MODEL -" in refused(
            capsys, "transcribe", ctc_folder, "-"
        )


def test_what_does_not_fit_a_pipe_is_told(ctc_folder, piped, capsys, tmp_path):
    for words in (["-", CLIP], ["-", "--out", tmp_path / "o"], ["-", "--channel", "left"], ["-", "--n-best", 3]):
        assert "- is one pipe" in refused(capsys, "transcribe", ctc_folder, *words)
    for words in (["--rate", 8000], ["--live", 1, 1, 1]):
        assert "name it: -" in refused(capsys, "transcribe", ctc_folder, CLIP, *words)
    assert "three numbers" in refused(capsys, "transcribe", ctc_folder, "-", "--live", 10)
    piped(b"")
    assert "shorter than one frame" in refused(capsys, "transcribe", ctc_folder, "-")
    piped(CLIP.read_bytes())
    assert "must be decoded first" in refused(capsys, "transcribe", ctc_folder, "-")
    soundfile.write(tmp_path / "x.wav", np.zeros(9000), 16_000)
    piped((tmp_path / "x.wav").read_bytes())
    assert "16000 Hz" in refused(capsys, "transcribe", ctc_folder, "-", "--rate", 8000)


def screen(written: str, columns: int) -> list[str]:
    """The rows of a terminal of so many columns that shows what was written."""
    rows, at = [""], 0
    for part in re.findall(r"\x1b\[K|\x1b\[\d+D|\n|.", written):
        if part == "\x1b[K":
            rows[-1] = rows[-1][:at]
        elif part.startswith("\x1b"):
            at -= int(part[2:-1])
            assert at >= 0
        elif part == "\n":
            rows, at = [*rows, ""], 0
        else:
            rows[-1], at = rows[-1][:at] + part + rows[-1][at + 1 :], at + 1
            assert at < columns, rows
    return rows


def spoken(kind: str, text: str, pause: bool = False) -> Event:
    return Event(kind=kind, words=[Word(text=text, start=0, end=1, score=1)], text=text, seconds=1, pause=pause)  # type: ignore[arg-type]


def test_a_terminal_keeps_final_words_and_overwrites_partial_ones():
    line, written = Line(20), ""
    for event, shown in (
        (spoken("partial", "the wuick"), ["the wuick"]),
        (spoken("partial", "the quick brown fox jumps over"), ["the quick brown fox"]),
        (spoken("final", "the quick"), ["the quick"]),
        (spoken("partial", " brow"), ["the quick brow"]),
        (spoken("final", " brown fox jumps"), ["the quick brown fox", "jumps"]),
        (spoken("partial", " ov"), ["the quick brown fox", "jumps ov"]),
        (spoken("final", "", pause=True), ["the quick brown fox", "jumps", ""]),
        (spoken("partial", "a"), ["the quick brown fox", "jumps", "a"]),
        (spoken("partial", ""), ["the quick brown fox", "jumps", ""]),
    ):
        written += line(event)
        assert screen(written, 21) == shown
    wide = Line(9)(spoken("partial", "天地玄黄宇宙"))
    assert width(re.sub(r"\x1b\[\d*[KD]", "", wide)) == 8 and wide.endswith("\x1b[8D")
