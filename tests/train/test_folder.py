"""Run folders: nothing is mixed, and on a full or read-only disk the previous checkpoint stays whole and can be continued."""

import json
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import speechssl
from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.objectives.recipe import TrainConfig
from speechssl.objectives.wav2vec2 import Recipe
from speechssl.train.folder import RunFolder
from tests.conftest import FEW_DIGITS, TINY_MODEL, digits, refused, write_table

RECIPE = (
    TINY_MODEL
    + FEW_DIGITS
    + """\
[train]
steps = 6
log_every = 1
save_every = 2
precision = "float32"
"""
)


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """A short pretraining on spoken digits."""
    (folder / "recipe.toml").write_text(RECIPE)
    table = write_table(folder / "x.tsv", *digits())
    return ["pretrain", str(folder / "recipe.toml"), "--train", str(table), "--out", str(out), *more]


def losses(run: Path) -> list[float]:
    """The losses of the log."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    cli.main(command(folder, folder / "run"))
    return folder / "run"


@contextmanager
def disk(place: Path, kilobytes: int):
    """A disk of a given size; skipped where mounting is not permitted."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def size_of(folder: Path) -> int:
    """Kilobytes of the files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


@pytest.mark.parametrize("share", [0.2, 0.9], ids=["while writing the model", "while writing the state"])
def test_a_full_disk_leaves_the_last_checkpoint_and_resume_continues_it(share, whole, tmp_path, capsys):
    run = tmp_path / "disk" / "run"
    one = size_of(whole / "last") + 12  # one checkpoint, and 12 kB for log and recipe
    with disk(tmp_path / "disk", int(one * (1 + share))):
        text = refused(capsys, *command(tmp_path, run))
        assert "cannot write checkpoint" in text and "step-00000004" in text
        assert "free some space" in text and "step-00000002 is whole" in text
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
        assert torch.isfinite(torch.from_numpy(speechssl.load(run).embed(torch.zeros(16_000)))).all()
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path / "disk")], check=True)
        cli.main(command(tmp_path, run, "--resume"))
        assert losses(run) == losses(whole)
        ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (run, whole))
        assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_read_only_disk_leaves_the_last_checkpoint(whole, tmp_path, capsys):
    run = tmp_path / "disk" / "run"
    with disk(tmp_path / "disk", 20_000):
        cli.main(command(tmp_path, run, "--train.steps", "4"))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        text = refused(capsys, *command(tmp_path, run, "--resume"))
        assert "Read-only file system" in text and str(run) in text
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True)
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
        cli.main(command(tmp_path, run, "--resume", "--train.steps", "5"))
        assert len(losses(run)) == 5


def test_weights_of_other_sizes_are_not_continued(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run", symlinks=True)
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("intermediate_size = 64", "intermediate_size = 80"))
    text = refused(capsys, *command(tmp_path, tmp_path / "run", "--resume", "--model.intermediate_size", "80"))
    assert "step-00000006 cannot be continued: its weights and the recipe's differ in model.wav2vec2.encoder" in text


def test_a_limit_on_file_sizes_is_told_too(tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        text = refused(capsys, *command(tmp_path, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write checkpoint" in text and "no checkpoint was written yet" in text


def folder_with(tmp_path: Path, *names: str) -> RunFolder:
    """A run folder with some checkpoint folders."""
    run = RunFolder(path=tmp_path)
    for name in names:
        (run.checkpoints / name).mkdir(parents=True)
    return run


def test_the_latest_checkpoint_is_no_draft_and_no_copy(tmp_path):
    run = folder_with(tmp_path, "step-00000009", "step-00000010", "step-00000011.tmp", "step-00000012 (copy)", "step-x")
    (run.checkpoints / "step-00000013").write_text("a file")
    assert run.latest() == run.checkpoints / "step-00000010"


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(InputError, match="is neither a run nor an empty folder; choose another --out"):
            RunFolder(path=tmp_path).enter(Recipe(), resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_resuming_before_anything_was_saved_starts_again(tmp_path):
    run = RunFolder(path=tmp_path / "run")
    assert run.enter(Recipe(), resume=False) is None
    run.log.write_text("{}")
    assert run.enter(Recipe(train=TrainConfig(steps=7)), resume=True) is None
    assert "steps = 7\n" in run.recipe.read_text() and run.log.read_text() == ""


def test_a_failed_write_leaves_what_was_there(tmp_path):
    run = RunFolder(path=tmp_path)
    run.save(1, lambda folder: (folder / "config.json").write_text("{}"), {"step": 1}, best=True)

    def fails(folder: Path) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"step-00000002 .*No space left.*step-00000001 is whole"):
        run.save(2, fails, {}, best=True)
    assert run.load_state(run.path / "best") == run.load_state(run.path / "last") == {"step": 1}
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_only_the_best_and_the_last_are_kept(tmp_path):
    run = RunFolder(path=tmp_path)
    for step, best in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        run.save(step, lambda folder: None, {"step": step}, best)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000003", "step-00000005"]
    assert (run.path / "best").resolve().name == "step-00000003"


def test_what_a_user_put_there_is_kept(tmp_path):
    run = RunFolder(path=tmp_path)
    run.save(1, lambda folder: None, {"step": 1}, best=False)
    shutil.copytree(run.checkpoints / "step-00000001", run.checkpoints / "step-00000001-mine")
    run.save(2, lambda folder: None, {"step": 2}, best=False)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000001-mine", "step-00000002"]


def test_a_damaged_state_is_told(tmp_path):
    run = RunFolder(path=tmp_path)
    run.save(1, lambda folder: None, {"step": torch.arange(100)}, best=False)
    state = run.path / "last" / "state.pt"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(InputError, match=r"state\.pt cannot be read"):
        run.load_state(run.path / "last")


def test_the_log_is_rewound_past_broken_lines(tmp_path):
    run = RunFolder(path=tmp_path)
    run.log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    run.rewind_log(2)
    assert run.log.read_text() == '{"step": 1}\n{"step": 2}\n'
