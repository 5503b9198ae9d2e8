"""wav2vec 2.0 pretraining (Baevski et al. 2020, section 3.2): contrastive loss, code diversity, feature penalty.

Everything is a sum over masked frames, so that micro-batches and ranks add up to one big batch. Two choices make that
exact: the feature penalty is averaged per utterance and weighted by the utterance's masked frames, and the diversity
statistics are averaged over all micro-batches of all ranks, not per device as elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.packed import on_device
from speechssl.data.loader import Item
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Encoded, Wav2Vec2ForPreTraining
from speechssl.models.wav2vec2.quantizer import Quantised, perplexity
from speechssl.objectives import recipe as recipes
from speechssl.objectives.contrastive import contrastive, gumbel_noise, keyed_dropout, upcast
from speechssl.objectives.frames import FrameObjective, MaskedBatch
from speechssl.objectives.masking import distractor_counts
from speechssl.objectives.protocol import Step, Verdict
from speechssl.objectives.published import published_accuracy


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2ObjectiveConfig:
    """Masking, distractors and loss weights; the defaults are the paper's BASE on LibriSpeech."""

    mask_prob: float = 0.65
    """Spans per frame times span length; 0.65 masks about 49 % of the frames."""
    mask_length: int = 10
    """Frames per span (20 ms each)."""
    num_negatives: int = 100
    """K: distractors per masked frame, from the same utterance. 255 at most."""
    logit_temperature: float = 0.1
    """Divides the cosine similarities."""
    diversity_weight: float = 0.1
    """Weight of the codebook diversity loss."""
    penalty_weight: float = 10.0
    """Weight of the squared encoder features (LARGE: 0)."""
    feature_grad: float = 0.1
    """Factor on the gradient into the convolutional encoder (LARGE: 1)."""
    gumbel_start: float = 2.0
    """Gumbel temperature at update 0."""
    gumbel_end: float = 0.5
    """Gumbel temperature at which the annealing stops (LARGE: 0.1)."""
    gumbel_decay: float = 0.999995
    """Factor on the Gumbel temperature per update."""
    logit_spread: float = 0.0
    """Start the quantizer's logits with zero mean and this standard deviation over the frames of one batch, measured
    before the first update (0: the paper's plain initialisation). Small runs need it: at random initialisation the
    features of all frames are nearly alike, so that nearly all choose the same code. 4 works."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_prob <= 1:
            raise InputError(f"objective.mask_prob = {self.mask_prob} is outside (0, 1]; the paper uses 0.65")
        if not 1 <= self.num_negatives <= 255:
            raise InputError(f"objective.num_negatives = {self.num_negatives} is outside 1 ... 255; the paper uses 100")
        if self.mask_length < 1:
            raise InputError(f"objective.mask_length = {self.mask_length} must be at least 1; the paper uses 10")
        for name in ("logit_temperature", "gumbel_start", "gumbel_decay"):
            if not getattr(self, name) > 0:
                raise InputError(f"objective.{name} = {getattr(self, name)} must be greater than 0")


@dataclass(frozen=True, kw_only=True)
class Recipe(recipes.Recipe):
    """wav2vec 2.0 pretraining."""

    kind: Literal["wav2vec2"] = "wav2vec2"
    """The objective."""
    model: Wav2Vec2Config = field(default_factory=Wav2Vec2Config)
    objective: Wav2Vec2ObjectiveConfig = field(default_factory=Wav2Vec2ObjectiveConfig)


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(MaskedBatch):
    """masked: how many frames of each utterance are masked (M).
    distractors: per utterance (M, M), how often each masked frame is a distractor of each other one, flat and end to end,
    uint8. keys: per utterance, the seed of its Gumbel noise."""

    masked: tuple[int, ...]
    distractors: Tensor
    keys: tuple[int, ...]


class Shared(NamedTuple):
    """temperature: of the Gumbel softmax. skip: layers left out. totals: the quantizer's probabilities (G, V) summed over
    the masked frames of the whole update, and the number of those; None where an update is one micro-batch per rank."""

    temperature: float
    skip: frozenset[int]
    totals: tuple[Tensor, float] | None


class Wav2Vec2(FrameObjective):
    """Masked contrastive learning."""

    Recipe = Recipe
    Network = Wav2Vec2ForPreTraining
    bar = {"loss": ".3f", "accuracy": ".3f", "code_perplexity": ".1f", "grad_norm": ".2f"}  # noqa: RUF012
    recipe: Recipe
    model: Wav2Vec2ForPreTraining

    @torch.no_grad()
    def initialise(self, first: Callable[[], PretrainBatch]) -> None:
        """Centre and scale the quantizer's logits on a first batch, if the recipe asks for it and the weights are fresh."""
        spread = self.recipe.objective.logit_spread
        if not (self.fresh and spread):
            return
        linear, body = self.model.quantizer.weight_proj, self.model.wav2vec2
        normed_TC = body.feature_projection.layer_norm(body.feature_extractor(first().audio))
        logits_TV = normed_TC @ linear.weight.T
        linear.weight.mul_(spread / logits_TV.std(dim=0).mean())
        linear.bias.copy_(-(normed_TC.mean(dim=0) @ linear.weight.T))

    def collate(self, items: Sequence[Item]) -> PretrainBatch:
        """Pack the waves; draw each utterance's mask and distractors from (seed, epoch, utterance)."""
        audio, masks = self.pack(items)
        tables = []
        for item, own_T in zip(items, masks, strict=True):
            counts_MM = distractor_counts(
                int(own_T.sum()), self.recipe.objective.num_negatives, self.key("negatives", item)
            )
            tables.append(counts_MM.ravel())
        mask_T = np.concatenate(masks)
        return PretrainBatch(
            audio=audio,
            mask_T=torch.from_numpy(mask_T),
            masked_M=torch.from_numpy(np.flatnonzero(mask_T)),
            masked=tuple(int(own_T.sum()) for own_T in masks),
            distractors=torch.from_numpy(np.concatenate(tables)),
            keys=tuple(self.key("gumbel", item) for item in items),
        )

    def before_update(self, step: int, micros: Sequence[PretrainBatch]) -> Shared:
        """Gumbel temperature, skipped layers, and for several micro-batches the statistics of the diversity loss."""
        config = self.recipe.objective
        return Shared(
            temperature=max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end),
            skip=self.skip(step),
            totals=self.probability_totals(micros) if self.training and len(micros) > 1 else None,
        )

    @torch.no_grad()
    def probability_totals(self, micros: Sequence[PretrainBatch]) -> tuple[Tensor, float]:
        """Sum the quantizer's probabilities over all micro-batches of all ranks: what the diversity loss averages.

        The convolutional encoder runs once more for it, 8 % of an update's CPU time for BASE and for recipes/small: the
        gradient of every micro-batch needs the statistics of all, and to keep their graphs until then would cost the
        memory that micro-batches are there to save.
        """
        body, sums = self.model.wav2vec2, []
        for batch in micros:
            features_TC = body.feature_extractor(batch.audio)
            normed_MC = body.feature_projection.layer_norm(features_TC).index_select(0, batch.masked_M)
            with torch.autocast(normed_MC.device.type, enabled=False):
                logits_MGV = self.model.quantizer.logits(self.drop(upcast(normed_MC), batch))
            sums.append(logits_MGV.softmax(dim=-1).sum(dim=0))
        total_GV = sum(sums[1:], sums[0])
        return dist.all_sum(total_GV), dist.all_sum_float(sum(batch.count for batch in micros))

    def forward(self, batch: PretrainBatch, shared: Shared) -> Step:
        """Sum of the loss over the micro-batch's masked frames, with the metrics that show whether it learns."""
        config = self.recipe.objective
        encoded: Encoded = self.model.wav2vec2(
            batch.audio,
            batch.mask_T,
            feature_grad=config.feature_grad,
            skip=shared.skip,
            checkpointing=self.recipe.train.gradient_checkpointing,
        )
        with torch.autocast(encoded.normed_TC.device.type, enabled=False):
            quantised = self.quantise(upcast(encoded.normed_TC.index_select(0, batch.masked_M)), batch, shared)
            context_MD = self.model.project_hid(upcast(encoded.states[-1].index_select(0, batch.masked_M)))
            target_MD = self.model.project_q(quantised.q_MD)
            loss, correct = self.contrast(context_MD, target_MD, quantised.codes_MG, batch)
            penalty = self.penalty(encoded.features_TC, batch)
            diversity, value = self.diversity(quantised.probs_MGV.sum(dim=0), batch.count, shared)
        total = loss + config.penalty_weight * penalty + config.diversity_weight * diversity
        return Step(loss=total, sums=self.metrics(batch, loss, correct, penalty, value, quantised, target_MD))

    def quantise(self, normed_MC: Tensor, batch: PretrainBatch, shared: Shared) -> Quantised:
        """Targets of the masked frames, with Gumbel noise in training and the plain arg max otherwise."""
        quantizer, noise_MGV = self.model.quantizer, None
        if self.training:
            noise_MGV = gumbel_noise(batch.keys, batch.masked, (quantizer.groups, quantizer.entries), normed_MC.device)
        return quantizer(self.drop(normed_MC, batch), noise_MGV, shared.temperature)

    def drop(self, normed_MC: Tensor, batch: PretrainBatch) -> Tensor:
        """Dropout of the quantizer's input."""
        prob = self.model.config.feat_quantizer_dropout if self.training else 0.0
        return keyed_dropout(normed_MC, prob, batch.keys, batch.masked)

    def contrast(self, context_MD: Tensor, target_MD: Tensor, codes_MG: Tensor, batch: PretrainBatch):
        """Loss sum and correct decisions over all utterances."""
        pieces = [x.split(batch.masked) for x in (context_MD, target_MD, codes_MG)]
        tables = batch.distractors.split([masked**2 for masked in batch.masked])
        losses, corrects = [], []
        for context, target, codes, table, masked in zip(*pieces, tables, batch.masked, strict=True):
            counts_MM = table.view(masked, masked)
            loss, correct = contrastive(context, target, codes, counts_MM, self.recipe.objective.logit_temperature)
            losses.append(loss)
            corrects.append(correct)
        return torch.stack(losses).sum(), torch.stack(corrects).sum()

    def penalty(self, features_TC: Tensor, batch: PretrainBatch) -> Tensor:
        """Each utterance's mean squared feature times its masked frames, summed."""
        means = [upcast(piece).square().mean() for piece in features_TC.split(batch.audio.frames)]
        weights_B = on_device(batch.masked, features_TC.device)
        return (torch.stack(means) * weights_B).sum()

    def diversity(self, probs_GV: Tensor, count: int, shared: Shared) -> tuple[Tensor, Tensor]:
        """(share of the loss sum, value): 1 - perplexity of the averaged probabilities / (G V) (equation 4).

        The average is over the whole update. Its value is the same for every micro-batch; the gradient reaches only this
        micro-batch's own part of it, `probs_GV`.
        """
        own_GV = probs_GV.detach()
        total_GV, total = own_GV, float(count)
        if shared.totals is not None:
            total_GV, total = shared.totals
        elif self.training:
            total_GV, total = dist.all_sum(own_GV), dist.all_sum_float(count)
        others_GV = total_GV - own_GV
        value = 1 - perplexity((others_GV + probs_GV) / total) / probs_GV.numel()
        gradient_only = (value - value.detach()) * total
        return gradient_only + value.detach() * count, value.detach()

    def metrics(self, batch, loss, correct, penalty, diversity, quantised: Quantised, target_MD: Tensor) -> dict:
        """Numerators and denominators of what the log shows."""
        n = batch.count
        groups, entries = quantised.probs_MGV.shape[1:]
        used_GV = F.one_hot(quantised.codes_MG, entries).float().mean(dim=0)
        return {
            "contrastive": (loss.detach(), n),
            "accuracy": (correct, n),
            "diversity": (diversity * n, n),
            "penalty": (penalty.detach(), n),
            "code_perplexity": (perplexity(used_GV) / groups * n, n),
            "prob_perplexity": (perplexity(quantised.probs_MGV.detach().mean(dim=0)) / groups * n, n),
            "target_std": (target_MD.detach().std(dim=0, correction=0).mean() * n, n),
        }

    def verdict(self, line: dict[str, Any]) -> Verdict | None:
        """Collapsed codes, targets or task; slow if near chance where published runs had long left it."""
        if line["step"] <= max(200, int(self.recipe.optim.warmup * self.recipe.train.steps)):
            return None
        message = self.collapsed(line)
        if message:
            return Verdict(message, fatal=True)
        seconds = self.recipe.data.batch_seconds
        expected = published_accuracy(seconds, line["step"])
        if expected is None or line["accuracy"] > expected / 3:
            return None
        message = (
            f"slow, not collapsed: accuracy {line['accuracy']:.3f} after {line['step']} updates and "
            f"{line['hours_heard']:.1f} h heard, where BASE with about {seconds:.0f} s per update had {expected:.2f}. Quality "
            "follows hours heard: train longer; if the loss is flat near ln(K + 1), raise optim.lr"
        )
        return Verdict(message, fatal=False)

    def collapsed(self, line: dict[str, Any]) -> str | None:
        """Advice when nothing can be learned any more."""
        entries = self.recipe.model.num_codevectors_per_group
        if line["code_perplexity"] < min(2.0, 0.1 * entries):
            return (
                f"the codebooks have collapsed: code perplexity {line['code_perplexity']:.2f} of {entries} at update "
                f"{line['step']}, so nothing is left to tell apart; raise objective.diversity_weight, set "
                "objective.logit_spread = 4, or lower optim.lr"
            )
        if line["target_std"] < 1e-4:
            return (
                f"the targets have collapsed to one point (standard deviation {line['target_std']:.1e}) at update "
                f"{line['step']}; lower optim.lr or raise objective.penalty_weight"
            )
        if line["accuracy"] > 0.999:
            return (
                f"contrastive accuracy {line['accuracy']:.4f} at update {line['step']}: the task has become trivial, which "
                "real speech never is; look for silent or repeated audio, lower optim.lr or raise "
                "objective.diversity_weight"
            )
        return None
