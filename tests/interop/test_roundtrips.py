"""What goes in comes out bit for bit, and what is written opens at transformers, fairseq's way and torchaudio's."""

import argparse
import json
import re

import numpy as np
import pytest
import torch
import torchaudio
import transformers
from safetensors.torch import load_file

import speechssl
from speechssl import cli
from speechssl.interop.convert import convert
from speechssl.models.families import with_format
from tests.interop.builders import (
    FAMILIES,
    KINDS,
    LETTERS,
    clips,
    dict_config,
    fairseq_settings,
    fairseq_state,
    foreign,
    make,
    reference,
    save,
    torch_save_foreign,
)

TORCHAUDIO = [kind for kind in KINDS if kind[0] in with_format("torchaudio")]


def same(found: dict, expected: dict) -> None:
    """The same names, and the same bits under each."""
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


HEADS = ("Model", "ForCTC", "ForPreTraining", "ForSequenceClassification", "ForXVector")
CLASSES = [(*kind, head) for kind in KINDS for head in HEADS if hasattr(transformers, FAMILIES[kind[0]][0] + head)]


@pytest.mark.parametrize("family, style, head", CLASSES)
def test_transformers_to_speechssl_to_transformers(family, style, head, tmp_path):
    small = dict(num_labels=3, classifier_proj_size=4, tdnn_dim=[8, 8, 8, 8, 8], xvector_output_dim=8)
    model = make(family, style, head, **(small if head in ("ForSequenceClassification", "ForXVector") else {}))
    first = save(model, tmp_path / "first")
    convert(first, tmp_path / "second", "speechssl")
    speechssl.load(tmp_path / "second").save(tmp_path / "third")
    convert(tmp_path / "third", tmp_path / "fourth", "transformers")
    expected = load_file(first / "model.safetensors")
    for name in ("second", "third", "fourth"):
        same(load_file(tmp_path / name / "model.safetensors"), expected)
    again = type(model).from_pretrained(tmp_path / "fourth")
    same(dict(again.state_dict()), dict(model.state_dict()))
    auto = transformers.AutoModel.from_pretrained(tmp_path / "fourth")
    assert type(auto).__name__ == FAMILIES[family][0] + "Model"
    said, kept = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "fourth"))
    assert {key: kept.get(key) for key in said} == said


@pytest.mark.parametrize("old", [False, True], ids=["omegaconf", "namespace"])
@pytest.mark.parametrize("fine_tuned", [False, True], ids=["pretrained", "ctc"])
@pytest.mark.parametrize("family, style", [kind for kind in KINDS if kind[0] in with_format("fairseq")])
def test_fairseq_to_speechssl_to_fairseq(family, style, fine_tuned, old, speech, tmp_path):
    """The file imitates fairseq's, omegaconf's or argparse's classes included; numbers and tensors are as before."""
    pretraining = "ForPreTraining" if family == "wav2vec2" else "Model"
    model = make(family, style, "ForCTC" if fine_tuned else pretraining)
    name = {"data2vec-audio": "data2vec_audio"}.get(family, family)
    state = fairseq_state(model, fine_tuned=fine_tuned)
    body, task = fairseq_settings(model.config, name), {"normalize": style == "pre", "data": "/corpora/libri"}
    ctc = {"_name": "wav2vec_ctc", "w2v_args": {"model": body, "task": task}}
    cfg = {"model": ctc if fine_tuned else body, "task": task}
    namespace = argparse.Namespace(**({"w2v_args": argparse.Namespace(**body)} if fine_tuned else body), **task)
    content = {"model": state, "cfg": None if old else dict_config(cfg), "args": namespace if old else None}
    if fine_tuned:
        dictionary = foreign("fairseq.data.dictionary", "Dictionary")
        symbols = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS[4:]]
        content["task_state"] = {"target_dictionary": dictionary(symbols=symbols, count=[1] * 32)}
    content["extra_state"] = {"best": np.float64(1.5), "kind": foreign("fairseq.dataclass.constants", "Kind")()}
    first = torch_save_foreign(content, tmp_path / "first.pt", _use_new_zipfile_serialization=not old)
    convert(first, tmp_path / "second", "speechssl")
    convert(tmp_path / "second", tmp_path / "third.pt", "fairseq")
    convert(tmp_path / "third.pt", tmp_path / "fourth.pt", "fairseq")
    for written in ("third.pt", "fourth.pt"):
        same(torch.load(tmp_path / written, weights_only=True)["model"], state)
    mine = speechssl.load(tmp_path / "fourth.pt")
    assert mine.config.model_type == family and mine.config.do_normalize == (style == "pre")
    mine.model.config.__dict__["do_normalize"] = False
    wave = clips(speech)[0]
    expected_LTD, logits = reference(model, wave)
    torch.testing.assert_close(mine.hidden_states([wave])[0], expected_LTD, rtol=0, atol=1e-4)
    if fine_tuned:
        torch.testing.assert_close(mine.log_probs([wave])[0], logits[0].log_softmax(-1), rtol=0, atol=1e-4)
        assert [mine.tokenizer.tokens[i] for i in range(32)] == list(LETTERS)


