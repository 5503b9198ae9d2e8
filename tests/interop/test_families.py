"""Every family's numbers equal transformers' and torchaudio's, at every layer, alone and in a packed batch."""

import json

import numpy as np
import pytest
import torch
import torchaudio

import speechssl
from tests.interop.builders import KINDS, clips, make, reference, save

CLOSE = dict(rtol=0, atol=1e-4)


def agree(model, mine, waves) -> None:
    """Hidden states of every layer and logits of a packed batch, against each utterance alone at transformers."""
    states, log_probs = mine.hidden_states(waves), mine.log_probs(waves)
    for wave, states_LTD, log_probs_TV in zip(waves, states, log_probs, strict=True):
        expected_LTD, logits = reference(model, wave)
        torch.testing.assert_close(states_LTD, expected_LTD, **CLOSE)
        torch.testing.assert_close(log_probs_TV, logits[0].log_softmax(-1), **CLOSE)
        assert states_LTD.std() > 0.05, "the states differ from each other, so the comparison can fail"


@pytest.mark.parametrize("family, style", KINDS)
def test_transformers_models_give_the_same_numbers(family, style, speech, tmp_path):
    model = make(family, style)
    mine = speechssl.load(save(model, tmp_path / "m"))
    waves = clips(speech)
    agree(model, mine, waves)
    alone = mine.hidden_states(waves[1:2])[0]
    torch.testing.assert_close(mine.hidden_states(waves)[1], alone, rtol=0, atol=1e-5)
    assert mine.config.model_type == family


@pytest.mark.parametrize(
    "changes",
    [dict(conv_pos_batch_norm=True), dict(feat_proj_layer_norm=False)],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_hubert(changes, speech, tmp_path):
    model = make("hubert", **changes)
    agree(model, speechssl.load(save(model, tmp_path / "m")), clips(speech))


def test_wavlm_bias_depends_on_the_distance_and_on_the_gate(speech, tmp_path):
    """The gated relative position bias is what differs from wav2vec 2.0: without it the numbers are others."""
    model = make("wavlm", "pre")
    with torch.no_grad():
        model.wavlm.encoder.layers[0].attention.rel_attn_embed.weight.mul_(30)
    folder = save(model, tmp_path / "m")
    mine, wave = speechssl.load(folder), speech[:40_000]  # 124 frames: far beyond the 40 of `max_bucket_distance`
    agree(model, mine, [wave])
    mine.model.wav2vec2.encoder.layers[1].attention.gru_rel_pos_const.data.add_(1)
    assert (mine.hidden_states([wave])[0][-1] - reference(model, wave)[0][-1]).abs().max() > 1e-3


@pytest.mark.parametrize("weighted", [False, True])
def test_classifiers_give_the_same_logits(weighted, speech, tmp_path):
    model = make(
        head="ForSequenceClassification", num_labels=5, classifier_proj_size=6, use_weighted_layer_sum=weighted
    )
    mine = speechssl.load(save(model, tmp_path / "m"))
    waves = clips(speech)
    with torch.no_grad():
        expected = torch.cat([model(torch.from_numpy(wave)[None]).logits for wave in waves])
    torch.testing.assert_close(mine.class_logits(waves), expected, **CLOSE)
    with pytest.raises(speechssl.InputError, match="no CTC head"):
        mine.log_probs(waves)


@pytest.mark.parametrize("style", ["post", "pre"])
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_torchaudio_models_give_the_same_numbers(family, style, speech, tmp_path):
    """A state dict made by torchaudio, its settings beside it as `convert` writes them."""
    settings = dict(
        extractor_mode={"post": "group_norm", "pre": "layer_norm"}[style],
        extractor_conv_layer_config=[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24, 2, 2)] * 2,
        extractor_conv_bias=style == "pre",
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=48,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=style == "pre",
        encoder_layer_drop=0.0,
        aux_num_out=29,
    )
    gated = dict(encoder_num_buckets=32, encoder_max_distance=40) if family == "wavlm" else {}
    torch.manual_seed(3)
    model = getattr(torchaudio.models, f"{family}_model")(**settings, **gated).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(model.state_dict(), tmp_path / "m.pth")
    said = {"num_attention_heads": 4, "do_normalize": False, "max_bucket_distance": 40}
    (tmp_path / "m.json").write_text(json.dumps({"config": said}))
    mine = speechssl.load(tmp_path / "m.pth")
    waves = clips(speech)
    for wave, states_LTD, log_probs_TV in zip(waves, mine.hidden_states(waves), mine.log_probs(waves), strict=True):
        with torch.no_grad():
            layers, _ = model.extract_features(torch.from_numpy(wave)[None])
            logits, _ = model(torch.from_numpy(wave)[None])
        for i, expected_BTD in enumerate(layers[:-1], 1):
            torch.testing.assert_close(states_LTD[i], expected_BTD[0], **CLOSE)
        torch.testing.assert_close(log_probs_TV, logits[0].log_softmax(-1), **CLOSE)


