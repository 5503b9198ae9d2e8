"""data2vec's loss and gradients against transformers' networks and the formulas written out; its teacher; its recipe."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.models import families
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.objectives.data2vec import Data2Vec, Data2VecObjectiveConfig, Recipe
from speechssl.train.recipe import parse_recipe
from tests.conftest import ROOT, tiny

NETWORKS = {
    "wav2vec2": (transformers.Wav2Vec2Model, tiny("group-post", do_normalize=True)),
    "wav2vec2-pre": (transformers.Wav2Vec2Model, tiny("layer-pre")),
    "data2vec-audio": (
        transformers.Data2VecAudioModel,
        tiny(model_type="data2vec-audio", feat_extract_norm="layer", num_conv_pos_embeddings=2, conv_pos_kernel_size=5),
    ),
}


def learner(network: str = "wav2vec2", **changes) -> Data2Vec:
    """A tiny objective whose teacher averages both layers."""
    recipe = Recipe(model=NETWORKS[network][1], objective=Data2VecObjectiveConfig(**{"top_layers": 2} | changes))
    return Data2Vec(recipe, Wav2Vec2Encoder(recipe.model)).train()


def items(speech) -> list[Item]:
    """Utterances of unequal length."""
    return [Item(wave_S=speech[i * 30_000 :][:n], id=f"u{i}", epoch=2) for i, n in enumerate((9_000, 24_000, 16_000))]


def disturb(module: torch.nn.Module) -> None:
    """Change every weight a little, differently in each call."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def expected_loss(student, teacher, head, waves, masks, config, beta: float) -> torch.Tensor:
    """Section 3 of the paper with transformers' modules, utterance by utterance."""
    total = torch.zeros(())
    for wave_S, mask_T in zip(waves, masks, strict=True):
        wave_1S = torch.from_numpy(wave_S)[None]
        if config.do_normalize:
            wave_1S = (wave_1S - wave_1S.mean()) / torch.sqrt(wave_1S.var(correction=0) + 1e-7)
        predicted = head(student(wave_1S, mask_time_indices=mask_T[None]).last_hidden_state[0, mask_T])
        with torch.no_grad():
            target_TD = teacher_targets(student, teacher, wave_1S, config.do_stable_layer_norm)
        target = target_TD[mask_T]
        error = F.smooth_l1_loss(predicted, target, beta=beta) if beta else F.mse_loss(predicted, target)
        total = total + error * target.numel() / target.shape[1] ** 0.5
    return total


