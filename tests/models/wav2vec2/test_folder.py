"""What we save transformers opens with equal outputs, and the reverse; damaged folders are told."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import speechssl
from speechssl.core.errors import InputError
from speechssl.models import families
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import tiny

TOKENIZER = CharTokenizer.build(["hello there", "naïve привет"])


def theirs(model, folder, clip: np.ndarray, output: str) -> torch.Tensor:
    """Output of a transformers model for one clip, prepared by the folder's own feature extractor."""
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    inputs = extractor(clip, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return getattr(model.eval()(**inputs), output)[0]


def test_ctc_saved_by_us(family, clip, tmp_path):
    families.save(tmp_path, Wav2Vec2ForCTC(tiny(family), len(TOKENIZER)), TOKENIZER, {"step": 3})
    model = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    expected = theirs(model, tmp_path, clip, "logits").log_softmax(1)
    found = speechssl.load(tmp_path).log_probs([clip])[0]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path)
    assert (
        processor.decode(expected.argmax(1)).replace("<unk>", "").split()
        == speechssl.load(tmp_path).transcribe(clip).text.split()
    )


def test_pretraining_model_saved_by_us(family, clip, tmp_path):
    families.save(tmp_path, Wav2Vec2ForPreTraining(tiny(family)), None, {})
    model, told = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    expected = theirs(model.wav2vec2, tmp_path, clip, "last_hidden_state")
    torch.testing.assert_close(speechssl.load(tmp_path).hidden_states([clip])[0][-1], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["Wav2Vec2ForCTC", "Wav2Vec2Model", "Wav2Vec2ForPreTraining"])
def test_saved_by_transformers(kind, family, clip, tmp_path):
    families.save(tmp_path / "ours", Wav2Vec2ForCTC(tiny(family), len(TOKENIZER)), TOKENIZER, {})
    config = transformers.Wav2Vec2Config.from_pretrained(tmp_path / "ours")
    torch.manual_seed(1)
    model = getattr(transformers, kind)(config)
    folder = tmp_path / "theirs"
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "ours").save_pretrained(folder)
    if kind == "Wav2Vec2ForCTC":
        transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(folder)
    mine = speechssl.load(folder)
    if kind == "Wav2Vec2ForCTC":
        expected = theirs(model, folder, clip, "logits").log_softmax(1)
        torch.testing.assert_close(mine.log_probs([clip])[0], expected, atol=2e-4, rtol=0)
        assert mine.tokenizer.vocab == TOKENIZER.vocab
    else:
        core = getattr(model, "wav2vec2", model)
        expected = theirs(core, folder, clip, "last_hidden_state")
        torch.testing.assert_close(mine.hidden_states([clip])[0][-1], expected, atol=2e-4, rtol=0)


def test_old_names_of_weight_norm(ctc_folder, clip, tmp_path):
    shutil.copytree(ctc_folder, tmp_path, dirs_exist_ok=True)
    state = load_file(tmp_path / "model.safetensors")
    old = {
        k.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): v
        for k, v in state.items()
    }
    assert set(old) != set(state)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found, expected = (speechssl.load(folder).log_probs([clip])[0] for folder in (tmp_path, ctc_folder))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_half_the_bits_give_nearly_the_same(ctc_folder, clip, tmp_path):
    model = speechssl.load(ctc_folder)
    model.save(tmp_path, half=True)
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * (ctc_folder / "model.safetensors").stat().st_size
    torch.testing.assert_close(
        speechssl.load(tmp_path).log_probs([clip])[0], model.log_probs([clip])[0], atol=0.02, rtol=0
    )


def edit_config(folder, **changes) -> None:
    """Change fields of config.json."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def cut(folder, name: str, size: int) -> None:
    """Keep the first bytes of a file."""
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


def drop(folder, key: str) -> None:
    """Remove a weight."""
    state = load_file(folder / "model.safetensors")
    del state[key]
    save_file(state, folder / "model.safetensors")


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing: .* is not a model folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "weights cut short": (
        lambda f: cut(f, "model.safetensors", 1000),
        r"model\.safetensors cannot be read .*copy it again",
    ),
    "weights cut late": (
        lambda f: cut(f, "model.safetensors", 20_000),
        r"model\.safetensors cannot be read .*copy it again",
    ),
    "weights empty": (lambda f: cut(f, "model.safetensors", 0), r"model\.safetensors cannot be read"),
    "config cut": (lambda f: cut(f, "config.json", 50), r"config\.json is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json does not hold a JSON object"),
    "another family": (lambda f: edit_config(f, model_type="whisper"), "only wav2vec2, hubert, .* can be opened"),
    "another function": (lambda f: edit_config(f, hidden_act="relu"), "only gelu can be opened"),
    "other sizes": (lambda f: edit_config(f, hidden_size=64), "hidden_size = 64 where the tensors have 32; the two"),
    "more layers": (
        lambda f: edit_config(f, num_hidden_layers=3),
        "num_hidden_layers = 3 where the tensors have 2; the two",
    ),
    "no sizes": (lambda f: edit_config(f, conv_dim=None), r"conv_dim = \(512, .* where the tensors have \(32"),
    "a weight less": (lambda f: drop(f, "wav2vec2.encoder.layer_norm.weight"), "layer_norm.weight is missing"),
    "longer vocabulary": (
        lambda f: (f / "vocab.json").write_text('{"<pad>": 0, "a": 99}'),
        r"vocab\.json has ids up to 99 but model\.safetensors has \d+ outputs",
    ),
    "vocabulary cut": (lambda f: cut(f, "vocab.json", 20), r"vocab\.json cannot be used as a vocabulary"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folders(name, ctc_folder, tmp_path):
    harm, complaint = DAMAGE[name]
    shutil.copytree(ctc_folder, tmp_path / "m")
    harm(tmp_path / "m")
    with pytest.raises(InputError, match=complaint):
        speechssl.load(tmp_path / "m")
