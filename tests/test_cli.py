"""The command line from outside: help, exit codes, and one sentence for whatever the user can fix."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.train.recipe import parse_recipe

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


def printed_help(capsys, *argv: str) -> str:
    """What `--help` prints, on one line."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*argv, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_of_light_verbs_imports_no_torch():
    code = """
import contextlib, sys
from speechssl import cli
for verb in ([], ["prepare"], ["evaluate"], ["transcribe"], ["probe"], ["info"], ["export"]):
    with contextlib.suppress(SystemExit):
        cli.main([*verb, "--help"])
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == 7
    assert all(f"\n  {verb} " in done.stdout for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_explains_every_argument(verb, capsys):
    parser = cli.Parser(verb)
    text = printed_help(capsys, verb)
    for action in parser._actions:
        name = action.option_strings[-1] if action.option_strings else action.dest
        assert f"{name} " in text
        assert action.help, f"{verb}: {name} has no help"


@pytest.mark.parametrize(
    "verb, table",
    [
        ("prepare", "auto, librispeech, common-voice, crema-d, ravdess"),
        ("evaluate", "none, basic, upper"),
        ("embed", "model, mean, mean+max, none"),
        ("benchmark", "unseen, loso, serab, hear, evar, emobox, maeb"),
    ],
)
def test_help_lists_choices(verb, table, capsys):
    assert table in printed_help(capsys, verb)


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


def test_overrides_may_stand_anywhere():
    found = cli.parse("pretrain", ["--optim.lr", "2e-3", *TRAIN[1:], "--train.steps=7"])
    assert found == {
        "recipe": SMALL,
        "train": [Path("a.tsv")],
        "out": Path("run"),
        "overrides": ["--optim.lr", "2e-3", "--train.steps=7"],
    }


def commands() -> list[str]:
    """Every complete command in README.md and the recipes' README.md."""
    files = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("*/README.md"))]
    lines = [line.strip().strip("`") for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith("speechssl ") and "..." not in line and "`" not in line]


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_documentation_parse(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *argv = shlex.split(command, comments=True)[1:]
    found = cli.parse(verb, argv)
    if "overrides" in found:
        parse_recipe(verb, found["recipe"], found["overrides"], scratch="from_scratch" in found)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("kind = ['x']", ["kind = ['x'] must be one of wav2vec2"]),
        ("kind = 'ctc'", ["kind = 'ctc' must be one of wav2vec2", "speechssl pretrain"]),
        (f"[optim]\nlr = {'9' * 400}", ["optim.lr = 999", "must be a number"]),
        (f"[optim]\nlr = {'9' * 5000}", ["not valid TOML", "5000 digits"]),
        (f"x = {'[' * 3000}", ["nested too deeply"]),
        ('"a\\nb" = 1', ["there is no key a b"]),
        ("kind = 'byol-s'\n[objective.views]\nfader = -1.0", ["views.fader = -1.0"]),
    ],
    ids=lambda value: value[:20],
)
def test_no_recipe_ends_in_a_traceback(text, parts, capsys, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(text)
    said = complaint(capsys, "pretrain", str(path), "--train", "a.tsv", "--out", str(tmp_path / "run"))
    assert all(part in said for part in [*parts, "r.toml"]), said


@pytest.mark.parametrize(
    "error, code, text",
    [
        (InputError("x.wav is empty;\nremove it"), 2, "error: x.wav is empty; remove it\n"),
        (
            OSError(28, "No space left on device", "run/state.pt"),
            2,
            "error: run/state.pt: No space left on device; free some space and run the same command again\n",
        ),
        (FileNotFoundError(2, "No such file or directory", "x.wav"), 2, "error: x.wav: No such file or directory\n"),
        (OSError("the file is no Parquet"), 2, "error: the file is no Parquet\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_verb(error, code, text, monkeypatch, capsys):
    def fails() -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "fails", fails)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fails"])
    assert stop.value.code == code
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("error", ["OSError", "ImportError"])
def test_a_torchaudio_that_cannot_be_loaded_is_named(error, monkeypatch, capsys, tmp_path):
    def fails() -> None:
        import torchaudio  # noqa: F401

    (tmp_path / "torchaudio.py").write_text(f"raise {error}('libc10_cuda.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.setitem(cli.VERBS, "fails", fails)
    said = complaint(capsys, "fails")
    assert "libc10_cuda.so" in said
    assert "reinstall torch and torchaudio together" in said


@pytest.mark.parametrize("error", [KeyError, ImportError])
def test_a_bug_is_not_dressed_up_as_bad_input(error, monkeypatch):
    def fails() -> None:
        raise error("gone")

    monkeypatch.setitem(cli.VERBS, "fails", fails)
    with pytest.raises(error):
        cli.main(["fails"])


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        command = [sys.executable, "-m", "speechssl", "--help"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 141
    assert done.stderr == ""
