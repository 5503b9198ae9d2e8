"""HuBERT against the paper's formula, and codes against the frames that they belong to."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from speechssl.core.errors import InputError
from speechssl.data.codes import write_codes
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives.hubert import Hubert, HubertObjectiveConfig, Recipe
from speechssl.objectives.recipe import TrainConfig
from tests.conftest import one_step, tiny

SIZES = (7, 5)
IDS = ("a", "b", "c")


@pytest.fixture
def codes(tmp_path):
    """Codes for 20 s of three utterances, three votes a frame; the first votes of the first utterance count its frames."""
    rng = np.random.default_rng(0)
    named = {name: rng.integers(0, SIZES, size=(999, 3, 2)).swapaxes(1, 2) for name in IDS}
    named["a"][:, :, 0] = np.stack([np.arange(999) % 7, np.arange(999) % 5], axis=1)
    write_codes(tmp_path / "codes.parquet", named.items(), sizes=SIZES, votes=3, hop=320, source="mfcc")
    return tmp_path / "codes.parquet"


def learner(codes, **settings) -> Hubert:
    config = HubertObjectiveConfig(codes=str(codes), **settings)
    recipe = Recipe(model=tiny(model_type="hubert"), objective=config, train=TrainConfig(seed=1))
    return Hubert(recipe, Wav2Vec2Encoder(recipe.model)).eval()


def items_of(objective: Hubert, speech, start: int = 0) -> list[Item]:
    """Crops of the three utterances, the first from sample `start` on."""
    items = []
    for name, first, length in zip(IDS, (start, 0, 0), (16_000, 24_000, 9_000), strict=True):
        labels = objective.labels(Utterance(id=name, path=""))
        items.append(Item(wave_S=speech[first : first + length], id=name, epoch=0, start=first, labels=labels))
    return items


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_equation_3_of_the_paper(codes, speech, weight):
    """p(c | frame) = exp(cos(A o, e_c) / 0.1) / sum over c', at masked frames, plus the weighted one at the others;
    the mean over a frame's votes."""
    objective = learner(codes, unmasked_weight=weight, code_dim=12)
    batch = objective.collate(items_of(objective, speech))
    states_TD = objective.model.wav2vec2(batch.audio, batch.mask_T).states[-1]
    expected = dict.fromkeys(("masked", "seen"), 0.0)
    for t, (masked, codes_CV) in enumerate(zip(batch.mask_T, batch.codes_TCV, strict=True)):
        nats = []
        for head, codes_V in zip(objective.heads, codes_CV, strict=True):
            similarity_K = cosine_similarity(head.projection(states_TD[t])[None], head.embeddings_KE)
            nats.append(-torch.log_softmax(similarity_K / 0.1, dim=0)[codes_V].mean())
        expected["masked" if masked else "seen"] += sum(nats).item() / len(nats)
    step = one_step(objective, batch)
    assert step.loss.item() == pytest.approx(expected["masked"] + weight * expected["seen"], rel=1e-5)
    assert step.sums["masked"][0].item() == pytest.approx(expected["masked"], rel=1e-5)
    assert batch.count == int(batch.mask_T.sum())


def test_a_crop_has_the_codes_of_its_own_frames(codes, speech):
    """A crop that starts between two frames takes the nearer one's codes."""
    objective, starts = learner(codes), (0, 3_210, 6_500)
    for start in starts:
        items = items_of(objective, speech, start)
        first, frames = round(start / 320), 49
        codes_TC = objective.collate(items).codes_TCV[:frames, :, 0]
        np.testing.assert_array_equal(codes_TC[:, 0], np.arange(first, first + frames) % 7)
        np.testing.assert_array_equal(codes_TC[:, 1], np.arange(first, first + frames) % 5)


def test_the_transformer_grows_from_no_layer(codes):
    objective = learner(codes, growing=30)
    skipped = [len(objective.before_update(step, [])) for step in (0, 9, 10, 19, 20, 30, 400)]
    assert skipped == [2, 2, 1, 1, 0, 0, 0]


def test_mistakes(codes, tmp_path):
    with pytest.raises(InputError, match=r"objective.codes names no file of codes; make one: `speechssl cluster mfcc"):
        learner("")
    with pytest.raises(InputError, match=r"training data: 1 of 2 utterances have no codes in .*, the first is 'z'"):
        learner(codes).usable(Manifest.of([Utterance(id="a", path="x"), Utterance(id="z", path="y")]), "training data")
    write_codes(tmp_path / "slow.parquet", [], sizes=(4,), hop=640, source="x")
    with pytest.raises(InputError, match="has a code every 640 samples, and this network a frame every 320"):
        learner(tmp_path / "slow.parquet")
