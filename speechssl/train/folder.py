"""A run folder: recipe.toml, log.jsonl, checkpoints/step-N (model folder + state.pt), and links `best` and `last`.

A checkpoint is written under a temporary name, flushed to the disk, then renamed: whatever happens in between - a full
disk, a killed process - the previous one stays whole.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from speechssl.core import dist
from speechssl.core.config import dump_toml, flat_values, read_toml
from speechssl.core.errors import InputError
from speechssl.core.files import replacing
from speechssl.objectives.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The paths of one run and what is allowed to happen to them."""

    path: Path

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def recipe(self) -> Path:
        """Every value that the run was started or last resumed with."""
        return self.path / "recipe.toml"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def check(self, resume: bool) -> None:
        """InputError rather than mix two runs, or a run with something else."""
        if not resume and self.recipe.exists():
            raise InputError(f"{self.path} holds another run; add --resume to continue it, or choose another --out")
        if not self.recipe.exists() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path} exists and is neither a run nor an empty folder; choose another --out")

    def enter(self, recipe: Recipe, resume: bool) -> Path | None:
        """Make the folder on rank 0, or accept an existing run; gives the checkpoint to continue from, the same on every rank.

        None too for a run to resume that ended before it saved anything: it starts again. On a resumed run recipe.toml gets
        the values that changed, and log.jsonl a line about them.
        """
        self.check(resume)
        dist.barrier()  # no rank may find the folder of this very run
        checkpoint = self.latest() if resume else None
        if dist.rank() == 0:
            try:
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                changed = self.changed(recipe) if checkpoint else {}
                if not checkpoint:
                    self.log.write_text("")
                if changed or not checkpoint:
                    with replacing(self.recipe) as draft:
                        draft.write_text(dump_toml(recipe), encoding="utf-8")
                if changed:
                    with open(self.log, "a", encoding="utf-8") as log:
                        step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
                        log.write(json.dumps({"step": step, "split": "resumed", "changed": changed}) + "\n")
            except OSError as error:
                raise InputError(f"cannot write to {self.path} ({error.strerror}); choose another --out") from None
        dist.barrier()
        return checkpoint

    def changed(self, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
        """{key: (recorded value, value of `recipe`)} where recipe.toml has another one."""
        recorded, now = read_toml(self.recipe), flat_values(recipe)
        pairs = {key: (recorded.get(key), value) for key, value in now.items() if key in recorded}
        return {
            key: (old, new)
            for key, (old, new) in pairs.items()
            if old != (list(new) if isinstance(new, tuple) else new)
        }

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = {p.name.removeprefix("step-"): p for p in self.checkpoints.glob("step-*") if p.is_dir()}
        steps = [name for name in found if name.isdecimal()]  # the others are drafts, or copies of a user
        return found[max(steps, key=int)] if steps else None

    def save(self, step: int, write_model: Callable[[Path], None], state: dict[str, Any], best: bool) -> Path:
        """Write checkpoint `step`, point `last` (and `best`) at it, and remove those that no link needs."""
        final = self.checkpoints / f"step-{step:08d}"
        draft = final.with_suffix(".tmp")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            write_model(draft)
            torch.save(state, draft / "state.pt")
            for file in draft.iterdir():
                flush(file)
            if final.exists():
                shutil.rmtree(final)
            draft.rename(final)
            for name in ("last", "best") if best else ("last",):
                self.point(name, final)
        except (OSError, RuntimeError, SafetensorError) as error:  # each library reports a full disk in its own way
            shutil.rmtree(draft, ignore_errors=True)
            kept = self.latest()
            raise InputError(
                f"cannot write checkpoint {final} ({error}); free some space or rights and continue with --resume: "
                + (f"{kept} is whole" if kept else "no checkpoint was written yet")
            ) from None
        self.prune()
        return final

    def point(self, name: str, target: Path) -> None:
        """Let the link `name` point at a checkpoint, in one step."""
        draft = self.path / f".{name}.tmp"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target.relative_to(self.path))
        draft.replace(self.path / name)

    def prune(self) -> None:
        """Remove the checkpoints that neither `last` nor `best` points at, and drafts; not what a user put there."""
        needed = {(self.path / name).resolve() for name in ("last", "best")}
        for folder in self.checkpoints.iterdir():
            if folder.resolve() not in needed and re.fullmatch(r"step-\d+(\.tmp)?", folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def load_state(self, checkpoint: Path) -> dict[str, Any]:
        """The training state of a checkpoint (tensors and plain values only)."""
        try:
            return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # any damage shows as its own type here
            raise InputError(f"{checkpoint / 'state.pt'} cannot be read ({error}); remove {checkpoint}") from None

    def rewind_log(self, step: int) -> None:
        """Drop the log lines of updates after `step`, which will be done again."""
        kept = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line cut short by a killed process
        draft = self.log.with_suffix(".tmp")
        draft.write_text("".join(kept), encoding="utf-8")
        draft.replace(self.log)


def flush(path: Path) -> None:
    """Bring a file to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
