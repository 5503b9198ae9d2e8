"""The twelve traps of wav2vec checkpoints (shared design notes, section 3), a test each, and the smaller ones after them."""

import json
import shutil
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import speechssl
from speechssl.core.packed import standardise
from speechssl.interop.convert import convert
from speechssl.interop.source import locate
from tests.interop.builders import LETTERS, clips, fairseq_settings, fairseq_state, make, reference, save


def rewrite(folder, change) -> None:
    """The folder's tensors after `change(state)`."""
    state = change(load_file(folder / "model.safetensors"))
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")


def fairseq_file(path, model, *, fine_tuned=False, change=lambda state: state, name="wav2vec2", **settings):
    """A fairseq checkpoint of a model."""
    body = fairseq_settings(model.config, name, **settings)
    content = {"model": change(fairseq_state(model, fine_tuned=fine_tuned)), "cfg": {"model": body, "task": {}}}
    torch.save(content, path)
    return path


def close(model, mine, wave, atol=1e-4) -> None:
    """Every layer as transformers has it."""
    torch.testing.assert_close(mine.hidden_states([wave])[0], reference(model, wave)[0], rtol=0, atol=atol)


def test_01_weight_norm_has_two_spellings(speech, tmp_path):
    model = make()
    folder = save(model, tmp_path / "m")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def respell(state):
        for new, name in old.items():
            state = {key.replace(new, name): value for key, value in state.items()}
        return state

    rewrite(folder, respell)
    assert any(key.endswith("weight_g") for key in load_file(folder / "model.safetensors"))
    close(model, speechssl.load(folder), speech[:9000])
    convert(folder, tmp_path / "new", "transformers")
    written = load_file(tmp_path / "new" / "model.safetensors")
    assert written["wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"].shape == (
        1,
        1,
        16,
    )  # dim 2
    assert not any(key.endswith(("weight_g", "weight_v")) for key in written)


def test_02_norm_flags_are_named_and_negated_differently(speech, tmp_path):
    """layer_norm_first of fairseq is do_stable_layer_norm; a torchaudio file does not say it and follows its encoder."""
    for style in ("post", "pre"):
        model = make("wav2vec2", style)
        mine = speechssl.load(fairseq_file(tmp_path / f"{style}.pt", model))
        assert mine.config.do_stable_layer_norm == (style == "pre")
        convert(save(model, tmp_path / style), tmp_path / f"{style}.pth", "torchaudio")
        said = json.loads((tmp_path / f"{style}.json").read_text())
        assert said["settings"]["encoder_layer_norm_first"] == (style == "pre")
        said["config"] = {"num_attention_heads": 4}  # as for a file that was not written here, but for the tiny heads
        (tmp_path / f"{style}.json").write_text(json.dumps(said))
        assert speechssl.load(tmp_path / f"{style}.pth").config.do_stable_layer_norm == (style == "pre")


def test_03_mask_vector_is_there_only_if_the_model_masks(speech, tmp_path):
    masks, never = make(), make(mask_time_prob=0.0)
    key = "wav2vec2.masked_spec_embed"
    for name, model in (("masks", masks), ("never", never)):
        folder = save(model, tmp_path / name)
        mine = speechssl.load(folder)
        close(model, mine, speech[:9000])
        mine.save(tmp_path / f"{name}-again")
        for written in (folder, tmp_path / f"{name}-again"):
            assert (key in load_file(written / "model.safetensors")) == (name == "masks")
    mine = speechssl.load(fairseq_file(tmp_path / "m.pt", masks))
    assert torch.equal(mine.model.wav2vec2.masked_spec_embed.data, masks.wav2vec2.masked_spec_embed.data)


def test_04_fairseq_leaves_the_projection_out_where_the_widths_agree(speech, tmp_path):
    model = make(conv_dim=[32] * 7)
    projection = model.wav2vec2.feature_projection.projection
    with torch.no_grad():
        projection.weight.copy_(torch.eye(32))
        projection.bias.zero_()
    layers = "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2"

    def drop(state):
        return {key: value for key, value in state.items() if not key.startswith("post_extract_proj")}

    first = fairseq_file(tmp_path / "m.pt", model, change=drop, conv_feature_layers=layers)
    assert "post_extract_proj.weight" not in torch.load(first, weights_only=False)["model"]
    close(model, speechssl.load(first), speech[:9000])
    convert(first, tmp_path / "again.pt", "fairseq")
    assert "post_extract_proj.weight" not in torch.load(tmp_path / "again.pt", weights_only=True)["model"]
    convert(first, tmp_path / "hf", "transformers")
    close(transformers.Wav2Vec2Model.from_pretrained(tmp_path / "hf"), speechssl.load(first), speech[:9000])


