"""The pretraining loss against its expanded form, micro-batches against one batch, noise against nothing hidden."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.models.wav2vec2.quantizer import perplexity
from speechssl.objectives.protocol import Item
from speechssl.objectives.wav2vec2 import Wav2Vec2Objective, Wav2Vec2ObjectiveConfig, contrastive, gumbel_noise
from tests.conftest import tiny


def expanded(context, target, codes, counts, temperature=0.1):
    """The loss as fairseq and transformers compute it: K negatives gathered, cosine similarity element by element."""
    total = 0.0
    for i in range(len(context)):
        index = torch.repeat_interleave(torch.arange(len(context)), counts[i].long())
        candidates = torch.cat([target[i : i + 1], target[index]])
        logits = F.cosine_similarity(context[i][None], candidates) / temperature
        same = (codes[index] == codes[i]).all(dim=1)
        logits[1:][same] = -torch.inf
        total = total + F.cross_entropy(logits[None], torch.zeros(1, dtype=torch.long))
    return total


@pytest.mark.parametrize("masked, entries", [(40, 8), (40, 2), (3, 2), (1, 4)])
def test_matrix_product_equals_the_expanded_form(masked, entries):
    from speechssl.objectives.masking import distractor_counts

    context = torch.randn(masked, 16, dtype=torch.float64, requires_grad=True)
    codes = torch.randint(entries, (masked, 2))
    table = torch.randn(entries, entries, 16, dtype=torch.float64)
    target = table[codes[:, 0], codes[:, 1]].requires_grad_()
    counts = torch.from_numpy(distractor_counts(masked, 100, key=5))
    loss, _ = contrastive(context, target, codes, counts, 0.1)
    expected = expanded(context, target, codes, counts)
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=1e-9)
    ours = torch.autograd.grad(loss, (context, target))
    theirs = torch.autograd.grad(expected, (context, target))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6)


def test_diversity_is_zero_for_uniform_and_largest_for_a_spike():
    uniform, spike = torch.full((2, 8), 1 / 8), torch.eye(8)[:2]
    assert float(1 - perplexity(uniform) / 16) == pytest.approx(0.0, abs=1e-5)
    assert float(1 - perplexity(spike) / 16) == pytest.approx(1 - 2 / 16, abs=1e-5)


def items_of(speech, lengths=(9_000, 16_000, 30_000, 6_000, 12_000, 20_000)) -> list[Item]:
    """Utterances of unequal length."""
    return [
        Item(wave_S=speech[20_000 * i : 20_000 * i + n], id=f"utterance {i}", epoch=1) for i, n in enumerate(lengths)
    ]


def gradients(objective: Wav2Vec2Objective, parts: list[list[Item]]) -> dict[str, torch.Tensor]:
    """Gradients of one update made of these micro-batches, as the loop computes them."""
    objective.zero_grad()
    objective.start_step(0)
    batches = [objective.collate(part) for part in parts]
    if len(batches) > 1:
        objective.pool(batches)
    total = sum(batch.count for batch in batches)
    for batch in batches:
        (objective(batch).loss / total).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_micro_batches_equal_one_batch(family, speech, pieces):
    model = Wav2Vec2ForPreTraining(tiny(family)).double()
    for config in (Wav2Vec2ObjectiveConfig(), Wav2Vec2ObjectiveConfig(diversity_weight=5.0, feature_grad=1.0)):
        objective = Wav2Vec2Objective(copy.deepcopy(model), config, seed=1)
        objective.collate = doubled(objective.collate)
        items = items_of(speech)
        whole = gradients(objective, [items])
        cut = gradients(objective, [items[i::pieces] for i in range(pieces)])
        assert whole.keys() == cut.keys()
        for name, expected in whole.items():
            gap = float((cut[name] - expected).norm() / expected.norm().clamp_min(1e-9))
            assert gap < 1e-6, f"{name}: {gap:.1e}"


def doubled(collate):
    """Batches in float64, so that only a wrong formula can differ."""

    def collate64(items):
        batch = collate(items)
        return replace(batch, audio=replace(batch.audio, stream_N=batch.audio.stream_N.double()))

    return collate64


def test_gumbel_noise_belongs_to_the_utterance():
    both = gumbel_noise((3, 4), (5, 7), (2, 8), torch.device("cpu"))
    assert torch.equal(both[5:], gumbel_noise((4,), (7,), (2, 8), torch.device("cpu")))
    many = gumbel_noise((9,), (20_000,), (1, 4), torch.device("cpu"))
    assert float(many.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(many.std()) == pytest.approx(1.2825, abs=0.02)


def test_the_codebook_learns(speech):
    """Targets are not detached: the contrastive loss alone moves the codebook and the quantizer's logits."""
    config = Wav2Vec2ObjectiveConfig(diversity_weight=0.0, penalty_weight=0.0)
    objective = Wav2Vec2Objective(Wav2Vec2ForPreTraining(tiny()), config, seed=1)
    grads = gradients(objective, [items_of(speech)])
    for name in (
        "quantizer.codevectors",
        "quantizer.weight_proj.weight",
        "project_q.weight",
        "wav2vec2.masked_spec_embed",
    ):
        assert float(grads[f"model.{name}"].abs().max()) > 0, name


def test_temperature_falls_per_update_and_stops():
    objective = Wav2Vec2Objective(Wav2Vec2ForPreTraining(tiny()), Wav2Vec2ObjectiveConfig(gumbel_decay=0.9), seed=1)
    found = []
    for step in (0, 1, 10, 1000):
        objective.start_step(step)
        found.append(objective.temperature)
    assert found == pytest.approx([2.0, 1.8, 2 * 0.9**10, 0.5])


def test_layer_drop_is_a_function_of_seed_and_step():
    config = tiny(num_hidden_layers=12, layerdrop=0.3)
    first, second = (Wav2Vec2Objective(Wav2Vec2ForPreTraining(config), Wav2Vec2ObjectiveConfig(), seed=4) for _ in "ab")
    drops = []
    for step in range(200):
        first.start_step(step)
        second.start_step(step)
        assert first.model.wav2vec2.encoder.dropped == second.model.wav2vec2.encoder.dropped
        drops.append(len(first.model.wav2vec2.encoder.dropped))
    assert sum(drops) / (200 * 12) == pytest.approx(0.3, abs=0.04)


def test_initialise_spreads_the_codes(speech):
    objective = Wav2Vec2Objective(
        Wav2Vec2ForPreTraining(tiny("layer-pre")), Wav2Vec2ObjectiveConfig(logit_spread=4.0), 1
    )
    batch = objective.collate(items_of(speech))
    before = objective(batch).sums["code_perplexity"]
    objective.initialise(batch)
    after = objective(batch).sums["code_perplexity"]
    assert float(after[0] / after[1]) > float(before[0] / before[1]) + 1
