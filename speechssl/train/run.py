"""The verbs `pretrain` and `finetune`: from paths and a recipe to a run folder."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from speechssl.core import dist
from speechssl.core.config import dump_toml
from speechssl.core.errors import InputError
from speechssl.data.loader import Micro, TrainLoader, stream, valid_micros
from speechssl.data.manifest import Manifest, read_manifest
from speechssl.data.sampler import Position, Updates
from speechssl.interop import source
from speechssl.models.byols.model import ByolsConfig, ByolsModel
from speechssl.models.checkpoint import build, copy_weights, require_wav2vec2
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives.byol import ByolObjective
from speechssl.objectives.ctc import CTCObjective, frames_needed
from speechssl.objectives.health import ByolHealth, Health
from speechssl.objectives.protocol import Item
from speechssl.objectives.wav2vec2 import Wav2Vec2Objective
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.normalise import normalise
from speechssl.text.tokenizer import CharTokenizer
from speechssl.train.folder import RunFolder
from speechssl.train.loop import State, Trainer
from speechssl.train.recipe import ByolRecipe, FinetuneRecipe, PretrainRecipe

PRETRAIN_BAR = {"loss": ".3f", "accuracy": ".3f", "code_perplexity": ".1f", "grad_norm": ".2f"}
FINETUNE_BAR = {"loss": ".2f", "blank": ".2f", "grad_norm": ".2f"}
BYOL_BAR = {"loss": ".3f", "spread": ".2f", "hybrid": ".2f", "grad_norm": ".2f"}
CUT = "cut long recordings into many rows: `speechssl prepare SRC --out x.tsv --max-seconds 10`"
Recipe = TypeVar("Recipe", PretrainRecipe, ByolRecipe, FinetuneRecipe)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """What a run reads and writes. init: weights to start from. scratch: take the sizes from init, not the weights."""

    train: Sequence[Path]
    out: Path
    valid: Sequence[Path] = ()
    init: Path | None = None
    resume: bool = False
    scratch: bool = False

    def checkpoint(self) -> Path | None:
        """Where to resume from: None too when the run ended before it saved anything, and must begin again."""
        return RunFolder(path=self.out).latest() if self.resume else None


def pretrain(recipe: PretrainRecipe | ByolRecipe, paths: Paths) -> State:
    """Pretrain on unlabeled audio; with `paths.init` continue from that model's weights, in its own sizes."""
    return pretrain_byol(recipe, paths) if isinstance(recipe, ByolRecipe) else pretrain_wav2vec2(recipe, paths)


