"""Fine-tuning of a classifier of whole clips, by cross-entropy: emotion, keyword, language, age.

The body of any family, or its upper layers, learns with the head; a clip's loss never depends on the other clips. The checkpoint
is chosen by the unweighted average recall (UAR) of the validation rows, who should be other speakers than those of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest, Utterance
from speechssl.models import families
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.folder import class_names
from speechssl.models.protocol import Encoder
from speechssl.objectives import recipe as recipes
from speechssl.objectives.freezing import freeze
from speechssl.objectives.masking import channel_mask, span_mask
from speechssl.objectives.protocol import TRAINING, Batch, Objective, Step
from speechssl.objectives.recipe import DataConfig, OptimConfig, TrainConfig
from speechssl.objectives.targets import TARGETS, cells
from speechssl.sound import audio

CLASSIFIER = "classifier."


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """What is learned, from which columns, and how the clips are varied."""

    label: str = "label"
    """Column with the class; for votes, the columns that count them, one for each class, between commas."""
    target: Literal["class", "votes", "labels"] = "class"
    """class: a column with one class. votes: the share of each class among the votes (soft labels). labels: any number of labels,
    separated by ; in one column."""
    group: str = "speaker"
    """Column whose values should not be in both training and validation; it is only reported."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """balanced: every class counts the same, however many clips it has."""
    smoothing: float = 0.1
    """Label smoothing (Szegedy et al. 2016): this share of the target goes to all classes alike."""
    mixup: float = 0.0
    """Mix-up (Zhang et al. 2018): each clip is mixed with another, in shares drawn from Beta(a, a); 0: never. 0.2 is usual."""
    mask_prob: float = 0.1
    """Time masking: spans per frame times span length (0: none)."""
    mask_length: int = 5
    """Frames per time span."""
    channel_prob: float = 0.0
    """Masking of the network's input channels, or of mel bands: the same (0: none)."""
    channel_length: int = 16
    """Channels per span."""
    feature_grad: float = 0.0
    """Factor on the gradient into the convolutions of a network on raw audio (0: they stay as pretrained)."""
    train_layers: int | None = None
    """Only so many of the top layers learn, and the head (0: the head alone; none: everything). A network on log-mels is one
    layer."""
    freeze_steps: int = 0
    """Updates in which only the head learns."""
    layer_decay: float = 1.0
    """Each layer's learning rate as a multiple of that of the layer above."""

    @property
    def columns(self) -> list[str]:
        """What `label` names."""
        return [name.strip() for name in self.label.split(",") if name.strip()]

    def __post_init__(self) -> None:
        if not self.columns:
            raise InputError("objective.label is empty; it names the column to learn, such as emotion")
        for name in ("smoothing", "mask_prob", "channel_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} is outside [0, 1)")
        for name in ("mask_length", "channel_length"):
            if getattr(self, name) < 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} must be at least 1")
        if (self.train_layers or 0) < 0:
            raise InputError(f"objective.train_layers = {self.train_layers} cannot be negative; none switches it off")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"objective.layer_decay = {self.layer_decay} is outside (0, 1]")
        if self.mixup < 0:
            raise InputError(f"objective.mixup = {self.mixup} cannot be negative")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head, and dropouts in fine-tuning; the sizes of the network come from --init. A network on log-mels has only the last
    dropout, and no projection."""

    width: int = 256
    """Projection before the mean over time."""
    weighted: bool = True
    """The head sees a learned mixture of all layers, not the last."""
    feat_proj_dropout: float = 0.0
    """Dropout of the transformer's input."""
    hidden_dropout: float = 0.1
    """Dropout after attention and after the feed-forward block."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward block."""
    final_dropout: float = 0.1
    """Dropout before the last linear layer."""


@dataclass(frozen=True, kw_only=True)
class Recipe(recipes.Recipe):
    """Fine-tuning of a classifier."""

    kind: Literal["classify"] = "classify"
    """The objective."""
    model: HeadConfig = field(default_factory=HeadConfig)
    objective: ClassifyConfig = field(default_factory=ClassifyConfig)
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_seconds=60.0, micro_seconds=60.0, crop_seconds=10.0, min_seconds=0.1)
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, head_scale=5.0, clip_norm=1.0, schedule="tri-stage", warmup=0.1)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=2000, valid_every=200, save_every=500))


@dataclass(frozen=True, kw_only=True)
class ClassifyBatch(Batch):
    """targets_BC: how much each class is meant. mask_T, channel_mask_BD: what is masked in training."""

    targets_BC: Tensor
    mask_T: Tensor
    channel_mask_BD: Tensor