def test_05_input_normalisation_follows_the_preprocessor(speech, tmp_path):
    """transformers divides by sqrt(var + 1e-7) per utterance; fairseq's layer norm (1e-5) agrees to 2 % on quiet speech."""
    model, wave = make(), speech[:9000] * 3 + 0.05
    raw, normed = (speechssl.load(save(model, tmp_path / str(flag), normalise=flag)) for flag in (False, True))
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "True")
    theirs = extractor([wave, speech[:4000]], sampling_rate=16_000, padding=True, return_tensors="np").input_values[0]
    np.testing.assert_allclose(standardise(wave), theirs[: len(wave)], atol=1e-5)
    fairseq = torch.nn.functional.layer_norm(torch.from_numpy(wave), wave.shape).numpy()
    np.testing.assert_allclose(fairseq, standardise(wave), rtol=0.02)
    close(model, raw, wave)
    torch.testing.assert_close(normed.hidden_states([wave])[0], reference(model, theirs)[0], rtol=0, atol=1e-4)
    assert not torch.allclose(raw.hidden_states([wave])[0], normed.hidden_states([wave])[0], atol=1e-3)
    assert not speechssl.load(fairseq_file(tmp_path / "m.pt", model)).config.do_normalize


def test_06_fairseqs_even_lengths_change_nothing(speech, tmp_path):
    """It adds a masked frame after the positions to odd lengths; a masked frame is as good as none."""
    model = make("wav2vec2", "pre")
    mine, wave = speechssl.load(save(model, tmp_path / "m")), speech[: 400 + 320 * 30]
    states_LTD = mine.hidden_states([wave])[0]
    assert states_LTD.shape[1] == 31  # odd
    layer, x_BTD = model.wav2vec2.encoder.layers[0], states_LTD[:1]
    padded_BTD = torch.nn.functional.pad(x_BTD, (0, 0, 0, 1))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 31] = torch.finfo(torch.float32).min
    with torch.no_grad():
        out = layer(padded_BTD, attention_mask=mask)
    out_BTD = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(out_BTD[0, :31] if out_BTD.ndim == 3 else out_BTD[:31], states_LTD[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", ["post", "pre"])
def test_07_padding_leaks_at_transformers_and_never_here(style, speech, tmp_path):
    model = make("wav2vec2", style)
    mine, waves = speechssl.load(save(model, tmp_path / "m")), clips(speech)
    packed = mine.hidden_states(waves)[1]
    torch.testing.assert_close(packed, reference(model, waves[1])[0], rtol=0, atol=1e-5)
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True)
    mask = torch.stack([torch.arange(batch.shape[1]) < len(wave) for wave in waves]).long()
    with torch.no_grad():
        theirs = model.wav2vec2(batch, attention_mask=mask).last_hidden_state[1, : packed.shape[1]]
    gap = float((theirs - packed[-1]).abs().max())
    assert gap > 1e-2 if style == "post" else gap < 1e-4


def test_08_hidden_states_are_the_input_and_every_layer(speech, tmp_path):
    """0 is the first layer's input, after positions and (post-LN) their norm; pre-LN has its final norm in the last."""
    for style in ("post", "pre"):
        model, wave = make("wav2vec2", style), speech[:9000]
        mine = speechssl.load(save(model, tmp_path / style))
        states_LTD = mine.hidden_states([wave])[0]
        assert len(states_LTD) == model.config.num_hidden_layers + 1
        with torch.no_grad():
            out = model.wav2vec2(torch.from_numpy(wave)[None], output_hidden_states=True)
        torch.testing.assert_close(states_LTD[0], out.hidden_states[0][0], rtol=0, atol=1e-4)
        torch.testing.assert_close(states_LTD[-1], out.last_hidden_state[0], rtol=0, atol=1e-4)
        with torch.inference_mode():
            normed = mine.model.wav2vec2.encoder.layer_norm(states_LTD[-2])
        assert (states_LTD[0].mean(-1).abs().max() < 0.5) and not torch.allclose(normed, states_LTD[-2], atol=1e-2)


def test_09_fairseq_files_need_no_fairseq_and_no_omegaconf(speech, tmp_path):
    """torch's own weights_only refuses them; ours reads the settings out of stubs (test_roundtrips has whole ones)."""
    import argparse
    import sys

    model = make(head="ForPreTraining")
    content = {"model": fairseq_state(model, fine_tuned=False), "args": None}
    content["args"] = argparse.Namespace(**fairseq_settings(model.config, "wav2vec2"), lr=np.float64(1.0))
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(Exception, match="Namespace"):
        torch.load(tmp_path / "m.pt", weights_only=True)
    close(model, speechssl.load(tmp_path / "m.pt"), speech[:9000])
    assert "fairseq" not in sys.modules


def test_10_half_precision_is_read_and_kept(speech, tmp_path):
    """Opened in float32, converted in the bits they had."""
    model = make().half().float()
    first = fairseq_file(
        tmp_path / "m.pt", model, fine_tuned=True, change=lambda s: {key: value.half() for key, value in s.items()}
    )
    mine = speechssl.load(first)
    assert {p.dtype for p in mine.model.parameters()} == {torch.float32}
    close(model, mine, speech[:9000])
    convert(first, tmp_path / "hf", "transformers")
    assert {value.dtype for value in load_file(tmp_path / "hf" / "model.safetensors").values()} == {torch.float16}
    convert(tmp_path / "hf", tmp_path / "again.pt", "fairseq")
    state = torch.load(first, weights_only=False)["model"]
    assert all(
        torch.equal(v, state[k]) for k, v in torch.load(tmp_path / "again.pt", weights_only=True)["model"].items()
    )


def test_dictionaries_beside_a_fairseq_file(tmp_path, capsys):
    """Named after the kind of labels, with marks of its own; where it does not fit, and where it is guessed, that is told."""
    path = fairseq_file(tmp_path / "m.pt", make(vocab_size=7), fine_tuned=True)
    content = torch.load(path, weights_only=False)
    (tmp_path / "dict.ltr.txt").write_text("| 5\nA 4 #fairseq:overwrite\n1 3\n")
    assert speechssl.load(path).tokenizer.decode([5, 4, 6]) == "A 1"
    for labels in ("phn", ["phn"]):
        content["cfg"]["task"] = {"labels": labels}
        torch.save(content, path)
        (tmp_path / "dict.phn.txt").write_text("n 5\ntʃ 4\nə 3\n", encoding="utf-8")
        assert speechssl.load(path).tokenizer.decode([5, 6, 4]) == "tʃ ə n"
    assert capsys.readouterr().err == ""
    (tmp_path / "dict.phn.txt").write_text("n 5\n")
    assert speechssl.load(path).tokenizer is None
    assert "dict.phn.txt has 5 symbols with fairseq's own, but m.pt has 7 outputs; not used" in capsys.readouterr().err
    (tmp_path / "en").mkdir()
    assert speechssl.load(fairseq_file(tmp_path / "en" / "m.pt", make(), fine_tuned=True)).tokenizer is not None
    assert "no dict.ltr.txt beside it, so its outputs are the English letters" in capsys.readouterr().err


def test_11_vocabularies_put_the_blank_elsewhere(speech, tmp_path):
    """fairseq's blank is its first symbol <s>; transformers' is the padding, which may have any id and name."""
    model = make()
    mine = speechssl.load(fairseq_file(tmp_path / "m.pt", model, fine_tuned=True))
    assert [mine.tokenizer.tokens[i] for i in range(5)] == ["<pad>", "<s>", "</s>", "<unk>", "|"]
    (tmp_path / "x").mkdir()
    other = fairseq_file(tmp_path / "x" / "m.pt", make(vocab_size=7), fine_tuned=True)
    with pytest.raises(speechssl.InputError, match=r"dict\.ltr\.txt"):
        speechssl.load(other).transcribe(speech[:9000])
    (tmp_path / "x" / "dict.ltr.txt").write_text("| 5\nA 4\nÉ 3\n")
    assert speechssl.load(other).tokenizer.decode([5, 4, 6]) == "A É"
    (tmp_path / "x" / "dict.ltr.txt").write_text("n 5\ntʃ 4\nə 3\n")  # phones, without a space among them
    assert speechssl.load(other).tokenizer.decode([5, 6, 4]) == "tʃ ə n"

    vocab = ("a", "b", "|", "[UNK]", "[PAD]")
    model = make(vocab_size=5, pad_token_id=4)
    folder = save(model, tmp_path / "m", normalise=False, vocab=vocab, unk_token="[UNK]", pad_token="[PAD]")
    mine = speechssl.load(folder)
    logits = reference(model, speech[:20_000])[1]
    torch.testing.assert_close(mine.log_probs([speech[:20_000]])[0], logits[0].log_softmax(-1), rtol=0, atol=1e-4)
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    theirs = processor.batch_decode(logits.argmax(-1))[0].replace("[UNK]", "")
    assert mine.transcribe(speech[:20_000]).text.split() == theirs.split() != []
    mine.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "vocab.json").read_text()) == {t: i for i, t in enumerate(vocab)}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").pad_token_id == 4


