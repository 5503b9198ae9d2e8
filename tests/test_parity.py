"""The same weights, masks and distractors as transformers' Wav2Vec2ForPreTraining give the same numbers and gradients."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import transformers

from speechssl.core.packed import pack
from speechssl.data.loader import Item
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.objectives.contrastive import gumbel_noise
from tests.conftest import FAMILIES, QUIET, masked_learner, tiny

BASE = Wav2Vec2Config(**QUIET)
BASE_PRE = Wav2Vec2Config(**QUIET | FAMILIES["layer-pre"])


def theirs(config: Wav2Vec2Config, **changes) -> transformers.Wav2Vec2ForPreTraining:
    """transformers' random model of the same architecture."""
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items() if k != "do_normalize"}
    hf = transformers.Wav2Vec2Config(**fields | changes, attn_implementation="eager")
    torch.manual_seed(1)
    return transformers.Wav2Vec2ForPreTraining(hf)


def ours(model: transformers.Wav2Vec2ForPreTraining, config: Wav2Vec2Config) -> Wav2Vec2ForPreTraining:
    """Our model with their weights: the state dict fits as it stands."""
    mine = Wav2Vec2ForPreTraining(config)
    mine.load_state_dict(model.state_dict())
    return mine


@pytest.mark.parametrize(
    "config",
    [tiny("group-post"), tiny("layer-pre"), BASE, BASE_PRE],
    ids=["tiny-post", "tiny-pre", "base-post", "base-pre"],
)
def test_hidden_states_and_losses_and_gradients(config, speech, monkeypatch):
    """One utterance in training mode; their mask, negatives and Gumbel noise are ours."""
    reference = theirs(config).train()
    model = ours(reference, config)
    wave = speech[:32_000]
    objective = masked_learner(model, seed=5, penalty_weight=0.0, feature_grad=1.0).train()
    batch = objective.collate([Item(wave_S=wave, id="a", epoch=0)])
    share_noise(monkeypatch, batch, config)
    shared = objective.before_update(0, [batch])
    reference.quantizer.temperature = shared.temperature

    wave_1N = batch.audio.stream_N[None, : len(wave)]
    out = reference(
        wave_1N,
        mask_time_indices=batch.mask_T[None],
        sampled_negative_indices=as_indices(batch),
        output_hidden_states=True,
    )
    step = objective(batch, shared)
    states = model.wav2vec2(batch.audio, batch.mask_T).states
    last = reference.wav2vec2(wave_1N, mask_time_indices=batch.mask_T[None]).last_hidden_state  # final norm applied
    for state, expected in zip(states, [*out.hidden_states[:-1], last], strict=True):
        close(state, expected[0])
    close(step.sums["contrastive"][0], out.contrastive_loss)
    close(step.sums["diversity"][0], out.diversity_loss)
    close(step.sums["code_perplexity"][0] / step.sums["code_perplexity"][1], code_perplexity(reference, out, batch))
    close(step.loss, out.loss)
    out.loss.backward()
    step.loss.backward()
    compare_gradients(model, reference)


def share_noise(monkeypatch, batch, config: Wav2Vec2Config) -> None:
    """Make transformers' Gumbel softmax take our noise at the masked frames (it quantises the others too)."""
    groups, entries = config.num_codevector_groups, config.num_codevectors_per_group
    noise_TGV = torch.zeros(len(batch.mask_T), groups, entries)
    noise_TGV[batch.mask_T] = gumbel_noise(batch.keys, batch.masked, (groups, entries), torch.device("cpu"))

    def gumbel_softmax(logits, tau, hard):
        soft = ((logits + noise_TGV.view_as(logits)) / tau).softmax(-1)
        index = soft.argmax(-1, keepdim=True)
        return torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)