def test_adapters_of_mms(speech, tmp_path):
    """The language's adapters and output layer replace those of the base, as in `model.load_adapter`."""
    from safetensors.torch import save_file

    base = make("wav2vec2", "pre", adapter_attn_dim=6)
    folder = save(base, tmp_path / "m")
    other = make("wav2vec2", "pre", adapter_attn_dim=6, seed=2, vocab_size=9)
    weights = {k: v for k, v in other.state_dict().items() if "adapter_layer" in k or k.startswith("lm_head")}
    save_file(weights, folder / "adapter.fra.safetensors")
    torch.save(weights, folder / "adapter.deu.bin")
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6, "c": 7, "é": 8}
    (folder / "vocab.json").write_text(json.dumps({"eng": {"<pad>": 0, "|": 1}, "fra": vocab, "deu": vocab}))
    agree(base, speechssl.load(folder), clips(speech))
    base.config._name_or_path = str(folder)
    base.load_adapter("fra")
    for language in ("fra", "deu"):
        mine = speechssl.load(f"{folder}@{language}")
        agree(base, mine, clips(speech))
        assert mine.tokenizer.decode([5, 8]) == "aé"
    with pytest.raises(speechssl.InputError, match=r"no adapter for 'spa'; it has deu, fra"):
        speechssl.load(f"{folder}@spa")


def test_hear_and_s3prl_adapters(speech, tmp_path):
    from speechssl.interop import hear, s3prl

    model = make("hubert", head="Model")
    folder = str(save(model, tmp_path / "m"))
    loaded, waves = hear.load_model(folder), torch.from_numpy(np.stack([speech[:16_000], speech[16_000:32_000]]))
    assert (loaded.sample_rate, loaded.scene_embedding_size, loaded.timestamp_embedding_size) == (16_000, 32, 32)
    frames_BTD, times_BT = hear.get_timestamp_embeddings(waves, loaded)
    assert isinstance(loaded, torch.nn.Module)
    assert frames_BTD.shape[:2] == times_BT.shape
    torch.testing.assert_close(times_BT[0, :3], torch.tensor([12.5, 32.5, 52.5]))  # ms: centres of 25 ms, 20 ms apart
    expected_LTD, _ = reference(model, waves[1].numpy())
    torch.testing.assert_close(frames_BTD[1], expected_LTD[-1], **CLOSE)
    torch.testing.assert_close(hear.get_scene_embeddings(waves, loaded)[1], expected_LTD[-1].mean(0), **CLOSE)

    upstream = s3prl.UpstreamExpert(folder)
    ragged = [waves[0], waves[1][:5000]]
    states = upstream(ragged)["hidden_states"]
    assert len(states) == 4 and upstream.get_downsample_rates("hidden_states") == 320
    expected_LTD, _ = reference(model, ragged[1].numpy())
    for state_BTD, expected_TD in zip(states, expected_LTD, strict=True):
        torch.testing.assert_close(state_BTD[1, : len(expected_TD)], expected_TD, **CLOSE)
        assert not state_BTD[1, len(expected_TD) :].any()
    states[-1].sum().backward()
    assert upstream.model.wav2vec2.feature_projection.projection.weight.grad is not None
