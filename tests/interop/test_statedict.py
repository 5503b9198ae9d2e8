"""State dicts by themselves, as training leaves them behind: with a prefix or without, with a config beside them or without."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import speechssl
from tests.interop.builders import (
    LETTERS,
    fairseq_settings,
    fairseq_state,
    foreign,
    make,
    reference,
    save,
    torch_save_foreign,
)

PUBLISHED = dict(hidden_size=768, num_hidden_layers=1, num_attention_heads=12)  # a width whose heads are known
CLOSE = dict(rtol=0, atol=1e-4)


def agree(model, mine, wave) -> None:
    """Every state, and the log-posteriors if there are any, are transformers'."""
    states_LTD, logits = reference(model, wave)
    torch.testing.assert_close(mine.hidden_states([wave])[0], states_LTD, **CLOSE)
    if logits is not None:
        torch.testing.assert_close(mine.log_probs([wave])[0], logits[0].log_softmax(-1), **CLOSE)


@pytest.mark.parametrize("ending", ["ckpt", "pt", "bin", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.asr.encoder."])
def test_a_prefix_and_a_config_beside_it(prefix, ending, speech, tmp_path):
    model = make("wav2vec2", "pre")
    save(model, tmp_path, normalise=False, vocab=LETTERS)
    (tmp_path / "model.safetensors").unlink()
    state, path = {prefix + key: value for key, value in model.state_dict().items()}, tmp_path / f"epoch3.{ending}"
    state["val_loss"] = torch.tensor(0.5)
    if ending == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    mine = speechssl.load(path)
    agree(model, mine, speech[:9000])
    assert mine.transcribe(speech[:9000]).text and mine.extra["val_loss"] == 0.5


@pytest.mark.parametrize(
    "family", ["wav2vec2", "hubert", "wavlm", "unispeech-sat", "wav2vec2-conformer", "wav2vec2-bert"]
)
def test_lightning_without_a_config(family, speech, tmp_path, capsys):
    """Sizes by the tensors, the rest as published, which is said; classes of Lightning are not needed."""
    published = {
        "wav2vec2-bert": dict(hidden_act="swish", left_max_position_embeddings=64, right_max_position_embeddings=8),
        "wavlm": dict(num_buckets=32, max_bucket_distance=800),
    }
    model = make(family, "post", **PUBLISHED, **published.get(family, {}))
    dictionary = foreign("pytorch_lightning.utilities.parsing", "AttributeDict")
    content = {
        "epoch": 3,
        "state_dict": {f"net.{key}": value for key, value in model.state_dict().items()},
        "hyper_parameters": dictionary(lr=1e-4),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    path = torch_save_foreign(content, tmp_path / "last.ckpt")
    mine = speechssl.load(path)
    agree(model, mine, speech[:9000])
    assert mine.config.model_type == family
    said = capsys.readouterr().err
    assert "no config.json beside it" in said and "12 attention heads" in said


@pytest.mark.parametrize("wrapped", ["ForCTC", "Model"])
def test_a_folder_whose_weights_have_a_prefix(wrapped, speech, tmp_path):
    model = make("wavlm", "pre", wrapped)
    folder = save(model, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"model." + key: value for key, value in model.state_dict().items()}, folder / "pytorch_model.bin")
    agree(model, speechssl.load(folder), speech[:9000])


def test_whole_modules_are_not_executed(tmp_path):
    torch.save(make("wav2vec2-bert", head="Model"), tmp_path / "x.pt")
    with pytest.raises(speechssl.InputError, match=r"x\.pt holds a whole Python object, which is not executed"):
        speechssl.load(tmp_path / "x.pt")


def test_a_body_inside_another_network(speech, tmp_path):
    """The network is `encoder` of something else, whose own tensors are kept and do no harm."""
    model = make("hubert", "post", "Model", **PUBLISHED)
    state = {f"encoder.{key}": value for key, value in model.state_dict().items()} | {"head.weight": torch.ones(3, 768)}
    torch.save({"model_state_dict": state, "epoch": 7}, tmp_path / "x.pt")
    mine = speechssl.load(tmp_path / "x.pt")
    agree(model, mine, speech[:9000])
    assert torch.equal(mine.extra["head.weight"], torch.ones(3, 768))


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_checkpoints_as_s3prl_converts_them(family, speech, tmp_path):
    model = make(family, "pre", "Model")
    content = {
        "task_cfg": {"normalize": False, "sample_rate": 16_000},
        "model_cfg": fairseq_settings(model.config, family, layer_norm_first=True),
        "model_weight": fairseq_state(model, fine_tuned=False),
        "dictionaries_symbols": [["<s>", "<pad>"]],
    }
    torch.save(content, tmp_path / "converted.ckpt")
    mine = speechssl.load(tmp_path / "converted.ckpt")
    agree(model, mine, speech[:9000])
    assert mine.config.model_type == family


@pytest.mark.parametrize("prefix", ["", "model."])
def test_fairseq_names_without_its_settings(prefix, speech, tmp_path):
    model = make("wav2vec2", "post", "Model", **PUBLISHED)
    state = {prefix + key: value for key, value in fairseq_state(model, fine_tuned=False).items()}
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    agree(model, speechssl.load(tmp_path / "x.pt"), speech[:9000])


def test_two_networks_in_one_file_are_not_guessed(tmp_path):
    state = make("hubert", head="Model").state_dict()
    both = {f"{part}.{key}": value for part in ("student", "teacher") for key, value in state.items()}
    torch.save(both, tmp_path / "x.pt")
    with pytest.raises(speechssl.InputError, match=r"several networks \('student\.', 'teacher\.'\)"):
        speechssl.load(tmp_path / "x.pt")


def test_heads_that_nothing_shows_are_not_guessed(tmp_path):
    torch.save(make(head="Model").state_dict(), tmp_path / "x.pt")
    with pytest.raises(speechssl.InputError, match="attention heads"):
        speechssl.load(tmp_path / "x.pt")


def test_distances_that_nothing_shows_are_not_guessed(tmp_path):
    torch.save(make("wav2vec2-bert", head="Model", **PUBLISHED).state_dict(), tmp_path / "x.pt")
    with pytest.raises(speechssl.InputError, match="how many of its 17 distances lie to the left"):
        speechssl.load(tmp_path / "x.pt")


def test_a_config_of_another_model_is_noticed(tmp_path):
    save(make(hidden_size=16), tmp_path, normalise=False)
    torch.save(make().state_dict(), tmp_path / "x.pt")
    with pytest.raises(speechssl.InputError, match=r"x\.pt does not fit its config\.json, which says hidden_size"):
        speechssl.load(tmp_path / "x.pt")


def test_a_file_of_a_folder_opens_as_the_folder_does(speech, tmp_path):
    folder = save(make(), tmp_path / "m", normalise=True, vocab=LETTERS)
    one, other = speechssl.load(folder), speechssl.load(folder / "model.safetensors")
    assert torch.equal(one.log_probs([speech[:9000]])[0], other.log_probs([speech[:9000]])[0])
    assert one.tokenizer.vocab == other.tokenizer.vocab
    shutil.copy(folder / "model.safetensors", folder / "adapter.fra.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(speechssl.InputError, match="heads"):
        speechssl.load(folder / "adapter.fra.safetensors")


def test_under_any_name_if_it_is_the_only_one(speech, tmp_path):
    model = make("wav2vec2", "pre", "ForPreTraining")
    save(model, tmp_path, normalise=False)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text(), encoding="utf-8-sig")
    torch.save({"net": model.state_dict(), "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "x.pt")
    agree(model, speechssl.load(tmp_path / "x.pt"), speech[:20_000])
    torch.save({"net": model.state_dict(), "ema": model.state_dict()}, tmp_path / "two.pt")
    with pytest.raises(speechssl.InputError, match="holds neither"):
        speechssl.load(tmp_path / "two.pt")
