"""One training run, whatever the objective: from a recipe and paths to a run folder."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.data.loader import MicroBatches, load_updates, once_over
from speechssl.data.manifest import Manifest
from speechssl.data.marked import read_parts
from speechssl.data.sampler import Updates
from speechssl.interop import source
from speechssl.models import families
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import CONFIG, read_json
from speechssl.objectives import OBJECTIVES, Objective
from speechssl.objectives.protocol import TRAINING, VALIDATION
from speechssl.objectives.recipe import Recipe
from speechssl.train.folder import RunFolder
from speechssl.train.loop import State, Trainer, Watch


@dataclass(frozen=True, kw_only=True)
class Paths:
    """What a run reads and writes. where: see read_parts. init: the model to start from. scratch: take only the sizes of init,
    not its weights."""

    train: Sequence[Path]
    out: Path
    valid: Sequence[Path] = ()
    where: Sequence[str] = ()
    init: Path | None = None
    resume: bool = False
    scratch: bool = False


def train(recipe: Recipe, paths: Paths, watch: Watch | None = None) -> State:
    """Train as the recipe says, into the run folder `paths.out`; `watch` measures the network at each validation. InputError when
    recipe, data and model do not fit."""
    kind, run = OBJECTIVES[recipe.kind], RunFolder(path=paths.out)
    run.check(paths.resume)
    with dist.joined(recipe.train.device) as device:
        recipe = settled(recipe, device)
        start = read_start(kind, paths)
        train, valid = read_parts(paths.train, paths.valid, paths.where, dist.report)
        parts = {TRAINING: train} | ({} if valid is None else {VALIDATION: valid})
        rows = {part: long_enough(own, recipe, part) for part, own in parts.items()}

        torch.manual_seed(recipe.train.seed)
        objective = kind.build(recipe, start, list(rows.values()))
        rows = {part: objective.usable(own, part) for part, own in rows.items()}
        micros = {part: micro_batches_of(own, objective, part) for part, own in rows.items()}
        updates = updates_of(micros[TRAINING], recipe)
        updates.check(recipe.train.steps)

        checkpoint = run.enter(objective.recipe, paths.resume)
        if checkpoint is None:
            objective.initialise(lambda: micros[TRAINING].batch(updates.first()))
        trainer = Trainer(
            objective.to(device),
            partial(load_updates, micros[TRAINING], updates, workers=recipe.data.workers),
            run,
            valid_batches=validation_of(micros[VALIDATION], recipe) if VALIDATION in micros else None,
            watch=watch,
            origin=origin(objective, paths, checkpoint),
            data=fingerprint(rows[TRAINING]),
        )
        if checkpoint is not None:
            trainer.restore(checkpoint)
        return trainer.fit()


def settled(recipe: Recipe, device: str) -> Recipe:
    """The recipe with what `precision = "auto"` means on this device."""
    if recipe.train.precision != "auto":
        return recipe
    precision = "bf16" if dist.bf16_is_fast(device) else "float32"
    return replace(recipe, train=replace(recipe.train, precision=precision))


def read_start(kind: type[Objective], paths: Paths) -> Checkpoint | None:
    """The model behind --init, without its weights for --from-scratch."""
    if paths.init is None:
        return None
    start = source.read(paths.init)
    families.require(start.config.model_type, start.source, kind.families, f"this recipe ({kind.Recipe().kind})")
    return start.without_weights() if paths.scratch else start


def long_enough(rows: Manifest, recipe: Recipe, part: str) -> Manifest:
    """The rows of at least data.min_seconds; reports how many are left out. InputError when none is left."""
    min_seconds = recipe.data.min_seconds
    unknown = np.isnan(rows.durations)
    if unknown.any():
        raise InputError(
            f"{part}: {rows[int(np.argmax(unknown))].path} has no duration in the manifest; let "
            "`speechssl prepare MANIFEST --out all.tsv` fill in the durations"
        )
    keep = np.flatnonzero(rows.durations >= min_seconds)
    if not len(keep):
        longest = rows.durations.max()
        raise InputError(
            f"{part}: no utterance is at least {min_seconds} s long (the longest has {longest:.2f} s); lower data.min_seconds"
        )
    if len(keep) < len(rows):
        dist.report(f"{part}: {len(rows) - len(keep)} of {len(rows)} utterances are under {min_seconds} s and left out")
    return rows.select(keep)


def micro_batches_of(rows: Manifest, objective: Objective, part: str) -> MicroBatches:
    """The rows as the objective takes them."""
    recipe = objective.recipe
    speed_change = recipe.data.speed_change if part == TRAINING else 0.0
    return MicroBatches(rows, objective, recipe.data.crop_seconds, recipe.train.seed, speed_change)


def updates_of(micros: MicroBatches, recipe: Recipe) -> Updates:
    """The sequence of updates that a recipe draws, as this rank's share of each."""
    return Updates(
        seconds_R=micros.seconds_R,
        batch_seconds=recipe.data.batch_seconds,
        micro_seconds=np.inf if OBJECTIVES[recipe.kind].whole_updates else recipe.data.micro_seconds,
        seed=recipe.train.seed,
        rank=dist.rank(),
        world=dist.world(),
    )


def validation_of(micros: MicroBatches, recipe: Recipe) -> Callable[[], Iterator]:
    """A function that goes once through this rank's share of the validation set."""
    seconds = min(recipe.data.micro_seconds, recipe.data.batch_seconds)
    return once_over(micros, seconds, dist.rank(), dist.world(), recipe.data.workers)


def origin(objective: Objective, paths: Paths, checkpoint: Path | None) -> dict[str, Any]:
    """What config.json records of where a model comes from. checkpoint: the one that the run continues from, if any; a resumed
    run began where its first command said."""
    recipe = objective.recipe
    init = paths.init.name if paths.init and not paths.scratch else None
    if checkpoint:
        init = read_json(checkpoint / CONFIG).get("speechssl", {}).get("init")
    return {
        "train": [path.name for path in paths.train],
        "init": init,
        "objective": recipe.kind,
        "seed": recipe.train.seed,
        "steps": recipe.train.steps,
        **objective.origin(),
    }


def fingerprint(rows: Manifest) -> str:
    """A hash of the ids: a resumed run must see the same utterances in the same order."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\n".join(rows.column("id")).encode())
    return digest.hexdigest()