def teacher_targets(student, teacher, wave_1S, pre_norm: bool) -> torch.Tensor:
    """(T, D): the layers of `teacher` written out, on the convolutions, projection and positions of `student`."""
    x, _ = student.feature_projection(student.feature_extractor(wave_1S).transpose(1, 2))
    x = x + student.encoder.pos_conv_embed(x)
    x = x if pre_norm else teacher.encoder.layer_norm(x)
    normed = []
    for layer in teacher.encoder.layers:
        attended = x + layer.attention(layer.layer_norm(x) if pre_norm else x)[0]
        attended = attended if pre_norm else layer.layer_norm(attended)
        block = layer.feed_forward(layer.final_layer_norm(attended) if pre_norm else attended)
        x = attended + block if pre_norm else layer.final_layer_norm(attended + block)
        normed.append(F.instance_norm(block.transpose(1, 2)).transpose(1, 2)[0])
    return torch.stack(normed).mean(dim=0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_loss_and_gradients_equal_the_formulas_on_the_networks_of_transformers(network, beta, speech, tmp_path):
    ours, (kind, config) = learner(network, loss_beta=beta), NETWORKS[network]
    disturb(ours.model)  # away from the teacher, and the positional embedding with it
    ours.after_update(0, frozenset())
    clips = items(speech)
    batch = ours.collate(clips)

    theirs = []
    for number, encoder in enumerate((ours.model.wav2vec2.encoder, ours.teacher)):
        model = copy.deepcopy(ours.model)
        model.wav2vec2.encoder = copy.deepcopy(encoder)
        families.save(tmp_path / str(number), model, None, {})
        opened, report = kind.from_pretrained(tmp_path / str(number), output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        theirs.append(opened.eval())
    student, teacher = theirs
    head = copy.deepcopy(ours.head)
    masks = batch.mask_T.split(batch.audio.frames)
    expected = expected_loss(student, teacher, head, [clip.wave_S for clip in clips], masks, config, beta)

    found = ours(batch, frozenset())
    torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-4)
    found.loss.backward()
    expected.backward()
    wanted = dict(student.named_parameters())
    for name, parameter in ours.model.wav2vec2.named_parameters():
        scale = float(wanted[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-3 * scale + 1e-5, msg=name)
    torch.testing.assert_close(ours.head.weight.grad, head.weight.grad, rtol=1e-3, atol=1e-4)
    assert batch.count == sum(int(mask_T.sum()) for mask_T in masks)


@pytest.mark.parametrize("step, kept", [(0, 0.8 + 0.1 / 4), (1, 0.8 + 0.1 / 2), (3, 0.9), (100, 0.9)])
def test_the_teacher_follows_and_shares_the_positions(step, kept):
    ours = learner(decay_start=0.8, decay_end=0.9, decay_steps=4)
    before = {name: value.clone() for name, value in ours.teacher.named_parameters()}
    disturb(ours.model)
    student = dict(ours.model.wav2vec2.encoder.named_parameters())
    ours.after_update(step, frozenset())
    for name, value in ours.teacher.named_parameters():
        share = 0.0 if name.startswith("pos_conv_embed") else kept
        torch.testing.assert_close(value, share * before[name] + (1 - share) * student[name], rtol=1e-5, atol=1e-6)


def test_the_teacher_drops_nothing_and_learns_nothing(speech):
    dropping = tiny(hidden_dropout=0.5, attention_dropout=0.5, activation_dropout=0.5, feat_proj_dropout=0.5)
    ours = Data2Vec(Recipe(model=dropping, objective=Data2VecObjectiveConfig(top_layers=2)), Wav2Vec2Encoder(dropping))
    ours.eval()
    batch = ours.train().collate(items(speech))
    features_TC = ours.model.wav2vec2(batch.audio).normed_TC
    first, second = (ours.targets(features_TC, batch.audio.frames) for _ in "ab")
    assert torch.equal(first, second)
    one, other = (ours(batch, frozenset()) for _ in "ab")
    assert not torch.equal(one.loss, other.loss), "the student's dropout is on"
    one.loss.backward()
    assert all(parameter.grad is None for parameter in ours.teacher.parameters())


def test_a_target_depends_on_its_own_utterance_only(speech):
    ours, clips = learner(), items(speech)
    together, alone = ours.collate(clips), ours.collate(clips[1:2])
    found = []
    for batch in (together, alone):
        normed_TC = ours.model.wav2vec2(batch.audio).normed_TC
        found.append(ours.targets(normed_TC, batch.audio.frames).split(batch.audio.frames))
    torch.testing.assert_close(found[0][1], found[1][0], rtol=0, atol=1e-4)


def test_verdicts():
    ours = learner()
    line = {"step": 20_000, "target_std": 0.5, "prediction_std": 0.3}
    assert ours.verdict(line) is None
    for name, value in (("target_std", 0.05), ("prediction_std", 0.001)):
        verdict = ours.verdict(line | {name: value})
        assert verdict is not None and verdict.fatal and "collapsed" in verdict.message
    assert ours.verdict(line | {"step": 100, "target_std": 0.05}) is None, "not while the rate rises"


def test_the_recipe_is_the_published_one():
    recipe = parse_recipe("pretrain", ROOT / "recipes" / "data2vec" / "pretrain.toml")
    model, data, optim, train = recipe.model, recipe.data, recipe.optim, recipe.train
    assert (model.model_type, model.num_conv_pos_embeddings, model.conv_pos_kernel_size) == ("data2vec-audio", 5, 19)
    assert (model.feat_extract_norm, model.do_normalize, model.do_stable_layer_norm) == ("layer", True, False)
    assert (model.feat_proj_dropout, model.hidden_dropout, model.attention_dropout, model.layerdrop) == (
        0,
        0.1,
        0.1,
        0.05,
    )
    assert (data.batch_seconds, data.micro_seconds) == (16 * 3.8e6 / 16_000, 3.8e6 / 16_000)
    assert (data.crop_seconds, data.min_seconds) == (20, 2)
    assert (optim.lr, optim.schedule, optim.warmup, optim.hold) == (5e-4, "tri-stage", 0.03, 0.9)
    assert (optim.betas, optim.eps, optim.weight_decay, train.steps) == ((0.9, 0.98), 1e-6, 0.01, 400_000)


def test_more_layers_than_the_network_has_are_refused(tmp_path: Path):
    (tmp_path / "r.toml").write_text('kind = "data2vec"\n[model]\nnum_hidden_layers = 6\n')
    with pytest.raises(InputError, match=r"r\.toml: objective\.top_layers = 8, but the network has 6"):
        parse_recipe("pretrain", tmp_path / "r.toml")


@pytest.mark.parametrize("changes", [dict(feat_extract_norm="group"), dict(do_stable_layer_norm=True)])
def test_a_network_that_no_model_folder_can_hold_is_refused(changes):
    """transformers has one form of it; a run with another ended in a checkpoint that nothing could open."""
    with pytest.raises(InputError, match=r'"data2vec-audio" needs feat_extract_norm = "layer"'):
        tiny(**{"model_type": "data2vec-audio", "feat_extract_norm": "layer"} | changes)


def test_conformers_have_no_blocks_to_average():
    with pytest.raises(InputError, match="pretrain conformers with hubert or wav2vec2"):
        Recipe(model=tiny(model_type="wav2vec2-conformer", position_embeddings_type="relative"))
