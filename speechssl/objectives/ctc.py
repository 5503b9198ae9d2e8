"""CTC fine-tuning of a pretrained encoder (wav2vec 2.0, section 3.3 and appendix B): freezing, time and channel masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.packed import segments
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest
from speechssl.models.checkpoint import Checkpoint
from speechssl.models.wav2vec2.checkpoint import copy_body
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives import recipe as recipes
from speechssl.objectives.frames import FrameObjective
from speechssl.objectives.freezing import adapted, freeze, with_new_adapters
from speechssl.objectives.masking import channel_mask
from speechssl.objectives.protocol import TRAINING, Batch, Step
from speechssl.objectives.recipe import DataConfig, OptimConfig, TrainConfig
from speechssl.objectives.transcripts import TextConfig, alignable, spelled, transcribed, vocabulary
from speechssl.sound.audio import SAMPLE_RATE, between_silence
from speechssl.text.decode import best_path
from speechssl.text.scripts import counted
from speechssl.text.tokenizer import CharTokenizer


@dataclass(frozen=True, kw_only=True)
class CTCObjectiveConfig:
    """Freezing and masking; the defaults are the published BASE recipe for 10 hours of labels."""

    mask_prob: float = 0.65
    """Time masking: spans per frame times span length (0: none)."""
    mask_length: int = 10
    """Frames per time span."""
    channel_prob: float = 0.5
    """Channel masking: the same over the transformer's input channels (0: none)."""
    channel_length: int = 64
    """Channels per span."""
    feature_grad: float = 0.0
    """Factor on the gradient into the convolutional encoder (0: it stays as pretrained)."""
    freeze_steps: int = 10_000
    """Updates in which only the output layer learns."""
    train_layers: int | None = None
    """Only so many of the top transformer layers learn, and the output layer (none: everything). What is below needs no memory
    for gradients and moments, and no time in the backward pass."""
    adapters: int = 0
    """Only adapters of this width after each layer learn, and the output layer (MMS: 16, with objective.freeze_steps 0 and
    optim.lr 1e-3). They are made where --init has none. 0: no adapters."""
    silence: float = 0.0
    """Seconds of silence joined to both ends of each clip, in training and whenever the model transcribes. For words cut out
    tightly: CTC writes a sound late, and the last letter falls off the end. 0.1 is enough."""

    flat_start: int = 0
    """Updates in which the characters of a transcript are taken to be equally long, before CTC finds their times itself. With
    minutes of labels the phase in which every frame is blank, and its length a lottery, is skipped. The loss in the
    log is that of these times meanwhile. For single words; on sentences it did not help."""

    def __post_init__(self) -> None:
        for name, off in (("flat_start", "0"), ("adapters", "0"), ("train_layers", "none")):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"objective.{name} = {getattr(self, name)} cannot be negative; {off} switches it off")
        for name in ("mask_prob", "channel_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} is outside [0, 1]")
        for name in ("mask_length", "channel_length"):
            if getattr(self, name) < 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} must be at least 1")
        if not 0 <= self.silence <= 10:
            raise InputError(f"objective.silence = {self.silence} is outside [0, 10]; it is in seconds")


@dataclass(frozen=True, kw_only=True)
class RegularisationConfig:
    """Dropouts in fine-tuning; the sizes of the model come from --init. Defaults: the published recipes."""

    feat_proj_dropout: float = 0.0
    """Dropout of the transformer's input."""
    hidden_dropout: float = 0.0
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
class Recipe(recipes.Recipe):
    """CTC fine-tuning; the defaults are the published BASE recipe for 10 hours of labels."""

    kind: Literal["ctc"] = "ctc"
    """The objective."""
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


@dataclass(frozen=True, kw_only=True)
class CTCBatch(Batch):
    """mask_T, channel_mask_BD: what is masked in training. frames: how many log-posteriors each utterance has. targets:
    characters of all utterances end to end; lengths: how many each has. texts: the normalised transcripts."""

    frames: tuple[int, ...]
    mask_T: Tensor
    channel_mask_BD: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    texts: tuple[str, ...]


class Shared(NamedTuple):
    """frozen: whether only the output layer learns. flat: whether characters have equal lengths. skip: layers left out."""

    frozen: bool
    flat: bool
    skip: frozenset[int]


def ctc_loss(log_probs_TV: Tensor, batch: CTCBatch, blank: int = 0) -> Tensor:
    """Sum over utterances of -log P(transcript); an utterance with no valid alignment contributes zero."""
    pieces = list(log_probs_TV.split(batch.frames))
    return F.ctc_loss(
        nn.utils.rnn.pad_sequence(pieces),
        batch.targets,
        torch.tensor(batch.frames),
        torch.tensor(batch.lengths),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )


