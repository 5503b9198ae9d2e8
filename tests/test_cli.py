"""The command line from outside: help, exit codes, and one sentence for whatever the user can mend."""

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from speechssl import cli, verbs
from speechssl.core.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "recipes" / "small" / "pretrain.toml"
TRAIN = ["pretrain", str(SMALL), "--train", "a.tsv", "--out", "run"]


def speechssl(*argv: str, **options) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "speechssl", *argv], capture_output=True, text=True, cwd=ROOT, **options
    )


def complaint(capsys, *argv: str) -> str:
    """What a wrong call says; it must exit with code 2 and one line that starts with `error: `."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_is_quick_and_names_every_verb():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = speechssl("--help")
        seconds.append(time.perf_counter() - start)
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in cli.VERBS)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in cli.RECIPES])
def test_help_of_a_verb(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert (cli.VERBS[verb][1].__doc__ or "-") in " ".join(capsys.readouterr().out.split())


def test_help_of_training_shows_the_values_of_the_recipe(capsys):
    steps = tomllib.loads(SMALL.read_text())["train"]["steps"]
    for argv, value in ((["pretrain", "--help"], 400_000), (["pretrain", str(SMALL), "--help"], steps)):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        text = capsys.readouterr().out
        assert stop.value.code == 0
        assert "--resume" in text
        assert "[--section.key value ...]" in text
        assert f"--train.steps {value}\n" in text


@pytest.mark.parametrize(
    "argv, parts",
    [
        (["embde"], ["no verb embde", "did you mean embed?"]),
        (["prepare", "data", "--otu", "x.tsv"], ["no --otu", "did you mean --out?", "speechssl prepare --help"]),
        (["prepare", "data"], ["required: --out"]),
        (["prepare", "data", "--out", "x.tsv", "--jobs", "many"], ["--jobs", "many"]),
        (["prepare", "no/such/folder", "--out", "x.tsv"], ["no/such/folder does not exist"]),
        (["transcribe", "no/such/model", "clip.wav"], ["no/such/model"]),
        (["transcribe", "model", "clip.wav", "--format", "doc"], ["doc", "srt"]),
        (["pretrain", "no.toml", "--train", "a.tsv", "--out", "run"], ["no.toml does not exist"]),
        (["pretrain", str(SMALL), "--trian", "a.tsv"], ["no --trian", "did you mean --train?"]),
        (["finetune", str(SMALL), "--train", "a.tsv", "--out", "run"], ["required: --init"]),
        ([*TRAIN, "--optim.lrr", "1"], ["optim.lrr", "did you mean optim.lr?"]),
        ([*TRAIN, "--optim.lr", "fast"], ["optim.lr = 'fast' must be a number"]),
        ([*TRAIN, "--optim.lr", "-1"], ["optim.lr = -1.0 must be greater than 0"]),
        ([*TRAIN, "--resume", "stray"], ["stray"]),
        (TRAIN, ["a.tsv does not exist"]),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_wrong_calls_get_one_sentence_and_code_2(argv, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = complaint(capsys, *argv)
    assert all(part in text for part in parts), text
    assert not list(tmp_path.iterdir()), "a wrong call leaves nothing behind"


def test_overrides_may_stand_before_the_recipe():
    args = cli.parse("pretrain", ["--optim.lr", "2e-3", *TRAIN[1:], "--train.steps=7"])
    assert (args.recipe.optim.lr, args.recipe.train.steps) == (2e-3, 7)
    assert (args.train, args.out, args.resume) == ([Path("a.tsv")], Path("run"), False)


@pytest.mark.parametrize(
    "error, code, text",
    [
        (InputError("x.wav is empty; remove it"), 2, "error: x.wav is empty; remove it\n"),
        (
            OSError(28, "No space left on device", "run/state.pt"),
            2,
            "error: run/state.pt: No space left on device; free some space",
        ),
        (FileNotFoundError(2, "No such file or directory", "x.wav"), 2, "error: x.wav: No such file or directory\n"),
        (OSError("libc10_cuda.so: cannot open shared object file"), 2, "reinstall torch and torchaudio together"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_verb(error, code, text, monkeypatch, capsys):
    def fails(_args):
        raise error

    monkeypatch.setitem(cli.VERBS, "info", (verbs.info_arguments, fails))
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "small"])
    captured = capsys.readouterr().err
    assert stop.value.code == code
    assert text in captured if text else not captured


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "info", (verbs.info_arguments, lambda _args: {}["gone"]))
    with pytest.raises(KeyError):
        cli.main(["info", "small"])


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        command = [sys.executable, "-m", "speechssl", "--help"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 141
    assert done.stderr == ""