def pretrain_byol(recipe: ByolRecipe, paths: Paths) -> State:
    """BYOL-S on random crops; the normalisation is that of the first update's crops, or of the model continued from."""
    with processes(recipe) as recipe:
        torch.manual_seed(recipe.train.seed)
        model = ByolsModel(recipe.model)
        if paths.init:
            start = source.read(paths.init)
            if not isinstance(start.config, ByolsConfig):
                raise InputError(f"{paths.init} is not a BYOL-S model; give one, or a wav2vec 2.0 recipe")
            start = replace(start, config=replace(start.config, dropout=recipe.model.dropout))
            recipe = replace(recipe, model=start.config)
            model = ByolsModel(recipe.model) if paths.scratch else build(start)
        if recipe.objective.hybrid in ("egemaps", "compare"):
            tell(
                "openSMILE's licence forbids commercial use, also of what this run learns; objective.hybrid = librosa is free"
            )
        samples = round(recipe.data.crop_seconds * SAMPLE_RATE)
        objective = ByolObjective(model, recipe.objective, recipe.train.seed, samples)
        train = long_enough(read_manifest(*paths.train), recipe.data.min_seconds, "training data")
        crops = int(recipe.data.batch_seconds / recipe.data.crop_seconds)
        if len(train) < 2:
            raise InputError(f"training data: BYOL compares clips, and there is one only; {CUT}")
        if len(train) < crops:
            tell(f"training data: an update hears {len(train)} crops, one of each row, not {crops}; {CUT}")
        valid = long_enough(read_manifest(*paths.valid), 0.0, "validation data") if paths.valid else None
        fresh = paths.init is None or paths.scratch
        if not paths.checkpoint() and (fresh or objective.hybrid):
            first = next(updates_of(train, recipe, world=1).since(Position()))[1][0]
            objective.initialise(dataset_of(train, recipe, objective).batch(first), fresh)
        health = ByolHealth(warmup=max(50, recipe.train.steps // 20))
        return fit(objective, recipe, paths, train, valid, score="loss", watch=health, bar=BYOL_BAR)


def pretrain_wav2vec2(recipe: PretrainRecipe, paths: Paths) -> State:
    """wav2vec 2.0 on whole utterances or long crops."""
    with processes(recipe) as recipe:
        start = source.read(paths.init) if paths.init else None
        if start is not None:
            require_wav2vec2(start.config, start.source, "this recipe")
            dropouts = {name: value for name, value in vars(recipe.model).items() if "drop" in name}
            recipe = replace(recipe, model=replace(start.config, **dropouts))
        torch.manual_seed(recipe.train.seed)
        model = Wav2Vec2ForPreTraining(recipe.model)
        if start is not None and not paths.scratch:
            copy_weights(model, start.state, start.source, need="wav2vec2.")
        objective = Wav2Vec2Objective(model, recipe.objective, recipe.train.seed)
        train = long_enough(read_manifest(*paths.train), recipe.data.min_seconds, "training data")
        valid = bool(paths.valid) and long_enough(
            read_manifest(*paths.valid), recipe.data.min_seconds, "validation data"
        )
        if start is None and not paths.checkpoint():
            first = next(updates_of(train, recipe, world=1).since(Position()))[1][0]
            objective.initialise(dataset_of(train, recipe, objective).batch(first))
        health = Health(
            batch_seconds=recipe.data.batch_seconds,
            entries=recipe.model.num_codevectors_per_group,
            warmup=max(200, int(recipe.optim.warmup * recipe.train.steps)),
        )
        return fit(objective, recipe, paths, train, valid or None, score="loss", watch=health, bar=PRETRAIN_BAR)


def finetune(recipe: FinetuneRecipe, paths: Paths) -> State:
    """Fine-tune with CTC on transcribed audio; `paths.scratch` gives the same network with random weights instead."""
    if paths.init is None:
        raise InputError("finetune needs --init MODEL: a pretrained run or model folder")
    with processes(recipe) as recipe:
        start = source.read(paths.init)
        require_wav2vec2(start.config, start.source, "finetune")
        config = replace(start.config, **vars(recipe.model))
        train = labelled(read_manifest(*paths.train), recipe, "training data")
        valid = labelled(read_manifest(*paths.valid), recipe, "validation data") if paths.valid else None
        tokenizer = build_tokenizer(recipe, [train, valid] if valid else [train])
        if valid:
            spelt(valid, tokenizer, recipe, "validation data")
        train = alignable(train, tokenizer, config.geometry.frames, recipe, "training data")
        torch.manual_seed(recipe.train.seed)
        model = Wav2Vec2ForCTC(config, vocab_size=len(tokenizer))
        if not paths.scratch:
            weights = start.state
            head = weights.get("lm_head.weight")
            if head is not None and head.shape != model.lm_head.weight.shape:
                weights = {key: value for key, value in weights.items() if not key.startswith("lm_head.")}
            copy_weights(model, weights, start.source, need="wav2vec2.")
        objective = CTCObjective(model, recipe.objective, tokenizer, recipe.train.seed)
        # the best checkpoint is that of the lowest CER: while words are still out of reach, WER prefers silence to near misses
        return fit(objective, recipe, paths, train, valid, score="cer", bar=FINETUNE_BAR)


@contextlib.contextmanager
def processes(recipe: Recipe) -> Iterator[Recipe]:
    """Join the other processes of torchrun and settle on a device; gives the recipe with the device filled in."""
    device = dist.honest(dist.usable(recipe.train.device))
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.start(device)
    try:
        yield replace(recipe, train=replace(recipe.train, device=device))
    finally:
        dist.stop()


def fit(
    objective: Any, recipe: Any, paths: Paths, train: Manifest, valid: Manifest | None, *, score: str, bar, watch=None
) -> State:
    """Train `objective` on `train` into the run folder `paths.out`."""
    run, data, config = RunFolder(path=paths.out), recipe.data, recipe.train
    if dist.rank() == 0:
        run.create(dump_toml(recipe), paths.resume)
    dist.barrier()
    objective.to(config.device)
    if not isinstance(recipe, ByolRecipe):
        objective.model.wav2vec2.encoder.gradient_checkpointing = config.gradient_checkpointing
    updates = updates_of(train, recipe, rank=dist.rank(), world=dist.world())
    loader = TrainLoader(dataset_of(train, recipe, objective), updates, data.workers)
    trainer = Trainer(
        objective,
        loader.since,
        run,
        recipe.optim,
        config,
        write_model=lambda folder: source.save_model(
            folder, objective.model, getattr(objective, "tokenizer", None), facts(recipe, paths)
        ),
        valid_batches=valid_stream(valid, recipe, objective) if valid else None,
        score=score,
        watch=watch,
        bar=bar,
        fingerprint=fingerprint(train),
    )
    checkpoint = paths.checkpoint()
    if checkpoint:
        trainer.restore(checkpoint, same_model(objective, checkpoint))
    return trainer.fit()


def same_model(objective: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint; InputError unless they are of this model with this vocabulary."""
    weights, own = source.read(checkpoint).state, objective.model.state_dict()
    odd = next((name for name in own if name not in weights or weights[name].shape != own[name].shape), None)
    tokenizer = getattr(objective, "tokenizer", None)
    if tokenizer is not None and CharTokenizer.load(checkpoint).vocab != tokenizer.vocab:
        problem = f"its vocabulary, {checkpoint / 'vocab.json'}, differs from that of these transcripts and text.vocab"
    elif odd or len(own) != len(weights):
        problem = f"its weights are of another model than the recipe's ({odd or 'more of them'})"
    else:
        return weights
    raise InputError(
        f"{checkpoint} cannot be continued: {problem}; resume with what it was started with, or start anew"
    )


def updates_of(manifest: Manifest, recipe: Any, rank: int = 0, world: int = 1) -> Updates:
    """The sequence of updates that a recipe draws from a manifest."""
    return Updates(
        seconds_R=heard_seconds(manifest, recipe),
        batch_seconds=recipe.data.batch_seconds,
        micro_seconds=recipe.data.micro_seconds,
        seed=recipe.train.seed,
        rank=rank,
        world=world,
    )


def heard_seconds(manifest: Manifest, recipe: Any) -> np.ndarray:
    """What each row contributes once cropped."""
    return np.minimum(manifest.durations, recipe.data.crop_seconds or np.inf)


def dataset_of(manifest: Manifest, recipe: Any, objective: Any) -> Micro:
    """Rows to micro-batches; transcripts are normalised on the way where there is something to learn from them."""

    def labelled_item(text: str, **fields: Any) -> Item:
        return Item(text=normalise(text, recipe.text.normaliser), **fields)

    make = labelled_item if isinstance(recipe, FinetuneRecipe) else Item
    return Micro(manifest, make, objective.collate, recipe.data.crop_seconds, recipe.train.seed)


def valid_stream(valid: Manifest, recipe: Any, objective: Any):
    """A function that goes through this rank's share of the validation set once."""
    dataset = dataset_of(valid, recipe, objective)
    most = min(recipe.data.micro_seconds, recipe.data.batch_seconds)
    micros = valid_micros(heard_seconds(valid, recipe), most)
    own = micros[dist.rank() :: dist.world()] if len(micros) >= dist.world() else micros
    return lambda: stream(dataset, own, recipe.data.workers)


def facts(recipe: Any, paths: Paths) -> dict[str, Any]:
    """What config.json records of a model's origin."""
    origin = {
        "train": [path.name for path in paths.train],
        "init": str(paths.init.name) if paths.init and not paths.scratch else None,
    }
    if isinstance(recipe, ByolRecipe):
        origin["hybrid"] = recipe.objective.hybrid
    return origin | {
        "objective": type(recipe.objective).__name__,
        "seed": recipe.train.seed,
        "steps": recipe.train.steps,
    }


def fingerprint(manifest: Manifest) -> str:
    """A hash of the ids: a resumed run must see the same utterances in the same order."""
    digest = hashlib.blake2b(digest_size=8)
    for number, identity in enumerate(manifest.cells("id")):
        digest.update(f"\n{identity}".encode() if number else identity.encode())
    return digest.hexdigest()


def tell(message: str) -> None:
    """One line for the user, from rank 0."""
    if dist.rank() == 0:
        print(message, file=sys.stderr)


def long_enough(manifest: Manifest, min_seconds: float, name: str) -> Manifest:
    """The rows of at least `min_seconds`; what is left out is counted aloud."""
    if np.isnan(manifest.durations).any():
        raise InputError(
            f"{name}: {manifest[int(np.argmax(np.isnan(manifest.durations)))].path} has no duration in the manifest; let "
            "`speechssl prepare MANIFEST --out all.tsv` fill in the durations"
        )
    keep = np.flatnonzero(manifest.durations >= min_seconds)
    if not len(keep):
        longest = manifest.durations.max()
        raise InputError(
            f"{name}: no utterance is at least {min_seconds} s long (the longest has {longest:.2f} s); lower data.min_seconds"
        )
    if len(keep) < len(manifest):
        tell(
            f"{name}: {len(manifest) - len(keep)} of {len(manifest)} utterances are under {min_seconds} s and left out"
        )
    return manifest.select(keep)


def labelled(manifest: Manifest, recipe: FinetuneRecipe, name: str) -> Manifest:
    """The rows that are long enough and whose transcript is not empty."""
    manifest = long_enough(manifest, recipe.data.min_seconds, name)
    keep = [i for i, text in enumerate(manifest.column("text")) if normalise(text, recipe.text.normaliser)]
    if not keep:
        raise InputError(f"{name}: no row has a transcript; fine-tuning needs the column `text`")
    if len(keep) < len(manifest):
        tell(f"{name}: {len(manifest) - len(keep)} of {len(manifest)} utterances have no transcript and are left out")
    return manifest.select(np.array(keep))


def build_tokenizer(recipe: FinetuneRecipe, manifests: list[Manifest]) -> CharTokenizer:
    """The given vocabulary, or the characters of the transcripts."""
    if recipe.text.vocab:
        return CharTokenizer.load(Path(recipe.text.vocab))
    return CharTokenizer.build(
        normalise(text, recipe.text.normaliser) for manifest in manifests for text in manifest.column("text")
    )


def spelt(manifest: Manifest, tokenizer: CharTokenizer, recipe: FinetuneRecipe, name: str) -> list[list[int]]:
    """The characters of every transcript as ids; InputError names the first row with one that the vocabulary lacks."""
    texts = []
    for identity, text in zip(manifest.column("id"), manifest.column("text"), strict=True):
        try:
            texts.append(tokenizer.encode(normalise(text, recipe.text.normaliser)))
        except InputError as error:
            raise InputError(f"{name}, {identity}: {error}") from None
    return texts


def alignable(manifest: Manifest, tokenizer: CharTokenizer, frames, recipe: FinetuneRecipe, name: str) -> Manifest:
    """The rows whose transcript fits into their frames: CTC cannot learn from the others."""
    texts = spelt(manifest, tokenizer, recipe, name)
    room = [frames(int(seconds * 16_000)) for seconds in manifest.durations]
    keep = [i for i, ids in enumerate(texts) if frames_needed(ids) <= room[i]]
    if len(keep) < len(texts):
        first = next(i for i, ids in enumerate(texts) if frames_needed(ids) > room[i])
        tell(
            f"{name}: {len(texts) - len(keep)} of {len(texts)} transcripts are longer than their audio's frames and left out, "
            f"the first is {manifest[first].id} ({len(texts[first])} characters, {room[first]} frames)"
        )
    if not keep:
        raise InputError(
            f"{name}: every transcript is longer than its audio has frames; check that text and audio belong together"
        )
    return manifest.select(np.array(keep))
