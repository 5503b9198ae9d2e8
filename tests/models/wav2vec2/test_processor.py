"""What a folder says about its audio, in every file in which transformers of any version has said it."""

import json
import shutil

import numpy as np
import pytest
import soxr
import torch
import transformers

import speechssl
from speechssl.interop.convert import convert
from tests.interop.builders import LETTERS, clips, make, save


@pytest.fixture
def folder(tmp_path):
    """A model of LARGE's style, with a vocabulary and without a word about its audio."""
    return save(make("wav2vec2", "pre"), tmp_path / "m", normalise=None, vocab=LETTERS)


def write(folder, name, **settings):
    (folder / name).write_text(json.dumps(settings))


def normalised(folder) -> bool:
    return speechssl.load(folder).config.do_normalize


@pytest.mark.parametrize("normalise", [True, False])
def test_a_processor_as_transformers_5_writes_it(normalise, folder, speech):
    """Numbers and transcript are those of AutoProcessor and the model."""
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise, return_attention_mask=True)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    assert (folder / "processor_config.json").exists() and not (folder / "preprocessor_config.json").exists()
    processor, model = transformers.AutoProcessor.from_pretrained(folder), make("wav2vec2", "pre")
    mine, wave = speechssl.load(folder), clips(speech)[0]
    with torch.no_grad():
        logits = model(**processor(wave, sampling_rate=16_000, return_tensors="pt")).logits[0]
    torch.testing.assert_close(mine.log_probs([wave])[0], logits.log_softmax(-1), rtol=0, atol=1e-4)
    heard = processor.decode(logits.argmax(-1))
    for special in ("<s>", "</s>", "<unk>"):
        heard = heard.replace(special, "")
    assert mine.transcribe(wave).text.split() == heard.split() != []


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_wherever_it_is_said(name, nested, folder, capsys):
    settings = {"do_normalize": False, "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000}
    write(folder, name, **({"feature_extractor": settings} if nested else settings))
    assert not normalised(folder)
    assert capsys.readouterr().err == ""


def test_the_nested_one_counts_first_as_at_transformers(folder):
    write(folder, "preprocessor_config.json", do_normalize=True)
    write(folder, "processor_config.json", processor_class="Wav2Vec2Processor")
    assert normalised(folder)
    write(folder, "processor_config.json", feature_extractor={"do_normalize": False})
    assert not normalised(folder)
    assert not transformers.AutoFeatureExtractor.from_pretrained(folder).do_normalize


def test_a_file_that_leaves_it_out_means_transformers_default(folder):
    write(folder, "preprocessor_config.json", feature_extractor_type="Wav2Vec2FeatureExtractor", padding_value=1.0)
    assert normalised(folder) == transformers.Wav2Vec2FeatureExtractor().do_normalize is True


@pytest.mark.parametrize("style, expected", [("pre", True), ("post", False)])
def test_without_any_file_the_architecture_decides_and_it_is_said(style, expected, tmp_path, capsys):
    folder = save(make("wav2vec2", style), tmp_path / "m", normalise=None)
    capsys.readouterr()
    assert normalised(folder) == expected
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and ("is normalised" if expected else "taken as it is") in said and str(folder) in said


def test_w2v_bert_has_nothing_to_decide(tmp_path, capsys, speech):
    folder = save(make("wav2vec2-bert"), tmp_path / "m", normalise=None)
    capsys.readouterr()
    assert not normalised(folder) and capsys.readouterr().err == ""
    write(folder, "preprocessor_config.json", feature_extractor_type="SeamlessM4TFeatureExtractor", padding_value=1)
    assert not normalised(folder)


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"sampling_rate": 44100}, "sampling_rate = 44100"),
        ({"do_normalize": "false"}, "do_normalize = 'false'; correct it"),
        (
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            "WhisperFeatureExtractor.*needs Wav2Vec2FeatureExtractor",
        ),
    ],
    ids=str,
)
def test_what_would_give_other_numbers_is_refused(settings, complaint, folder):
    write(folder, "preprocessor_config.json", **settings)
    with pytest.raises(speechssl.InputError, match=complaint) as caught:
        speechssl.load(folder)
    assert "preprocessor_config.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_for_telephones_hears_audio_resampled_to_its_rate(folder, tmp_path, speech):
    """Numbers are transformers' on the same audio at 8 kHz; times are those of the audio; it is saved as such."""
    write(folder, "preprocessor_config.json", sampling_rate=8000, do_normalize=True)
    mine, model, waves = speechssl.load(folder), make("wav2vec2", "pre"), clips(speech)
    for wave_S, found_TV in zip(waves, mine.log_probs(waves), strict=True):
        narrow_S = soxr.resample(wave_S, 16_000, 8000)[: len(wave_S) // 2]
        narrow_S = (narrow_S - narrow_S.mean()) / np.sqrt(narrow_S.var() + 1e-7)
        with torch.no_grad():
            logits_TV = model(torch.from_numpy(narrow_S)[None]).logits[0]
        torch.testing.assert_close(found_TV, logits_TV.log_softmax(-1), rtol=0, atol=1e-4)
        assert len(found_TV) == mine.config.geometry.frames(len(wave_S))
    assert mine.config.geometry.hop == 2 * mine.config.stream.hop
    assert mine.transcribe(waves[0]).duration == pytest.approx(len(waves[0]) / 16_000, abs=0.1)
    mine.save(tmp_path / "again")
    again = speechssl.load(tmp_path / "again")
    assert again.config.sampling_rate == 8000
    np.testing.assert_array_equal(mine.embed(waves[0]), again.embed(waves[0]))
    with pytest.raises(speechssl.InputError, match="takes audio of 8000 Hz, which fairseq has no place for"):
        convert(tmp_path / "again", tmp_path / "x.pt", "fairseq")


def test_what_is_saved_says_it(folder, tmp_path, speech):
    write(folder, "processor_config.json", feature_extractor={"do_normalize": True})
    mine, wave = speechssl.load(folder), speech[:9000] * 3
    mine.save(tmp_path / "again")
    again = speechssl.load(tmp_path / "again")
    np.testing.assert_array_equal(mine.embed(wave), again.embed(wave))
    assert again.config.do_normalize


@pytest.mark.parametrize("kept", [(), ("preprocessor_config.json",)], ids=["weights only", "with its extractor"])
def test_a_checkpoint_of_transformers_trainer(kept, folder, speech, capsys):
    """The processor lies above the checkpoints, whole or, in many tutorials, all but the vocabulary."""
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    whole, inner = speechssl.load(folder), folder / "checkpoint-500"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", *kept):
        shutil.copy(folder / name, inner / name)
    mine, wave = speechssl.load(inner), clips(speech)[0]
    assert torch.equal(mine.log_probs([wave])[0], whole.log_probs([wave])[0])
    assert mine.transcribe(wave).text == whole.transcribe(wave).text != ""
    said = capsys.readouterr().err
    assert f"no vocab.json here, so the one above is used, {folder / 'vocab.json'}" in said
    assert ("preprocessor_config.json" in said) == (not kept)
    inner.rename(folder / "epoch-500")
    assert speechssl.load(folder / "epoch-500").tokenizer is None