@pytest.mark.parametrize("family, style", [kind for kind in TORCHAUDIO if kind[0] != "data2vec-audio"])
def test_to_torchaudio_and_back(family, style, speech, tmp_path):
    model = make(family, style)
    first = save(model, tmp_path / "first", normalise=style == "pre")
    text = convert(first, tmp_path / "second.pth", "torchaudio")
    assert "no place for wav2vec2.masked_spec_embed" in text
    said = json.loads((tmp_path / "second.json").read_text())
    theirs = getattr(torchaudio.models, said["function"])(**said["settings"]).eval()
    theirs.load_state_dict(torch.load(tmp_path / "second.pth", weights_only=True))
    wave = clips(speech)[0]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(torch.from_numpy(wave)[None])[0], reference(model, wave)[1], rtol=0, atol=1e-4
        )
    convert(tmp_path / "second.pth", tmp_path / "third", "transformers")
    expected = load_file(first / "model.safetensors")
    expected = {key: value for key, value in expected.items() if "masked_spec_embed" not in key}
    same(load_file(tmp_path / "third" / "model.safetensors"), expected)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_saved_folders_open_with_the_pipeline(family, speech, tmp_path):
    """AutoProcessor, ForCTC and pipeline("automatic-speech-recognition"), with no step between."""
    model = make(family, "post")
    first = save(model, tmp_path / "first", normalise=True, vocab=LETTERS)
    mine = speechssl.load(first)
    mine.save(tmp_path / "m")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "m")
    assert type(processor).__name__ == ("Wav2Vec2BertProcessor" if family == "wav2vec2-bert" else "Wav2Vec2Processor")
    again = type(model).from_pretrained(tmp_path / "m")
    wave = speech[:20_000]
    taken = processor(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected_TV = again(**taken).logits[0].log_softmax(-1)
    torch.testing.assert_close(mine.log_probs([wave])[0], expected_TV, rtol=0, atol=1e-4)
    recognise = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "m"))
    heard = re.sub(
        "<[^>]*>", "", recognise({"raw": wave, "sampling_rate": 16_000})["text"]
    )  # it shows </s> and the like
    assert heard.split() == mine.transcribe(wave).text.split() != []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "wav2vec2"])
def test_finetune_and_pretrain_start_from_every_family(family, speech, tmp_path, capsys):
    """The same verbs; the CTC model is saved in its family's own format, and resumes."""
    first = save(make(family, "post", "Model"), tmp_path / "first")
    rows = (cli.Path(__file__).parents[2] / "data" / "fsdd.tsv").read_text().splitlines()
    base = cli.Path(__file__).parents[2] / "data"
    table = tmp_path / "t.tsv"
    names = rows[0].split("\t")
    column = names.index("path")
    lines = [row.split("\t") for row in rows[1:7]]
    for line in lines:
        line[column] = str(base / line[column])
    table.write_text("\n".join([rows[0], *("\t".join(line) for line in lines)]) + "\n")
    quick = [
        "--train.steps=2",
        "--train.device=cpu",
        "--train.valid_every=2",
        "--train.save_every=2",
        "--data.workers=0",
    ]
    recipe = str(base.parent / "recipes" / "small" / "finetune.toml")
    tail = ["--train", str(table), "--valid", str(table), "--init", str(first), *quick]
    cli.main(["finetune", recipe, *tail, "--out", str(tmp_path / "ctc"), "--objective.channel_length=4"])
    name = FAMILIES[family][0]
    kept = getattr(transformers, name + "ForCTC").from_pretrained(tmp_path / "ctc" / "best")
    wave = speech[:9000]
    mine = speechssl.load(tmp_path / "ctc")
    torch.testing.assert_close(
        mine.log_probs([wave])[0], reference(kept, wave)[1][0].log_softmax(-1), rtol=0, atol=1e-4
    )
    recipe = str(base.parent / "recipes" / "small" / "pretrain.toml")
    tail = [word for word in tail if word not in ("--valid", str(table))]
    tail = ["--train", str(table), *tail[1:], "--data.min_seconds=0.1"]
    cli.main(["pretrain", recipe, *tail, "--out", str(tmp_path / "pre")])
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "pre" / "last")).__name__ == name + "Model"
    assert speechssl.load(tmp_path / "pre").config.model_type == family


def test_weights_may_be_read_by_whom_the_config_may(ctc_folder, tmp_path):
    convert(ctc_folder, tmp_path / "m", "transformers")
    modes = {(tmp_path / "m" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "family, changes, to, complaint",
    [
        ("wav2vec2-bert", {}, "fairseq", "convert --to fairseq needs one of: wav2vec2, hubert"),
        ("wav2vec2-conformer", {}, "torchaudio", "convert --to torchaudio needs one of"),
        ("unispeech", {}, "fairseq", "convert --to fairseq needs one of"),
        ("wav2vec2", dict(add_adapter=True), "fairseq", "no add_adapter; choose --to transformers"),
        ("wav2vec2", dict(add_adapter=True), "torchaudio", "no adapters; choose --to transformers"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(family, changes, to, complaint, tmp_path):
    first = save(make(family, **changes), tmp_path / "first")
    with pytest.raises(speechssl.InputError, match=complaint):
        convert(first, tmp_path / "out" / "x", to)
    assert not list(tmp_path.glob("out/*"))
