"""Variants within a family: positions of conformers, adapters after the last layer, odd log-mel frames, other heads."""

import numpy as np
import pytest
import torch

import speechssl
from tests.interop.builders import clips, extractor, inputs, make, reference, save
from tests.interop.test_families import CLOSE, agree


@pytest.mark.parametrize("positions", ["relative", "rotary", None])
@pytest.mark.parametrize("family", ["wav2vec2-conformer", "wav2vec2-bert"])
def test_positions_of_conformers(family, positions, speech, tmp_path):
    model = make(family, "post", position_embeddings_type=positions, hidden_act="gelu")
    mine = speechssl.load(save(model, tmp_path / "m"))
    agree(model, mine, clips(speech))
    assert mine.config.position_embeddings_type == (positions or "")


def test_far_positions_of_w2v_bert_share_an_entry(speech, tmp_path):
    """More frames than distances on either side, and distances that matter."""
    model = make("wav2vec2-bert")
    with torch.no_grad():
        model.wav2vec2_bert.encoder.layers[0].self_attn.distance_embedding.weight.mul_(20)
    agree(model, speechssl.load(save(model, tmp_path / "m")), [speech[:40_000]])


@pytest.mark.parametrize("samples", [560, 719, 720, 880, 16_000, 16_160])
def test_log_mels_in_pairs_whatever_the_length(samples, speech, tmp_path):
    """An odd last frame is padded, hidden from the others, and has a state, as at transformers."""
    model = make("wav2vec2-bert")
    mine, wave = speechssl.load(save(model, tmp_path / "m")), speech[5000 : 5000 + samples]
    agree(model, mine, [wave])
    frames = (samples - 400) // 160 + 1
    assert len(mine.log_probs([wave])[0]) == (frames + 1) // 2
    assert ("attention_mask" in inputs(model, wave)) == (frames % 2 == 1)


def test_a_single_log_mel_frame_has_a_finite_state(speech, tmp_path):
    mine = speechssl.load(save(make("wav2vec2-bert"), tmp_path / "m"))
    assert torch.isfinite(mine.hidden_states([speech[:400]])[0]).all()
    with pytest.raises(speechssl.InputError, match="shorter than one frame"):
        mine.hidden_states([speech[:399]])


