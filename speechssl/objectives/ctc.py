"""CTC fine-tuning of a pretrained encoder (wav2vec 2.0, section 3.3 and appendix B): freezing, time and channel masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.core.packed import Movable, Packed, pack, segments
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives.masking import channel_mask, span_mask
from speechssl.objectives.protocol import Item, Step
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

    def __post_init__(self) -> None:
        for name in ("mask_prob", "channel_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} is outside [0, 1]")
        for name in ("mask_length", "channel_length"):
            if getattr(self, name) < 1:
                raise InputError(f"objective.{name} = {getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class CTCBatch(Movable):
    """audio: packed utterances. mask_T, channel_mask_BD: what is masked in training. targets: characters of all
    utterances end to end; lengths: how many each has. texts: the transcripts. count: utterances."""

    audio: Packed
    mask_T: Tensor
    channel_mask_BD: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def count(self) -> int:
        """Utterances: what the loss is divided by."""
        return len(self.lengths)


def frames_needed(ids: Sequence[int]) -> int:
    """Frames that CTC needs for a character sequence: one each, and a blank between equal neighbours."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def ctc_loss(log_probs_TV: Tensor, batch: CTCBatch, blank: int = 0) -> Tensor:
    """Sum over utterances of -log P(transcript); an utterance with no valid alignment contributes zero."""
    pieces = list(log_probs_TV.split(batch.audio.frames))
    return F.ctc_loss(
        nn.utils.rnn.pad_sequence(pieces),
        batch.targets,
        torch.tensor(batch.audio.frames),
        torch.tensor(batch.lengths),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )


class CTCObjective(nn.Module):
    """Fine-tune `model` to write `tokenizer`'s characters."""

    def __init__(self, model: Wav2Vec2ForCTC, config: CTCObjectiveConfig, tokenizer: CharTokenizer, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.tokenizer, self.seed = model, config, tokenizer, seed

    def collate(self, items: Sequence[Item]) -> CTCBatch:
        """Pack the waves, draw the masks from (seed, epoch, utterance), encode the transcripts."""
        config, model_config = self.config, self.model.config
        audio = pack([item.wave_S for item in items], model_config.geometry, normalise=model_config.do_normalize)
        masks, channels = [], []
        for item, frames in zip(items, audio.frames, strict=True):
            key = noise_key("mask", self.seed, item.epoch, item.id)
            masks.append(span_mask(frames, config.mask_prob, config.mask_length, key))
            channels.append(channel_mask(model_config.hidden_size, config.channel_prob, config.channel_length, key + 1))
        targets = [self.tokenizer.encode(item.text) for item in items]
        return CTCBatch(
            audio=audio,
            mask_T=torch.from_numpy(np.concatenate(masks)),
            channel_mask_BD=torch.from_numpy(np.stack(channels)),
            targets=torch.tensor([i for ids in targets for i in ids], dtype=torch.long),
            lengths=tuple(len(ids) for ids in targets),
            texts=tuple(item.text for item in items),
        )

    def start_step(self, step: int) -> None:
        """Dropped layers of this update, and whether the pretrained part learns yet; the same on every rank."""
        encoder, layers = self.model.wav2vec2.encoder, self.model.config.num_hidden_layers
        chances = np.random.default_rng(noise_key("layerdrop", self.seed, step)).random(layers)
        encoder.dropped = frozenset(np.flatnonzero(chances < self.model.config.layerdrop).tolist())
        self.model.wav2vec2.requires_grad_(step >= self.config.freeze_steps)

    def pool(self, batches: Sequence[CTCBatch]) -> None:
        """CTC has no statistics over the whole update."""

    def after_step(self) -> None:
        """Nothing follows the optimiser's step."""

    def forward(self, batch: CTCBatch) -> Step:
        """Sum of the CTC loss; in evaluation nothing is masked and word and character errors are counted too."""
        if not self.training:
            log_probs_TV = self.model(batch.audio)
            loss = ctc_loss(log_probs_TV, batch, self.tokenizer.blank)
            return Step(loss=loss, sums={"ctc": (loss, batch.count), **self.errors(log_probs_TV, batch)})
        log_probs_TV = self.model(
            batch.audio,
            mask_T=batch.mask_T,
            channel_mask_BD=batch.channel_mask_BD,
            feature_grad=self.config.feature_grad,
        )
        loss = ctc_loss(log_probs_TV, batch, self.tokenizer.blank)
        blank = (log_probs_TV.argmax(dim=1) == self.tokenizer.blank).sum()
        return Step(loss=loss, sums={"ctc": (loss.detach(), batch.count), "blank": (blank, len(log_probs_TV))})

    def errors(self, log_probs_TV: Tensor, batch: CTCBatch) -> dict:
        """Word and character errors of the greedy transcripts."""
        best_T = log_probs_TV.argmax(dim=1).cpu()
        found = [torch.unique_consecutive(best_T[rows]).tolist() for rows in segments(batch.audio.frames)]
        texts = [self.tokenizer.decode([i for i in ids if i != self.tokenizer.blank]) for ids in found]
        words, chars = jiwer.process_words(list(batch.texts), texts), jiwer.process_characters(list(batch.texts), texts)
        return {
            "wer": (words.substitutions + words.deletions + words.insertions, sum(map(len, words.references))),
            "cer": (chars.substitutions + chars.deletions + chars.insertions, sum(map(len, chars.references))),
        }
