"""What recipes/demo does when something is wrong; `make demo` is the test of the rest."""

import time

import demo
import pytest

from speechssl.train.loop import State


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds something else than an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_run_names_its_log_and_starts_no_others(tmp_path, monkeypatch):
    """Six runs, one at a time; the second fails."""
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    started = []

    class Done:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)
            self.returncode = int(len(started) == 2)
            time.sleep(0.3 if len(started) > 2 else 0)  # time to cancel the rest

    monkeypatch.setattr(demo.subprocess, "run", Done)
    arms = [demo.Arm(name=name, init="small", scratch=name == "d", seeds=demo.SEEDS) for name in ("a b", "c", "d")]
    tables = {"labelled": tmp_path / "l.tsv", "dev": tmp_path / "d.tsv"}

    def tune() -> None:
        with demo.FineTuning(tmp_path, tables) as tuning:
            for arm in reversed(arms):
                tuning.start(arm)
            tuning.finish()

    with pytest.raises(demo.InputError, match=r"d-2\.log"):
        tune()
    assert "--from-scratch" in started[0] and "small" in started[0]
    assert len(started) < 6


def test_a_stopped_pretraining_ends_the_demo(tmp_path, monkeypatch):
    """Ctrl-C ends a training after its update; the demo must not go on with what it has learned by then."""
    monkeypatch.setattr(demo, "train", lambda recipe, paths, watch: State(step=3))
    monkeypatch.setattr(demo, "cluster", lambda *args, **options: "")
    with pytest.raises(SystemExit) as stop:
        demo.pretrain_here(tmp_path, tmp_path / "x.tsv", minutes=1)
    assert stop.value.code == 130