@pytest.mark.parametrize(
    "changes", [{}, dict(output_hidden_size=16, num_adapter_layers=2)], ids=["as it is", "narrower"]
)
@pytest.mark.parametrize("family", ["wav2vec2", "data2vec-audio", "wav2vec2-conformer", "wav2vec2-bert"])
def test_an_adapter_makes_longer_frames_for_the_letters(family, changes, speech, tmp_path):
    """Hidden states stay those of the layers; log-posteriors, transcripts and their times are of the longer frames."""
    wider = dict(use_intermediate_ffn_before_adapter=True) if family == "wav2vec2-bert" and changes else {}
    model = make(family, "post", add_adapter=True, **changes, **wider)
    mine, waves = speechssl.load(save(model, tmp_path / "m")), clips(speech)
    states, log_probs = mine.hidden_states(waves), mine.log_probs(waves)
    for wave, states_LTD, log_probs_TV in zip(waves, states, log_probs, strict=True):
        with torch.no_grad():
            out = model(**inputs(model, wave), output_hidden_states=True)
        torch.testing.assert_close(states_LTD[:-1], torch.cat(out.hidden_states[:-1]), **CLOSE)
        torch.testing.assert_close(log_probs_TV, out.logits[0].log_softmax(-1), **CLOSE)
    torch.testing.assert_close(mine.log_probs(waves[1:2])[0], log_probs[1], rtol=0, atol=1e-5)
    mine.save(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_model_with_an_adapter_is_fine_tuned_and_transcribes(clip, tmp_path):
    from speechssl import cli
    from tests.conftest import CLIP, DATA, write_table

    first = save(make("wav2vec2-bert", head="Model", add_adapter=True, num_adapter_layers=1), tmp_path / "first")
    table = write_table(tmp_path / "t.tsv", {"path": CLIP, "duration": len(clip) / 16_000, "text": "some words"})
    recipe = DATA.parent / "recipes" / "small" / "finetune.toml"
    quick = ["--train.steps=2", "--train.valid_every=2", "--train.save_every=2", "--data.workers=0"]
    rest = [f"--train={table}", f"--valid={table}", f"--init={first}", f"--out={tmp_path / 'run'}"]
    cli.main(["finetune", str(recipe), *rest, *quick, "--train.device=cpu", "--objective.channel_length=4"])
    mine = speechssl.load(tmp_path / "run")
    assert abs(len(mine.log_probs([clip])[0]) - len(clip) / 640) < 2
    heard = mine.transcribe(CLIP)
    assert abs(heard.duration - len(clip) / 16_000) < 0.06
    pieces = mine.transcribe(CLIP, window=0.64, context=0.32)
    assert abs(pieces.duration - heard.duration) < 0.001


@pytest.mark.parametrize("weighted", [False, True])
def test_a_classifier_on_w2v_bert_leaves_the_odd_frame_out(weighted, speech, tmp_path):
    sizes = dict(num_labels=5, classifier_proj_size=6, use_weighted_layer_sum=weighted)
    model = make("wav2vec2-bert", head="ForSequenceClassification", **sizes)
    mine, wave = speechssl.load(save(model, tmp_path / "m")), speech[: 400 + 160 * 20]
    assert "attention_mask" in inputs(model, wave)
    with torch.no_grad():
        expected = model(**inputs(model, wave)).logits
    torch.testing.assert_close(mine.class_logits([wave]), expected, **CLOSE)


@pytest.mark.parametrize("head", ["ForXVector", "ForAudioFrameClassification", "ForSequenceClassification"])
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert", "unispeech-sat"])
def test_bodies_under_other_heads_embed(family, head, speech, tmp_path):
    sizes = dict(num_labels=3, classifier_proj_size=4, tdnn_dim=[8] * 5, xvector_output_dim=8)
    model = make(family, head=head, **sizes)
    mine, wave = speechssl.load(save(model, tmp_path / "m")), speech[:9000]
    with torch.no_grad():
        expected_TD = model.base_model(**inputs(model, wave)).last_hidden_state[0]
    np.testing.assert_allclose(mine.embed(wave, layer=3), expected_TD.mean(0), atol=1e-4)


@pytest.mark.parametrize("family", ["unispeech", "unispeech-sat"])
def test_unispeech_before_fine_tuning(family, speech, tmp_path):
    """Its quantizer serves another loss than wav2vec 2.0's, so the tensors are kept and the network has no such head."""
    model = make(family, head="ForPreTraining")
    folder = save(model, tmp_path / "m")
    mine, wave = speechssl.load(folder), speech[:9000]
    with torch.no_grad():
        expected_TD = model.base_model(torch.from_numpy(wave)[None]).last_hidden_state[0]
    torch.testing.assert_close(mine.hidden_states([wave])[0][-1], expected_TD, **CLOSE)
    mine.save(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_batch_norm_of_a_conformer_keeps_its_statistics_in_training(speech, tmp_path):
    """So that neither the batch mates nor the number of micro-batches matter."""
    parts = ("hidden", "attention", "activation", "feat_proj", "conformer_conv", "final")
    quiet = dict.fromkeys((f"{part}_dropout" for part in parts), 0.0)
    model = speechssl.load(save(make("wav2vec2-conformer", **quiet), tmp_path / "m")).model
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    (expected_TV,) = model.log_probs([speech[:9000]])
    torch.testing.assert_close(model.train().log_probs([speech[:9000]])[0], expected_TV)
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_extractors_agree_about_noise_and_speech(speech):
    """Log-mels to 1e-5, for loud and for quiet audio."""
    from speechssl.models.wav2vec2.logmel import log_mel_pairs

    model = make("wav2vec2-bert", head="Model")
    rng = np.random.default_rng(2)
    for wave in (speech[:20_000], speech[:20_000] * 1e-3, rng.standard_normal(20_000).astype(np.float32) * 0.1):
        expected = extractor(model)(wave, sampling_rate=16_000, return_tensors="pt").input_features[0]
        found = log_mel_pairs(torch.from_numpy(wave))
        assert found.shape == expected.shape
        torch.testing.assert_close(found[:-1], expected[:-1], rtol=0, atol=1e-4)
        assert reference(model, wave)[0].isfinite().all()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "family, changes",
    [
        ("wav2vec2-conformer", {}),
        ("wav2vec2-conformer", dict(position_embeddings_type="rotary", add_adapter=True)),
        ("wav2vec2-bert", {}),
        ("wav2vec2-bert", dict(position_embeddings_type="relative", add_adapter=True)),
    ],
    ids=str,
)
def test_gradients_are_those_of_transformers(family, changes, checkpointing, speech, tmp_path):
    """Of CTC over an utterance, for every weight that has one; and of the two utterances of a batch, their sum."""
    model, waves = make(family, **changes), [speech[:9000], speech[20_000:34_000]]
    mine = speechssl.load(save(model, tmp_path / "m")).model
    targets = torch.tensor([[5, 9, 7]])
    lengths = torch.tensor([3])
    for wave in waves:
        log_probs_1TV = model(**inputs(model, wave)).logits.log_softmax(-1)
        ctc = torch.nn.functional.ctc_loss(
            log_probs_1TV.transpose(0, 1), targets, torch.tensor([log_probs_1TV.shape[1]]), lengths, reduction="sum"
        )
        ctc.backward()
    batch = mine.packed(waves)
    pieces = mine(batch, checkpointing=checkpointing).split(mine.letter_frames(batch))
    for piece_TV in pieces:
        frames = torch.tensor([len(piece_TV)])
        loss = torch.nn.functional.ctc_loss(piece_TV[:, None], targets, frames, lengths, reduction="sum")
        loss.backward(retain_graph=True)
    expected = {key.split(".", 1)[1]: p.grad for key, p in model.named_parameters() if p.grad is not None}
    found = {key.split(".", 1)[1]: p.grad for key, p in mine.named_parameters() if p.grad is not None}
    assert set(found) == set(expected) and len(found) > 50
    close = 1e-5 * max(float(gradient.abs().max()) for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=close, msg=key)


@pytest.mark.parametrize("positions", ["relative", "rotary", None])
@pytest.mark.parametrize("family", ["wav2vec2-conformer", "wav2vec2-bert"])
def test_conformers_in_16_bits(family, positions, speech, tmp_path):
    folder = save(make(family, position_embeddings_type=positions, add_adapter=True), tmp_path / "m")
    exact, mine = speechssl.load(folder), speechssl.load(folder, precision="bf16")
    for wave in (speech[:9000], speech[: 40 * 16_000]):
        (expected_TV,), (found_TV,) = exact.log_probs([wave]), mine.log_probs([wave])
        assert 0 < (found_TV - expected_TV).abs().mean() < 0.02