def code_perplexity(reference, out, batch) -> torch.Tensor:
    """exp(entropy) of the codes that their quantizer chose at the masked frames, averaged over the groups."""
    features = reference.dropout_features(reference.wav2vec2(batch.audio.stream_N[None]).extract_features)
    logits = reference.quantizer.weight_proj(features)[0][batch.mask_T[: features.shape[1]]]
    logits = logits.unflatten(1, (reference.quantizer.num_groups, -1))
    noise = gumbel_noise(batch.keys, batch.masked, tuple(logits.shape[1:]), torch.device("cpu"))
    chosen = torch.nn.functional.one_hot((logits + noise).argmax(-1), logits.shape[-1]).float().mean(0)
    return torch.exp(-(chosen * torch.log(chosen + 1e-7)).sum(-1)).mean()


def as_indices(batch) -> torch.Tensor:
    """Our distractor counts as transformers' (1, T, K) indices into the frames of the utterance."""
    masked = torch.nonzero(batch.mask_T).flatten()
    counts_MM = batch.distractors.view(batch.count, batch.count).long()
    rows = [torch.repeat_interleave(masked, counts_M) for counts_M in counts_MM]
    indices = torch.zeros(1, len(batch.mask_T), len(rows[0]), dtype=torch.long)
    indices[0, masked] = torch.stack(rows)
    return indices


def close(mine: torch.Tensor, expected: torch.Tensor, rel: float = 1e-4) -> None:
    """Relative to the size of what is expected."""
    error = (mine - expected).norm() / expected.norm().clamp_min(1e-12)
    assert error < rel, f"relative error {error:.2e}"


def compare_gradients(model: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Every weight's gradient, relative to the largest gradient of its kind (zero gradients have rounding only)."""
    pairs = dict(model.named_parameters())
    scale = max(float(p.grad.norm()) for p in reference.parameters() if p.grad is not None)
    for name, parameter in reference.named_parameters():
        if parameter.grad is None:
            assert pairs[name].grad is None or float(pairs[name].grad.norm()) == 0, name
            continue
        gap = float((pairs[name].grad - parameter.grad).norm())
        assert gap <= 1e-4 * float(parameter.grad.norm()) + 1e-6 * scale, f"{name}: {gap:.2e}"


def test_quantizer_picks_the_same_codes_with_the_same_noise(speech, monkeypatch):
    config = tiny("group-post")
    reference = theirs(config).train()
    model = ours(reference, config)
    features = torch.randn(1, 50, config.conv_dim[-1])
    noise = -torch.empty(50, 2, 16).exponential_().log()

    def gumbel_softmax(logits, tau, hard):
        soft = ((logits + noise.view_as(logits)) / tau).softmax(-1)
        index = soft.argmax(-1, keepdim=True)
        return torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)
    reference.quantizer.temperature = 1.3
    expected, _ = reference.quantizer(features)
    mine = model.quantizer(features[0], noise, 1.3)
    close(mine.q_MD, expected[0], 1e-6)
    expected.sum().backward()
    mine.q_MD.sum().backward()
    for name, parameter in reference.quantizer.named_parameters():
        close(dict(model.quantizer.named_parameters())[name].grad, parameter.grad, 1e-4)


def test_perplexity_constants_of_transformers():
    """The constants of transformers' own test of the quantizer's perplexity: 141.4291, and 58.6757 with a mask."""
    from speechssl.models.wav2vec2.quantizer import perplexity

    probs = torch.arange(100).reshape(2, 5, 10) / 100
    assert float(perplexity(probs.mean(dim=0))) == pytest.approx(141.4291, abs=1e-3)
    mask = torch.ones((2,), dtype=torch.bool)
    mask[0] = False
    masked = (probs * mask[:, None, None]).sum(0) / mask.sum()
    assert float(perplexity(masked)) == pytest.approx(58.6757, abs=1e-3)


def test_encoder_against_torchaudio(speech, family):
    """The convolutional encoder, projection and context network equal torchaudio's with the same weights."""
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    config = tiny(family)
    reference = theirs(config).eval()
    wave = torch.from_numpy(speech[:20_000])
    imported = import_huggingface_model(reference.wav2vec2).eval()
    model = ours(reference, config).eval()
    with torch.no_grad():
        expected, _ = imported(wave[None])
        mine = model.wav2vec2(pack([np.asarray(wave)], config.geometry)).states[-1]
    close(mine, expected[0])