def flat_loss(log_probs_TV: Tensor, batch: CTCBatch, silence: int, blank: int = 0) -> Tensor:
    """Sum over utterances of the cross-entropy of characters that are equally long, with `silence` frames of blank at both ends;
    its scale is that of CTC, one frame for each character."""
    loss = log_probs_TV.new_zeros(())
    for rows, ids_L in zip(segments(batch.frames), batch.targets.split(batch.lengths), strict=True):
        x_TV = log_probs_TV[rows]
        times_T = torch.arange(len(x_TV), device=ids_L.device) - silence
        place_T = (times_T * len(ids_L) // max(len(x_TV) - 2 * silence, 1)).clamp(-1, len(ids_L))
        path_T = F.pad(ids_L, (1, 1), value=blank)[place_T + 1]
        loss = loss - len(ids_L) * x_TV.gather(1, path_T[:, None]).mean()
    return loss


@torch.no_grad()
def copy_output_layer(model: Wav2Vec2ForCTC, tokenizer: CharTokenizer, start: Checkpoint) -> None:
    """Copy the rows of a checkpoint's output layer symbol by symbol, wherever its vocabulary has them, or has them in the other
    case; reports which symbols are new and which are dropped."""
    if "lm_head.weight" not in start.state or start.tokenizer is None:
        return
    old, new = start.tokenizer.vocab, tokenizer.vocab
    rows = {symbol: sources[0] for symbol in new if (sources := [s for s in cases(symbol) if s in old])}
    for name, parameter in model.lm_head.named_parameters():
        parameter[[new[symbol] for symbol in rows]] = start.state[f"lm_head.{name}"][
            [old[s] for s in rows.values()]
        ].float()
    if old.keys() != new.keys():
        added, dropped = listed(new.keys() - rows), listed(old.keys() - {*rows.values()})
        turned = sum(symbol != source for symbol, source in rows.items())
        note = f", {turned} of them from the other case" if turned else ""
        dist.report(f"output layer: {len(rows)} symbols keep their weights{note}; new: {added}; dropped: {dropped}")


def compare_text(text: TextConfig, start: Checkpoint) -> None:
    """Report the language, digits and points of a checkpoint's training where the recipe has others."""
    ours = start.raw.get("speechssl")
    recorded = ours.get("text") if isinstance(ours, dict) else None
    for key, value in (recorded if isinstance(recorded, dict) else {}).items():
        if key in text.settings and value != text.settings[key]:
            dist.report(
                f"{start.source} was trained with text.{key} = {value}, this run has {text.settings[key] or 'none'}"
            )


def listed(symbols: set[str], most: int = 60) -> str:
    """Symbols for a report, or how many there are and the first of them."""
    text = " ".join(sorted(symbols)[:most])
    return f"{len(symbols)}, {text} ..." if len(symbols) > most else text or "none"


def cases(symbol: str) -> tuple[str, ...]:
    """A symbol and how it is written in the other case; special tokens have none."""
    return (symbol,) if symbol.startswith(("<", "[")) else (symbol, symbol.upper(), symbol.lower())


class CTC(FrameObjective):
    """Fine-tune a network to write characters."""

    Recipe = Recipe
    verb = "finetune"
    bar = {"loss": ".2f", "blank": ".2f", "grad_norm": ".2f"}  # noqa: RUF012
    score = "cer"  # while words are still out of reach, WER prefers silence to near misses
    from_scratch = {"objective.feature_grad": 1.0, "objective.freeze_steps": 0}  # noqa: RUF012
    recipe: Recipe
    model: Wav2Vec2ForCTC
    tokenizer: CharTokenizer

    def __init__(self, recipe: Recipe, model: Wav2Vec2ForCTC, tokenizer: CharTokenizer, *, fresh: bool = True) -> None:
        super().__init__(recipe, model, fresh=fresh)
        self.tokenizer = tokenizer
        config = recipe.objective
        freeze(model, config.train_layers, adapters=config.adapters > 0, features=config.feature_grad > 0)

    @classmethod
    def build(cls, recipe: Any, start: Checkpoint | None, rows: Sequence[Manifest]) -> Self:
        """The network of `start`, with its weights if it has any, and an output layer for the characters of `rows`."""
        if start is None:
            raise InputError("finetune needs --init MODEL: a pretrained run or model folder")
        tokenizer = vocabulary(recipe.text, rows, start.tokenizer if start.state else None)
        config = adapted(start.config, recipe.objective.adapters, start.source)
        model = Wav2Vec2ForCTC(replace(config, **vars(recipe.model)), vocab_size=len(tokenizer))
        if start.state:
            body = replace(start, state={k: v for k, v in start.state.items() if not k.startswith("lm_head.")})
            copy_body(model, with_new_adapters(model, body))
            copy_output_layer(model, tokenizer, start)
            compare_text(recipe.text, start)
        return cls(recipe, model, tokenizer, fresh=not start.state)

    def usable(self, rows: Manifest, part: str) -> Manifest:
        """The rows with a transcript, in training those whose transcript fits into their frames. InputError for a character
        that the vocabulary lacks."""
        text = self.recipe.text
        rows = transcribed(rows, text, part)
        ids = spelled(rows, self.tokenizer, text, part)
        silence = self.recipe.objective.silence
        return alignable(rows, ids, self.model.config.letters, silence, part) if part == TRAINING else rows

    def collate(self, items: Sequence[Item]) -> CTCBatch:
        """Pack the waves, draw the masks from (seed, epoch, utterance), encode the transcripts."""
        config, width = self.recipe.objective, self.model.config.hidden_size
        items = [replace(item, wave_S=between_silence(item.wave_S, config.silence)) for item in items]
        audio, masks = self.pack(items)
        channels = [
            channel_mask(width, config.channel_prob, config.channel_length, self.key("mask", item) + 1)
            for item in items
        ]
        texts = tuple(self.recipe.text.normal(item.text) for item in items)
        targets = [self.tokenizer.encode(text) for text in texts]
        return CTCBatch(
            audio=audio,
            frames=tuple(self.model.letter_frames(audio)),
            mask_T=torch.from_numpy(np.concatenate(masks)),
            channel_mask_BD=torch.from_numpy(np.stack(channels)),
            targets=torch.tensor([i for ids in targets for i in ids], dtype=torch.long),
            lengths=tuple(len(ids) for ids in targets),
            texts=texts,
        )

    def before_update(self, step: int, micros: Sequence[CTCBatch]) -> Shared:
        """What the stage of training decides, and the skipped layers; the same on every rank."""
        config = self.recipe.objective
        return Shared(frozen=step < config.freeze_steps, flat=step < config.flat_start, skip=self.skip(step))

    def forward(self, batch: CTCBatch, shared: Shared) -> Step:
        """Sum of the CTC loss; in evaluation nothing is masked and word and character errors are counted too."""
        if not self.training:
            log_probs_TV = self.model(batch.audio)
            loss = ctc_loss(log_probs_TV, batch, self.tokenizer.blank)
            return Step(loss=loss, sums={"ctc": (loss, batch.count), **self.errors(log_probs_TV, batch)})
        log_probs_TV = self.model(
            batch.audio,
            frozen=shared.frozen,
            mask_T=batch.mask_T,
            channel_mask_BD=batch.channel_mask_BD,
            feature_grad=self.recipe.objective.feature_grad,
            skip=shared.skip,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )
        if shared.flat:
            silence = round(self.recipe.objective.silence * SAMPLE_RATE / self.model.config.letters.hop)
            loss = flat_loss(log_probs_TV, batch, silence, self.tokenizer.blank)
        else:
            loss = ctc_loss(log_probs_TV, batch, self.tokenizer.blank)
        blank = (log_probs_TV.argmax(dim=1) == self.tokenizer.blank).sum()
        return Step(loss=loss, sums={"ctc": (loss.detach(), batch.count), "blank": (blank, len(log_probs_TV))})

    def errors(self, log_probs_TV: Tensor, batch: CTCBatch) -> dict:
        """Word and character errors of the greedy transcripts."""
        best_T = log_probs_TV.argmax(dim=1).cpu()
        texts = [best_path(best_T[rows], self.tokenizer) for rows in segments(batch.frames)]
        pairs = [counted(reference, text) for reference, text in zip(batch.texts, texts, strict=True)]
        words = jiwer.process_words([pair.words[0] for pair in pairs], [pair.words[1] for pair in pairs])
        chars = jiwer.process_characters([pair.characters[0] for pair in pairs], [pair.characters[1] for pair in pairs])
        return {
            "wer": (words.substitutions + words.deletions + words.insertions, sum(map(len, words.references))),
            "cer": (chars.substitutions + chars.deletions + chars.insertions, sum(map(len, chars.references))),
        }

    def origin(self) -> dict[str, Any]:
        """The silence, which the model needs wherever it transcribes, and how its transcripts were normalised, for scoring."""
        silence, usual = self.recipe.objective.silence, TextConfig().settings
        changed = {key: value for key, value in self.recipe.text.settings.items() if value != usual[key]}
        return ({"silence": silence} if silence else {}) | ({"text": changed} if changed else {})

    def rates(self) -> dict[str, float]:
        """The new output layer may learn faster."""
        return {"model.lm_head.": self.recipe.optim.head_scale}