class Classify(Objective):
    """Tell classes of clips apart."""

    Recipe = Recipe
    verb = "finetune"
    families = tuple(families.FAMILIES)
    bar = {"loss": ".3f", "error": ".3f"}  # noqa: RUF012
    score = "uar_error"
    from_scratch = {"objective.feature_grad": 1.0}  # noqa: RUF012
    recipe: Recipe

    def __init__(self, recipe: Recipe, model: Encoder, classes: list[str], *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        self.classes, self.target = classes, TARGETS[recipe.objective.target]
        self.register_buffer("class_weights_C", torch.ones(len(classes)), persistent=False)
        self.register_buffer("valid_2C", torch.ones(2, len(classes)), persistent=False)
        self.class_weights_C: Tensor
        self.valid_2C: Tensor
        self.rows: Manifest | None = None

    @classmethod
    def build(cls, recipe: Any, start: Checkpoint | None, rows: Sequence[Manifest]) -> Self:
        """The network of `start`, with its weights if it has any, and a head for the classes of the training rows."""
        if start is None:
            raise InputError("finetune needs --init MODEL: a pretrained run or model folder")
        config = recipe.objective
        classes = TARGETS[config.target].names(rows[0], config.columns)
        if len(classes) < 2:
            raise InputError(
                f"{TRAINING}: the column {config.label} has {len(classes)} class(es); a classifier needs two, name another "
                "column with --label"
            )
        report_groups(rows, config.group)
        model = families.family(start).classifier(start, len(classes), **vars(recipe.model))
        freeze(model, config.train_layers, features=config.feature_grad > 0 or len(model.stages()) == 1)
        copy_classes(model, classes, start)
        numbered = {str(i): name for i, name in enumerate(classes)}
        model.head_json = model.head_json | {
            "id2label": numbered,
            "label2id": {name: int(i) for i, name in numbered.items()},
            "problem_type": TARGETS[config.target].problem,
        }
        return cls(recipe, model, classes, fresh=not start.state)

    def usable(self, rows: Manifest, part: str) -> Manifest:
        """The rows with a label. InputError for a class that the training rows lack, and when no row is left."""
        found = [self.target_of(row, part) for row in rows]
        keep = [i for i, target_C in enumerate(found) if target_C is not None]
        if not keep:
            raise InputError(f"{part}: no row has a label in the column(s) {self.recipe.objective.label}")
        if len(keep) < len(rows):
            dist.report(f"{part}: {len(rows) - len(keep)} of {len(rows)} rows have no label and are left out")
        meant_BC = torch.from_numpy(np.stack([found[i] for i in keep]))  # type: ignore[arg-type]
        rows = rows.select(keep)
        counts_C = meant_BC.sum(dim=0)
        names = [f"{name} {count:g}" for name, count in zip(self.classes, counts_C.tolist(), strict=True)]
        dist.report(f"{part}: {len(rows)} clips; {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}")
        if part == TRAINING:
            self.rows = rows
            if self.recipe.objective.class_weights == "balanced":
                self.class_weights_C.copy_(len(rows) / (len(counts_C) * counts_C.clamp_min(1)))
        else:
            sure_BC = self.surest(meant_BC)
            counts_2C = torch.stack([sure_BC.sum(dim=0), (1 - sure_BC).sum(dim=0)])
            self.valid_2C.copy_(torch.where(counts_2C > 0, 1 / counts_2C.clamp_min(1), 0.0))
        return rows

    def target_of(self, row: Utterance, part: str = TRAINING) -> np.ndarray | None:
        """What a row means (C,); None if it has no label. InputError names the row."""
        try:
            return self.target.encode(cells(row, self.recipe.objective.columns), self.classes)
        except InputError as error:
            raise InputError(f"{part}, row {row.id}: {error}; correct it or leave it out with --where") from None

    def labels(self, utterance: Utterance) -> np.ndarray | None:
        """What the clip means (C,)."""
        return self.target_of(utterance)

    def initialise(self, first: Callable[[], ClassifyBatch]) -> None:
        """What random weights need of the data."""
        if self.fresh:
            self.model.settle(first().audio)

    def collate(self, items: Sequence[Item]) -> ClassifyBatch:
        """Pack the waves, mixed if the recipe says so; draw the masks from (seed, epoch, utterance)."""
        config = self.recipe.objective
        if self.training and config.mixup:
            items = [self.mixed(item) for item in items]
        stream, keys = self.model.stream([item.wave_S for item in items]), [self.key("mask", item) for item in items]
        masks = [
            span_mask(frames, config.mask_prob, config.mask_length, key)
            for frames, key in zip(stream.frames, keys, strict=True)
        ]
        bands = [channel_mask(self.model.channels, config.channel_prob, config.channel_length, key + 1) for key in keys]
        return ClassifyBatch(
            audio=stream,
            targets_BC=torch.from_numpy(np.stack([item.labels for item in items])),  # type: ignore[arg-type]
            mask_T=torch.from_numpy(np.concatenate(masks)),
            channel_mask_BD=torch.from_numpy(np.stack(bands)),
        )

    def key(self, purpose: str, item: Item) -> int:
        """Seed of one kind of noise for one utterance in one epoch."""
        return noise_key(purpose, self.recipe.train.seed, item.epoch, item.id)

    def mixed(self, item: Item) -> Item:
        """The clip with a smaller share of another training clip in it, and its labels likewise."""
        assert self.rows is not None and item.labels is not None
        rng = np.random.default_rng(self.key("mixup", item))
        share = rng.beta(self.recipe.objective.mixup, self.recipe.objective.mixup)
        share, other = max(share, 1 - share), self.rows[int(rng.integers(len(self.rows)))]
        duration = min(other.duration, len(item.wave_S) / audio.SAMPLE_RATE)
        wave_S = audio.load(other.path, start=other.start, duration=duration, channel=other.channel)[: len(item.wave_S)]
        both_S = share * item.wave_S
        both_S[: len(wave_S)] += (1 - share) * wave_S
        labels = share * item.labels + (1 - share) * np.asarray(self.target_of(other))
        return replace(item, wave_S=both_S.astype(np.float32), labels=labels.astype(np.float32))

    def before_update(self, step: int, micros: Sequence[ClassifyBatch]) -> bool:
        """Whether only the head learns."""
        return step < self.recipe.objective.freeze_steps

    def forward(self, batch: ClassifyBatch, shared: bool) -> Step:
        """Sum of the weighted cross-entropy; in evaluation nothing is masked or smoothed, and the errors of each class count the
        same."""
        config, classes = self.recipe.objective, len(self.classes)
        if not self.training:
            logits_BC = self.model(batch.audio)
            loss = self.target.loss(logits_BC, batch.targets_BC).sum()
            return Step(loss=loss, sums=self.errors(logits_BC, batch.targets_BC))
        logits_BC = self.model(
            batch.audio,
            frozen=shared,
            mask_T=batch.mask_T,
            channel_mask_BD=batch.channel_mask_BD,
            feature_grad=config.feature_grad,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )
        even = 1 / classes if self.target.problem.startswith("single") else 0.5
        wanted_BC = (1 - config.smoothing) * batch.targets_BC + config.smoothing * even
        weights_B = (batch.targets_BC * self.class_weights_C).sum(dim=1) / batch.targets_BC.sum(dim=1)
        loss = (weights_B[:, None] * self.target.loss(logits_BC, wanted_BC)).sum()
        wrong_B = (self.target.guess(logits_BC) != self.surest(batch.targets_BC)).any(dim=1)
        return Step(loss=loss, sums={"error": (wrong_B.sum(), batch.count)})

    def surest(self, targets_BC: Tensor) -> Tensor:
        """Targets without doubt: the class that is meant most, or every label."""
        return self.target.guess(targets_BC - 0.5)

    def errors(self, logits_BC: Tensor, targets_BC: Tensor) -> dict[str, tuple[Tensor | float, Tensor | float]]:
        """Wrong clips, and the wrong answers about each class over the validation rows: 1 - UAR is their mean."""
        sure_BC, wrong_BC = self.surest(targets_BC), self.target.guess(logits_BC) != self.surest(targets_BC)
        one = self.target.problem.startswith("single")
        weights_BC = torch.where(sure_BC > 0, self.valid_2C[0], 0.0 if one else self.valid_2C[1])
        return {
            "error": (wrong_BC.any(dim=1).sum(), len(logits_BC)),
            "uar_error": ((weights_BC * wrong_BC).sum(), weights_BC.sum()),
        }

    def origin(self) -> dict[str, Any]:
        """The columns that were learned."""
        return {"label": self.recipe.objective.columns, "target": self.recipe.objective.target}

    def rates(self) -> dict[str, float]:
        """Lower rates below, and that of the head."""
        stages, decay = self.model.stages(), self.recipe.objective.layer_decay
        scales = {f"model.{stage}": decay ** (len(stages) - i) for i, stage in enumerate(stages)}
        return dict(sorted(scales.items(), key=lambda row: -len(row[0]))) | {"model.": self.recipe.optim.head_scale}


def report_groups(rows: Sequence[Manifest], column: str) -> None:
    """Report speakers who are in both training and validation."""
    if len(rows) < 2 or column not in rows[0].columns or column not in rows[1].columns:
        return
    both = ({*rows[0].cells(column)} & {*rows[1].cells(column)}) - {""}
    if both:
        dist.report(
            f"{len(both)} {column}(s), {sorted(both)[0]} first, are in both training and validation: the validation error says "
            f"little of new ones; `speechssl split --by {column}` keeps them apart"
        )


@torch.no_grad()
def copy_classes(model: Any, classes: list[str], start: Checkpoint) -> None:
    """Copy the rows of a checkpoint's classifier whose classes are learned again."""
    weight = start.state.get(f"{CLASSIFIER}weight")
    if weight is None or weight.shape[1] != model.classifier.weight.shape[1]:
        return
    names = class_names(start.raw, len(weight))
    kept = [name for name in classes if name in names]
    for name, parameter in model.classifier.named_parameters():
        source = start.state[CLASSIFIER + name].float()
        for kind in kept:
            parameter[classes.index(kind)] = source[names.index(kind)]
    dist.report(f"classifier: {len(kept)} of {len(classes)} classes keep the weights of {start.source}")
