"""DinoSR against its formulas written out by hand: codes, loss, moving averages; its teacher is tested with data2vec's."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.core.errors import InputError
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives.dinosr import DinoSR, DinoSRObjectiveConfig, Recipe
from speechssl.objectives.teacher import block_outputs
from tests.conftest import tiny
from tests.objectives.test_data2vec import disturb, items


def learner(**changes) -> DinoSR:
    """A tiny objective with a codebook for each of both layers."""
    recipe = Recipe(model=tiny("layer-pre"), objective=DinoSRObjectiveConfig(**{"top_layers": 2, "codes": 6} | changes))
    torch.manual_seed(1)
    return DinoSR(recipe, Wav2Vec2Encoder(recipe.model)).train()


def taught(ours: DinoSR, batch) -> torch.Tensor:
    """(K, M, D): the teacher's blocks at the masked frames, each utterance by itself in torch's instance norm."""
    body = ours.model.wav2vec2
    with torch.no_grad():
        x_TD = body.feature_projection.projection(body(batch.audio).normed_TC)
        blocks = block_outputs(ours.teacher, x_TD, batch.audio.frames, 2).split(list(batch.audio.frames), dim=1)
    return torch.cat([F.instance_norm(block.mT).mT for block in blocks], dim=1)[:, batch.masked_M]


@pytest.mark.parametrize("own_layers", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_nearest_codes(own_layers, speech):
    ours = learner(own_layers=own_layers)
    batch = ours.collate(items(speech))
    ours.initialise(lambda: batch)
    disturb(ours.model)
    found = ours(batch, ours.before_update(0, [batch]))

    states = ours.model.wav2vec2(batch.audio, batch.mask_T).states
    expected, right = torch.zeros(()), 0.0
    for layer, block_MD in enumerate(taught(ours, batch)):
        codes_VD = ours.sums_KVD[layer] / ours.counts_KV[layer, :, None]
        codes_M = torch.cdist(block_MD, codes_VD).argmin(dim=1)
        state_MD = states[layer + 1 if own_layers else -1][batch.masked_M]
        scores_MV = ours.heads[layer](F.layer_norm(state_MD, (state_MD.shape[1],)) if own_layers else state_MD)
        expected = expected + F.cross_entropy(scores_MV, codes_M, reduction="sum") / 2
        right += float((scores_MV.argmax(dim=1) == codes_M).sum()) / 2
    torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-3)
    assert float(found.sums["accuracy"][0]) == pytest.approx(right) and found.sums["accuracy"][1] == batch.count
    found.loss.backward()
    assert all(parameter.grad is None for parameter in ours.teacher.parameters())
    assert all(head.weight.grad.abs().max() > 0 for head in ours.heads)


def test_codes_are_moving_averages_of_their_frames(speech):
    ours = learner(code_decay=0.8)
    batch = ours.collate(items(speech))
    ours.initialise(lambda: batch)
    sums, counts = ours.sums_KVD.double(), ours.counts_KV.double()
    for step in range(3):
        blocks = taught(ours, batch).double()
        codes = torch.cdist(blocks, sums / counts[:, :, None]).argmin(dim=2)
        ours(batch, ours.before_update(step, [batch]))
        ours.after_update(step, frozenset())
        for layer in range(2):
            for code in set(codes[layer].tolist()):
                own_ND = blocks[layer, codes[layer] == code]
                sums[layer, code] = 0.8 * sums[layer, code] + 0.2 * own_ND.sum(dim=0)
                counts[layer, code] = 0.8 * counts[layer, code] + 0.2 * len(own_ND)
        torch.testing.assert_close(ours.counts_KV.double(), counts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.sums_KVD.double(), sums, rtol=1e-3, atol=1e-3)


def test_a_code_without_frames_stays_as_it_is(speech):
    ours = learner(code_decay=0.1)
    batch = ours.collate(items(speech))
    ours.initialise(lambda: batch)
    ours.sums_KVD[0, 3] = 1e4
    for step in range(60):
        ours(batch, ours.before_update(step, [batch]))
        ours.after_update(step, frozenset())
    assert (ours.sums_KVD[0, 3] == 1e4).all() and ours.counts_KV[0, 3] == 1
    assert ours.sums_KVD.isfinite().all() and (ours.counts_KV > 0).all()


def test_fewer_frames_than_codes_repeat_none(speech):
    ours = learner(codes=300)
    batch = ours.collate(items(speech)[:1])
    ours.initialise(lambda: batch)
    assert len(torch.unique(ours.sums_KVD[0], dim=0)) == 300


def test_the_teacher_freezes_and_the_codes_go_on(speech):
    ours = learner(freeze_step=1)
    batch = ours.collate(items(speech))
    ours.initialise(lambda: batch)
    seen = []
    for step in range(3):
        ours(batch, ours.before_update(step, [batch]))
        disturb(ours.model)
        ours.after_update(step, frozenset())
        seen.append((ours.sums_KVD.clone(), ours.teacher.layers[0].attention.q_proj.weight.clone()))
    assert torch.equal(seen[1][1], seen[0][1]) and torch.equal(seen[2][1], seen[0][1])
    assert not torch.equal(seen[2][0], seen[0][0])


def test_verdict_and_recipe():
    ours = learner()
    assert ours.verdict({"step": 2000, "code_perplexity": 40.0}) is None
    assert ours.verdict({"step": 10, "code_perplexity": 1.0}) is None
    assert learner(codes=2).verdict({"step": 2000, "code_perplexity": 2.0}) is None
    verdict = ours.verdict({"step": 2000, "code_perplexity": 1.5})
    assert verdict is not None and verdict.fatal and "collapsed" in verdict.message
    for changes in ({"codes": 1}, {"code_decay": 1.0}, {"top_layers": 3}, {"mask_prob": 0.0}):
        with pytest.raises(InputError, match="objective"):
            learner(**changes)
