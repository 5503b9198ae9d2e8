"""The pretraining loss against its expanded form, micro-batches against one batch, noise that belongs to its utterance, and
verdicts: collapsed, slow, or nothing to say."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from speechssl.data.loader import Item
from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.models.wav2vec2.quantizer import perplexity
from speechssl.objectives.contrastive import contrastive, gumbel_noise
from speechssl.objectives.masking import distractor_counts
from speechssl.objectives.published import published_accuracy
from speechssl.objectives.recipe import DataConfig, OptimConfig, TrainConfig
from speechssl.objectives.wav2vec2 import Recipe, Wav2Vec2
from tests.conftest import masked_learner, one_step, tiny


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


def gradients(objective: Wav2Vec2, parts: list[list[Item]]) -> dict[str, torch.Tensor]:
    """Gradients of one update made of these micro-batches, as the loop computes them."""
    objective.zero_grad()
    batches = [objective.collate(part) for part in parts]
    shared = objective.before_update(0, batches)
    total = sum(batch.count for batch in batches)
    for batch in batches:
        (objective(batch, shared).loss / total).backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pieces", [2, 3, 6])
def test_micro_batches_equal_one_batch(family, speech, pieces):
    model = Wav2Vec2ForPreTraining(tiny(family)).double()
    for settings in ({}, dict(diversity_weight=5.0, feature_grad=1.0)):
        objective = masked_learner(copy.deepcopy(model), **settings)
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
    objective = masked_learner(diversity_weight=0.0, penalty_weight=0.0)
    grads = gradients(objective, [items_of(speech)])
    for name in (
        "quantizer.codevectors",
        "quantizer.weight_proj.weight",
        "project_q.weight",
        "wav2vec2.masked_spec_embed",
    ):
        assert float(grads[f"model.{name}"].abs().max()) > 0, name


def test_temperature_falls_per_update_and_stops():
    objective = masked_learner(gumbel_decay=0.9)
    found = [objective.before_update(step, []).temperature for step in (0, 1, 10, 1000)]
    assert found == pytest.approx([2.0, 1.8, 2 * 0.9**10, 0.5])


def test_layer_drop_is_a_function_of_seed_and_step():
    config = tiny(num_hidden_layers=12, layerdrop=0.3)
    first, second = (masked_learner(Wav2Vec2ForPreTraining(config), seed=4) for _ in "ab")
    skips = [first.before_update(step, []).skip for step in range(200)]
    assert skips == [second.before_update(step, []).skip for step in range(200)]
    assert sum(map(len, skips)) / (200 * 12) == pytest.approx(0.3, abs=0.04)
    assert first.eval().before_update(0, []).skip == frozenset(), "none in validation"


def test_initialise_spreads_the_codes(speech):
    objective = masked_learner(Wav2Vec2ForPreTraining(tiny("layer-pre")), logit_spread=4.0)
    batch = objective.collate(items_of(speech))
    before = one_step(objective, batch).sums["code_perplexity"]
    objective.initialise(lambda: batch)
    after = one_step(objective, batch).sums["code_perplexity"]
    assert float(after[0] / after[1]) > float(before[0] / before[1]) + 1


GOOD = {"step": 6000, "accuracy": 0.2, "code_perplexity": 40.0, "target_std": 0.2, "hours_heard": 145.0}


def judge() -> Wav2Vec2:
    """An objective whose updates take 87.5 s, with a warm-up of 1,000 updates and codebooks of 320 entries."""
    recipe = Recipe(
        model=tiny(num_codevectors_per_group=320),
        data=DataConfig(batch_seconds=87.5),
        optim=OptimConfig(warmup=0.1),
        train=TrainConfig(steps=10_000),
    )
    return Wav2Vec2(recipe, Wav2Vec2ForPreTraining(tiny()))


def test_a_good_run_gets_no_verdict():
    objective = judge()
    for step, accuracy, codes in (
        (500, 0.01, 1.0),
        (5000, 0.15, 20.0),
        (25_000, 0.23, 59.0),
        (400_000, 0.39, 127.0),
    ):
        assert objective.verdict(GOOD | {"step": step, "accuracy": accuracy, "code_perplexity": codes}) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"code_perplexity": 1.3}, "diversity_weight"),
        ({"target_std": 1e-6}, "penalty_weight"),
        ({"accuracy": 1.0}, "trivial"),
    ],
)
def test_each_collapse_is_fatal_and_says_what_to_change(change, words):
    verdict = judge().verdict(GOOD | change)
    assert verdict is not None
    assert verdict.fatal
    assert words in verdict.message
    assert "6000" in verdict.message


def test_slow_is_not_fatal():
    verdict = judge().verdict(GOOD | {"accuracy": 0.011})
    assert verdict is not None
    assert not verdict.fatal
    assert "slow, not collapsed" in verdict.message


def test_published_curves_are_looked_up_at_the_nearest_batch():
    assert published_accuracy(90, 4999) is None
    assert published_accuracy(90, 5000) == 0.150
    assert published_accuracy(2300, 30_000) == 0.384
    assert published_accuracy(1e9, 10**7) == 0.563
