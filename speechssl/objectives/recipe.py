"""The sections that the recipes of all objectives share, as frozen dataclasses; each objective's file has its own Recipe."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from speechssl.core.errors import InputError
from speechssl.models.checkpoint import Checkpoint


def positive(section: str, config: object, *names: str) -> None:
    """InputError unless every named field is above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{section}.{name} = {getattr(config, name)} must be greater than 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How much audio an update takes and how it is cut."""

    batch_seconds: float = 5600.0
    """Audio per update over all processes, in seconds (BASE: 64 GPUs x 87.5 s)."""
    micro_seconds: float = 87.5
    """Audio that one process takes at once; gradient accumulation follows from it."""
    crop_seconds: float = 15.625
    """Longer utterances are cut to a random crop of this length (0: never)."""
    speed_change: float = 0.0
    """Speed perturbation (Ko et al. 2015): each training utterance is played faster or slower, by up to 1 ± this. Pitch
    and formants move as with another voice; 0.15 makes many a woman's voice a man's. Labels of frames stay those of the voice."""
    min_seconds: float = 2.0
    """Shorter utterances are left out, and counted."""
    workers: int = 1
    """Loader processes per training process (0: load in the training process)."""

    def __post_init__(self) -> None:
        positive("data", self, "batch_seconds", "micro_seconds", "min_seconds")
        if not 0 <= self.speed_change < 0.5:
            raise InputError(f"data.speed_change = {self.speed_change} is outside [0, 0.5); 0.1 is usual")
        if self.workers < 0 or self.crop_seconds < 0:
            raise InputError("data.workers and data.crop_seconds cannot be negative")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 5e-4
    """Peak learning rate; lower it with the batch (published: 5e-4 at 40 minutes a batch and more, 1.6e-4 at 10)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the moment estimates."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    schedule: Literal["polynomial", "tri-stage"] = "polynomial"
    """polynomial: warm up, then fall to zero. tri-stage: warm up, hold, fall exponentially to 5 %."""
    warmup: float = 0.08
    """Part of the updates with a rising rate."""
    hold: float = 0.4
    """tri-stage: part of the updates at the peak."""
    power: float = 1.0
    """polynomial: exponent of the fall."""
    head_scale: float = 1.0
    """Fine-tuning: the new output layer's rate as a multiple of the others'. 5 shortens the phase of blanks only."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this norm (0: never)."""

    def __post_init__(self) -> None:
        positive("optim", self, "lr", "eps", "head_scale")
        if self.warmup < 0 or self.hold < 0 or self.warmup + self.hold > 1:
            raise InputError(f"optim.warmup = {self.warmup} and optim.hold = {self.hold} must be parts of 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optim.betas = {list(self.betas)} must lie in [0, 1)")
        if self.weight_decay < 0 or self.clip_norm < 0 or self.power < 0:
            raise InputError("optim.weight_decay, optim.clip_norm and optim.power cannot be negative")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, precision and bookkeeping of a run."""

    steps: int = 400_000
    """Updates."""
    seed: int = 1
    """Seed of all masks, crops, noise and initial weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """bf16: matrix products under autocast, weights and losses in float32. auto: bf16 where this machine is faster in it."""
    gradient_checkpointing: bool = False
    """Keep only each transformer layer's input and compute the rest again in the backward pass. Less memory for about a
    quarter more time; same numbers. Networks without transformer layers ignore it."""
    log_every: int = 50
    """Updates per line of log.jsonl."""
    valid_every: int = 2000
    """Updates between validations."""
    save_every: int = 2000
    """Updates between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events too (needs the package tensorboard)."""
    best: str = ""
    """Metric of the validation that is lowest in the best checkpoint (empty: the objective's own; abx: that of the next key)."""
    abx: str = ""
    """An item file, as of `speechssl abx`, by which each validation measures how well the layers tell phones apart. The best
    layer is recorded in config.json, where embed, probe and benchmark find it. Items of speakers who are in no test."""
    abx_root: str = ""
    """The folder in which the files of the items lie (empty: that of the item file)."""
    probe: str = ""
    """A manifest with labels and speakers, such as spoken words: each validation probes the layers on it, eight clips a class and
    speaker, tested on unseen speakers. The best layer by this error is recorded if no ABX is. No speakers of a test."""
    stop_on_collapse: bool = True
    """End a run that can learn nothing any more, with advice, instead of only warning."""

    def __post_init__(self) -> None:
        positive("train", self, "steps", "log_every", "valid_every", "save_every")
        if self.seed < 0:
            raise InputError(f"train.seed = {self.seed} cannot be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every recipe holds; an objective's own adds `kind`, its name in OBJECTIVES, and the types of its sections."""

    kind: str = ""
    model: Any = None
    objective: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def sized_as(recipe: Any, start: Checkpoint | None) -> Any:
    """The recipe with the sizes of the network it starts from, if any; its dropouts stay."""
    if start is None:
        return recipe
    dropouts = {name: value for name, value in vars(recipe.model).items() if "drop" in name}
    return replace(recipe, model=replace(start.config, **dropouts))