def test_12_adapters_are_called_otherwise_by_fairseq(speech, tmp_path):
    """W_a, b_a, W_b ... with a leading axis of adapters (test_families has the languages of transformers' folders)."""
    model = make("wav2vec2", "pre", adapter_attn_dim=6)
    names = {"linear_1.weight": "W_a", "linear_1.bias": "b_a", "linear_2.weight": "W_b", "linear_2.bias": "b_b"}
    names |= {"norm.weight": "ln_W", "norm.bias": "ln_b"}

    def stack(state):
        for ours, theirs in names.items():
            mapped = {key: key.replace(f"adapter_layer.{ours}", f"adapter_layer.{theirs}") for key in state}
            state = {mapped[key]: value[None] if mapped[key] != key else value for key, value in state.items()}
        return state

    first = fairseq_file(tmp_path / "m.pt", model, fine_tuned=True, change=stack)
    close(model, speechssl.load(first), speech[:9000])
    convert(first, tmp_path / "again.pt", "fairseq")
    state, again = (torch.load(tmp_path / name, weights_only=False)["model"] for name in ("m.pt", "again.pt"))
    assert set(state) == set(again) and all(torch.equal(again[key], state[key]) for key in state)


def test_lm_head_may_be_missing(speech, tmp_path):
    folder = save(make(), tmp_path / "m", vocab=LETTERS)
    rewrite(folder, lambda state: {k: v for k, v in state.items() if not k.startswith("lm_head")})
    mine = speechssl.load(folder)
    assert mine.hidden_states([speech[:9000]])[0].shape[0] == 4
    with pytest.raises(speechssl.InputError, match="no CTC head"):
        mine.transcribe(speech[:9000])
    folder = save(make(), tmp_path / "n", vocab=LETTERS)
    rewrite(folder, lambda state: {k: v for k, v in state.items() if k != "lm_head.bias"})
    with pytest.raises(speechssl.InputError, match=r"lm_head\.bias is missing"):
        speechssl.load(folder)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_sharded_and_bin_weights(safe, shards, speech, tmp_path):
    model = make()
    folder = save(model, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    ending, stem = ("safetensors", "model") if safe else ("bin", "pytorch_model")
    weight_map = {}
    for i in range(shards):
        name = f"{stem}.{ending}" if shards == 1 else f"{stem}-{i + 1:05d}-of-{shards:05d}.{ending}"
        part = dict(list(state.items())[i::shards])
        weight_map |= dict.fromkeys(part, name)
        save_file(part, folder / name) if safe else torch.save(part, folder / name)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    close(model, speechssl.load(folder), speech[:9000])
    if shards > 1:
        (folder / name).unlink()
        with pytest.raises(speechssl.InputError, match=f"{name} is missing"):
            speechssl.load(folder)


def test_extra_keys_are_kept_and_missing_ones_named(speech, tmp_path):
    model = make()
    folder = save(model, tmp_path / "m")
    rewrite(folder, lambda state: state | {"ema.decay": torch.ones(3)})
    mine = speechssl.load(folder)
    close(model, mine, speech[:9000])
    mine.save(tmp_path / "again")
    assert torch.equal(load_file(tmp_path / "again" / "model.safetensors")["ema.decay"], torch.ones(3))
    gone = "wav2vec2.encoder.layers.1.attention.k_proj.bias"
    rewrite(folder, lambda state: {key: value for key, value in state.items() if key != gone})
    with pytest.raises(speechssl.InputError, match=gone.replace(".", r"\.") + " is missing"):
        speechssl.load(folder)


@pytest.mark.parametrize("kept", ["both formats", "pickles only"])
def test_the_hub_is_asked_for_each_weight_once(kept, tmp_path, monkeypatch):
    """A model published in both formats is read from safetensors, so nothing else is downloaded."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    remote = save(make(head="ForPreTraining"), tmp_path / "remote")
    torch.save(load_file(remote / "model.safetensors"), remote / "pytorch_model.bin")
    for language in ("fra", "deu"):
        shutil.copy(remote / "model.safetensors", remote / f"adapter.{language}.safetensors")
        shutil.copy(remote / "pytorch_model.bin", remote / f"adapter.{language}.bin")
    if kept == "pickles only":
        for file in remote.glob("*.safetensors"):
            file.unlink()

    def snapshot_download(_, allow_patterns, ignore_patterns=()):
        for file in remote.iterdir():
            wanted, unwanted = (any(fnmatch(file.name, p) for p in ps) for ps in (allow_patterns, ignore_patterns))
            if wanted and not unwanted:
                (tmp_path / "cache").mkdir(exist_ok=True)
                shutil.copy(file, tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    ending = "bin" if kept == "pickles only" else "safetensors"
    fetched = {file.name for file in locate("some/model", "fra").iterdir() if file.suffix != ".json"}
    assert fetched == {"pytorch_model.bin" if ending == "bin" else "model.safetensors", f"adapter.fra.{ending}"}
