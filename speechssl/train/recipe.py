"""What a recipe says: the sections of a TOML file as frozen dataclasses whose defaults are the paper's BASE."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.core.errors import InputError
from speechssl.models.byols.model import ByolsConfig
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.objectives.byol import ByolObjectiveConfig
from speechssl.objectives.ctc import CTCObjectiveConfig
from speechssl.objectives.wav2vec2 import Wav2Vec2ObjectiveConfig


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
    min_seconds: float = 2.0
    """Shorter utterances are left out, and counted."""
    workers: int = 1
    """Loader processes per training process (0: load in the training process)."""

    def __post_init__(self) -> None:
        positive("data", self, "batch_seconds", "micro_seconds", "min_seconds")
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
    """Everything random follows from it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["bf16", "float32"] = "bf16"
    """bf16: matrix products under autocast, weights and losses in float32."""
    gradient_checkpointing: bool = False
    """wav2vec 2.0: keep only each transformer layer's input and compute the rest again in the backward pass. Less memory for
    about a quarter more time; same numbers."""
    log_every: int = 50
    """Updates per line of log.jsonl."""
    valid_every: int = 2000
    """Updates between validations."""
    save_every: int = 2000
    """Updates between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events too (needs the package tensorboard)."""
    stop_on_collapse: bool = True
    """End a run that can learn nothing any more, with advice, instead of only warning."""

    def __post_init__(self) -> None:
        positive("train", self, "steps", "log_every", "valid_every", "save_every")
        if self.seed < 0:
            raise InputError(f"train.seed = {self.seed} cannot be negative")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """wav2vec 2.0 pretraining."""

    kind: Literal["wav2vec2"] = "wav2vec2"
    """What is learned how: wav2vec2 or byol-s."""
    model: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    objective: Wav2Vec2ObjectiveConfig = field(default_factory=Wav2Vec2ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class ByolRecipe:
    """BYOL-S pretraining; the defaults are the published ones: batches of 512 crops, AdamW with a constant rate."""

    kind: Literal["byol-s"] = "byol-s"
    """What is learned how: wav2vec2 or byol-s."""
    model: ByolsConfig = field(default_factory=ByolsConfig)
    objective: ByolObjectiveConfig = field(default_factory=ByolObjectiveConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=486.4, micro_seconds=1e6, crop_seconds=0.95, min_seconds=0.2)
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-4, betas=(0.9, 0.999), eps=1e-8, warmup=0.0, power=0.0)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=154_300))

    def __post_init__(self) -> None:
        if not self.data.crop_seconds > 0:
            raise InputError("data.crop_seconds must be above 0: BYOL-S learns from crops of one length; it uses 0.95")


PRETRAIN_RECIPES = {"wav2vec2": PretrainRecipe, "byol-s": ByolRecipe}


@dataclass(frozen=True, kw_only=True)
class RegularisationConfig:
    """Dropouts in fine-tuning; the sizes of the model come from --init. Defaults: the published recipes."""

    feat_proj_dropout: float = 0.0
    """Dropout of the transformer's input."""
    hidden_dropout: float = 0.1
    """Dropout after attention and after the feed-forward block."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights."""
    activation_dropout: float = 0.1
    """Dropout inside the feed-forward block."""
    final_dropout: float = 0.0
    """Dropout before the CTC layer."""
    layerdrop: float = 0.05
    """Chance that a layer is skipped in an update."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Transcripts."""

    normaliser: str = "basic"
    """How transcripts are normalised before training and scoring."""
    vocab: str = ""
    """A vocab.json to use; empty: the characters of the training transcripts."""


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """CTC fine-tuning; the defaults are the published BASE recipe for 10 hours of labels."""

    model: RegularisationConfig = field(default_factory=RegularisationConfig)
    objective: CTCObjectiveConfig = field(default_factory=CTCObjectiveConfig)
    text: TextConfig = field(default_factory=TextConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=1600.0, micro_seconds=100.0, crop_seconds=0.0, min_seconds=0.1)
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=5e-5, eps=1e-8, weight_decay=0.0, schedule="tri-stage", warmup=0.1)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=20_000, valid_every=1000, save_every=1000))
