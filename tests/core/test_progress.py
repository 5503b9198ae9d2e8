"""Progress: a bar on a terminal, a line a minute in a file, nothing from other ranks."""

import io
import sys

import pytest

from speechssl.core import dist, progress
from speechssl.core.progress import Progress, write


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """The seconds that Progress sees: clock[0]."""
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def replace_stderr(monkeypatch, kind: type[io.StringIO] = io.StringIO) -> io.StringIO:
    """Give the test a stderr to read; not a fixture, since pytest sets its own stderr after the fixtures."""
    stream = kind()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_file_gets_one_line_a_minute_and_one_at_the_end(clock, monkeypatch):
    log = replace_stderr(monkeypatch)
    with Progress(600, "update", "train", initial=100) as bar:
        for done in range(1, 501):  # two updates a second: four minutes and ten seconds
            clock[0] += 0.5
            bar.postfix(f"loss {done}")
            bar.update()
    lines = log.getvalue().splitlines()
    assert [line.partition(" [")[0] for line in lines] == [
        "train: 37 % | 220/600 update",
        "train: 57 % | 340/600 update",
        "train: 77 % | 460/600 update",
        "train: 97 % | 580/600 update",
        "train: 100 % | 600/600 update",
    ]
    assert lines[0].endswith(", loss 120]")
    assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()


def test_a_slow_update_gets_its_line_at_once_and_the_last_one_is_not_repeated(clock, monkeypatch):
    log = replace_stderr(monkeypatch)
    with Progress(3, "file") as bar:
        for _ in range(3):
            clock[0] += 100
            bar.update()
    assert [line.partition(" [")[0] for line in log.getvalue().splitlines()] == [
        "33 % | 1/3 file",
        "67 % | 2/3 file",
        "100 % | 3/3 file",
    ]


def test_a_bar_that_leaves_nothing_prints_no_last_line(clock, monkeypatch):
    log = replace_stderr(monkeypatch)
    with Progress(10, "fit", "score", leave=False) as bar:
        bar.update(10)
    assert log.getvalue() == ""


def test_closing_twice_prints_one_last_line(clock, monkeypatch):
    log = replace_stderr(monkeypatch)
    with Progress(10, "clip") as bar:
        bar.update(4)
        bar.close()
    assert len(log.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_bar_and_text_above_it(monkeypatch):
    terminal = replace_stderr(monkeypatch, Terminal)
    with Progress(600, "update", "train") as bar:
        bar.update(300)
        bar.postfix("loss 1.5")
        write("validation")
    shown = terminal.getvalue()
    assert "\rvalidation\n" in shown, "the bar is cleared before the text"
    assert shown.rstrip().rpartition("\r")[2].startswith("train:  50%|")
    assert "loss 1.5" in shown


def test_text_goes_to_a_file_as_it_is(monkeypatch, capsys):
    log = replace_stderr(monkeypatch)
    with Progress(2, "clip") as bar:
        write("one: hello", sys.stdout)
        write("a warning")
        bar.close()
    assert capsys.readouterr().out == "one: hello\n"
    assert log.getvalue().splitlines()[0] == "a warning"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("rank, show", [(1, True), (0, False)])
def test_only_rank_0_shows_it_and_only_if_wanted(kind, rank, show, monkeypatch):
    stream = replace_stderr(monkeypatch, kind)
    monkeypatch.setattr(dist, "rank", lambda: rank)
    with Progress(10, "clip", show=show) as bar:
        bar.postfix("text")
        bar.update(10)
    assert stream.getvalue() == ""


def test_a_log_that_cannot_be_written_does_not_end_the_work(clock, monkeypatch):
    log = replace_stderr(monkeypatch)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "write", full)
    with Progress(10, "clip") as bar:
        clock[0] += 100
        bar.update(10)


@pytest.mark.parametrize("closed", [None, io.StringIO()])
def test_a_missing_or_closed_stderr_does_not_end_the_work(closed, monkeypatch):
    if closed is not None:
        closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with Progress(10, "clip") as bar:
        bar.update(10)
