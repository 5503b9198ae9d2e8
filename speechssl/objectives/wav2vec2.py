"""The wav2vec 2.0 pretraining objective (Baevski et al. 2020, section 3.2): contrastive + diversity + feature penalty.

Everything is a sum over masked frames, so that micro-batches and ranks add up to one big batch. Two choices make that
exact: the feature penalty is averaged per utterance and weighted by the utterance's masked frames, and the diversity
statistics are averaged over ALL micro-batches of ALL ranks (`pool`), not per device as elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.noise import noise_key
from speechssl.core.packed import Movable, Packed, on_device, pack
from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.models.wav2vec2.quantizer import Quantised, perplexity
from speechssl.objectives.masking import distractor_counts, span_mask
from speechssl.objectives.protocol import Item, Step
from speechssl.objectives.utterance import UtteranceLoss


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

    utterance_weight: float = 0.0
    """Weight of the auxiliary BYOL-S path: pooled features of the masked utterance predict those of the whole one, through
    a moving average of the network (objectives/utterance.py). For embeddings that serve classification; it costs one more
    forward pass."""
    utterance_tau: float = 0.99
    """Share of that moving average that an update keeps."""

    def __post_init__(self) -> None:
        if self.utterance_weight < 0 or not 0 <= self.utterance_tau <= 1:
            raise InputError("objective.utterance_weight cannot be negative, and utterance_tau lies in [0, 1]")
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
class PretrainBatch(Movable):
    """audio: the packed utterances. mask_T: whether a frame is masked; masked_M: the numbers of those. masked: how many of each
    utterance (M). distractors: per utterance (M, M), how often each masked frame is a distractor of each other one, flat
    and end to end, uint8. keys: per utterance, the seed of its Gumbel noise. count: masked frames of all utterances."""

    audio: Packed
    mask_T: Tensor
    masked_M: Tensor
    masked: tuple[int, ...]
    distractors: Tensor
    keys: tuple[int, ...]

    @property
    def count(self) -> int:
        """Masked frames: what the loss is divided by."""
        return sum(self.masked)


def contrastive(context_MD: Tensor, target_MD: Tensor, codes_MG: Tensor, counts_MM: Tensor, temperature: float):
    """InfoNCE of one utterance (equation 3) as one matrix product: -> (loss sum, number of frames told apart).

    context_MD, target_MD: projected context and quantised target of its M masked frames. counts_MM: multiplicity of each
    distractor. A distractor with the positive's own codes is no distractor (minus infinity in the reference).
    """
    scores_MM = F.normalize(context_MD, dim=1) @ F.normalize(target_MD, dim=1).T / temperature
    same_MM = (codes_MG[:, None] == codes_MG[None]).all(dim=-1)
    weights_MM = counts_MM.to(scores_MM.dtype).masked_fill(same_MM, 0.0)
    positive_M = scores_MM.diagonal()
    candidates_MM = scores_MM + weights_MM.clone().fill_diagonal_(1.0).log()
    best_M = scores_MM.detach().masked_fill(weights_MM == 0, -torch.inf).amax(dim=1)
    loss = torch.logsumexp(candidates_MM, dim=1) - positive_M
    return loss.sum(), (positive_M.detach() > best_M).sum()


def full(x: Tensor) -> Tensor:
    """At least float32: the quantizer, the similarities and the losses are never computed in less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gumbel_noise(keys: Sequence[int], counts: Sequence[int], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Gumbel noise (M, G, V), drawn per utterance from its own key, so that no batch mate changes it."""
    pieces = []
    for key, masked in zip(keys, counts, strict=True):
        generator = torch.Generator(device).manual_seed(key)
        pieces.append(torch.empty(masked, *shape, device=device).exponential_(generator=generator))
    return -torch.cat(pieces).clamp_min(torch.finfo(torch.float32).tiny).log()


def keyed_dropout(x_MC: Tensor, prob: float, keys: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Dropout whose mask belongs to the utterance, so that the statistics of a whole update can be gathered beforehand."""
    if prob == 0:
        return x_MC
    pieces = []
    for key, masked in zip(keys, counts, strict=True):
        generator = torch.Generator(x_MC.device).manual_seed(key ^ 1)
        pieces.append(torch.rand(masked, x_MC.shape[1], device=x_MC.device, generator=generator))
    return x_MC * (torch.cat(pieces) >= prob) / (1 - prob)


class Wav2Vec2Objective(nn.Module):
    """Masked contrastive learning of `model`."""

    def __init__(self, model: Wav2Vec2ForPreTraining, config: Wav2Vec2ObjectiveConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.temperature = config.gumbel_start
        self.pooled: tuple[Tensor, float] | None = None
        self.utterance = UtteranceLoss(model.wav2vec2, config.utterance_tau) if config.utterance_weight else None

    def collate(self, items: Sequence[Item]) -> PretrainBatch:
        """Pack the waves; draw each utterance's mask and distractors from (seed, epoch, utterance)."""
        config, model_config = self.config, self.model.config
        audio = pack([item.wave_S for item in items], model_config.geometry, normalise=model_config.do_normalize)
        masks, tables = [], []
        for item, frames in zip(items, audio.frames, strict=True):
            masks.append(span_mask(frames, config.mask_prob, config.mask_length, self.key("mask", item)))
            masked = int(masks[-1].sum())
            tables.append(distractor_counts(masked, config.num_negatives, self.key("negatives", item)).ravel())
        return PretrainBatch(
            audio=audio,
            mask_T=torch.from_numpy(np.concatenate(masks)),
            masked_M=torch.from_numpy(np.flatnonzero(np.concatenate(masks))),
            masked=tuple(int(mask_T.sum()) for mask_T in masks),
            distractors=torch.from_numpy(np.concatenate(tables)),
            keys=tuple(self.key("gumbel", item) for item in items),
        )

    def key(self, purpose: str, item: Item) -> int:
        """Seed of one kind of noise for one utterance in one epoch."""
        return noise_key(purpose, self.seed, item.epoch, item.id)

    @torch.no_grad()
    def initialise(self, batch: PretrainBatch) -> None:
        """Centre and scale the quantizer's logits on a first batch, if the config asks for it."""
        if not self.config.logit_spread:
            return
        linear, projection = self.model.quantizer.weight_proj, self.model.wav2vec2.feature_projection
        normed_TC = projection.layer_norm(self.model.wav2vec2.feature_extractor(batch.audio))
        logits_TV = normed_TC @ linear.weight.T
        linear.weight.mul_(self.config.logit_spread / logits_TV.std(dim=0).mean())
        linear.bias.copy_(-(normed_TC.mean(dim=0) @ linear.weight.T))

    def start_step(self, step: int) -> None:
        """Gumbel temperature and dropped layers of this update, the same on every rank."""
        config, model_config = self.config, self.model.config
        self.temperature = max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end)
        chances = np.random.default_rng(noise_key("layerdrop", self.seed, step)).random(model_config.num_hidden_layers)
        dropped = np.flatnonzero(chances < model_config.layerdrop)
        self.model.wav2vec2.encoder.dropped = frozenset(dropped.tolist())
        self.pooled = None

    @torch.no_grad()
    def pool(self, batches: Sequence[PretrainBatch]) -> None:
        """Sum the quantizer's probabilities over all micro-batches of all ranks: what the diversity loss averages.

        One extra pass of the convolutional encoder, needed only when an update has several micro-batches.
        """
        encoder, projection = self.model.wav2vec2.feature_extractor, self.model.wav2vec2.feature_projection
        total_GV = None
        for batch in batches:
            normed_MC = projection.layer_norm(encoder(batch.audio)).index_select(0, batch.masked_M)
            with torch.autocast(normed_MC.device.type, enabled=False):
                logits_MGV = self.model.quantizer.logits(self.dropped(full(normed_MC), batch))
            sum_GV = logits_MGV.softmax(dim=-1).sum(dim=0)
            total_GV = sum_GV if total_GV is None else total_GV + sum_GV
        assert total_GV is not None
        self.pooled = dist.all_sum(total_GV), dist.all_sum_float(sum(batch.count for batch in batches))

    def after_step(self) -> None:
        """The auxiliary path's target network follows."""
        if self.utterance is not None:
            self.utterance.follow(self.model.wav2vec2)

    def forward(self, batch: PretrainBatch) -> Step:
        """Sum of the loss over the micro-batch's masked frames, with the metrics that show whether it learns."""
        encoded = self.model.wav2vec2(batch.audio, batch.mask_T, feature_grad=self.config.feature_grad)
        with torch.autocast(encoded.normed_TC.device.type, enabled=False):
            quantised = self.quantise(full(encoded.normed_TC.index_select(0, batch.masked_M)), batch)
            context_MD = self.model.project_hid(full(encoded.states[-1].index_select(0, batch.masked_M)))
            target_MD = self.model.project_q(quantised.q_MD)
            loss, correct = self.contrast(context_MD, target_MD, quantised.codes_MG, batch)
            penalty = self.penalty(encoded.features_TC, batch)
            diversity, value = self.diversity(quantised.probs_MGV.sum(dim=0), batch.count)
        total = loss + self.config.penalty_weight * penalty + self.config.diversity_weight * diversity
        sums = self.metrics(batch, loss, correct, penalty, value, quantised, target_MD)
        if self.utterance is not None:
            weights_B = on_device(batch.masked, total.device)
            utterance = (self.utterance(encoded.states[-1], batch.audio) * weights_B).sum()
            total = total + self.config.utterance_weight * utterance
            sums["utterance"] = (utterance.detach(), batch.count)
        return Step(loss=total, sums=sums)

    def quantise(self, normed_MC: Tensor, batch: PretrainBatch) -> Quantised:
        """Targets of the masked frames, with Gumbel noise in training and the plain arg max otherwise."""
        quantizer = self.model.quantizer
        noise_MGV = None
        if self.training:
            noise_MGV = gumbel_noise(batch.keys, batch.masked, (quantizer.groups, quantizer.entries), normed_MC.device)
        return quantizer(self.dropped(normed_MC, batch), noise_MGV, self.temperature)

    def dropped(self, normed_MC: Tensor, batch: PretrainBatch) -> Tensor:
        """The quantizer's input after its own dropout."""
        prob = self.model.config.feat_quantizer_dropout if self.training else 0.0
        return keyed_dropout(normed_MC, prob, batch.keys, batch.masked)

    def contrast(self, context_MD: Tensor, target_MD: Tensor, codes_MG: Tensor, batch: PretrainBatch):
        """Loss sum and correct decisions over all utterances."""
        pieces = [x.split(batch.masked) for x in (context_MD, target_MD, codes_MG)]
        tables = batch.distractors.split([masked**2 for masked in batch.masked])
        losses, corrects = [], []
        for context, target, codes, table, masked in zip(*pieces, tables, batch.masked, strict=True):
            counts_MM = table.view(masked, masked)
            loss, correct = contrastive(context, target, codes, counts_MM, self.config.logit_temperature)
            losses.append(loss)
            corrects.append(correct)
        return torch.stack(losses).sum(), torch.stack(corrects).sum()

    def penalty(self, features_TC: Tensor, batch: PretrainBatch) -> Tensor:
        """Each utterance's mean squared feature times its masked frames, summed."""
        means = [full(piece).square().mean() for piece in features_TC.split(batch.audio.frames)]
        weights_B = on_device(batch.masked, features_TC.device)
        return (torch.stack(means) * weights_B).sum()

    def diversity(self, probs_GV: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(share of the loss sum, value): 1 - perplexity of the averaged probabilities / (G V) (equation 4).

        The average is over the whole update; this micro-batch differentiates only its own part of it.
        """
        total_GV, total = probs_GV.detach(), float(count)
        if self.training:
            total_GV, total = self.pooled or (dist.all_sum(total_GV), dist.all_sum_float(total))
        total_GV = probs_GV + (total_GV - probs_GV).detach()
        value = 1 - perplexity(total_GV / total) / probs_GV.numel()
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
