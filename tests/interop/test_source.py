"""What a MODEL may be, and the verbs `info` and `convert`."""

import json
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file

import speechssl
from speechssl import cli
from speechssl.interop.source import locate, parsed
from tests.interop.builders import LETTERS, make, save


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """huggingface_hub's cache with one model in it, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    snapshot = tmp_path / "cache" / "models--someone--some-model" / "snapshots" / ("0" * 40)
    save(make("hubert"), snapshot, normalise=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_hub_ids_come_from_the_cache(hub, speech):
    mine, direct = speechssl.load("someone/some-model"), speechssl.load(hub)
    assert mine.config.do_normalize and mine.config.model_type == "hubert"
    assert torch.equal(mine.hidden_states([speech[:9000]])[0], direct.hidden_states([speech[:9000]])[0])


def test_hub_ids_that_cannot_be_had(hub, monkeypatch):
    with pytest.raises(
        speechssl.InputError, match="other/model does not exist here and cannot be had from the hub"
    ) as e:
        speechssl.load("other/model")
    assert "\n" not in str(e.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(speechssl.InputError, match="pip install huggingface-hub"):
        speechssl.load("someone/some-model")


@pytest.mark.parametrize(
    "source, name, language, revision",
    [
        ("owner/name", "owner/name", "", ""),
        ("owner/name@fra", "owner/name", "fra", ""),
        ("owner/name@azj-script_cyrillic", "owner/name", "azj-script_cyrillic", ""),
        ("owner/name@main", "owner/name", "", "main"),
        ("owner/name@v1", "owner/name", "", "v1"),
        ("owner/name@dev-2", "owner/name", "", "dev-2"),
        ("owner/name@refs/pr/4", "owner/name", "", "refs/pr/4"),
        ("owner/name@0123abc", "owner/name", "", "0123abc"),
        ("owner/name@dev:", "owner/name", "", "dev"),
        ("owner/name@:fra", "owner/name", "fra", ""),
        ("owner/name@v1:fra", "owner/name", "fra", "v1"),
        ("small@whatever", "small", "whatever", ""),
    ],
)
def test_what_follows_the_at_sign(source, name, language, revision):
    assert parsed(source) == (name, language, revision)


def test_a_path_with_an_at_sign_is_a_path(tmp_path):
    folder = save(make(), tmp_path / "m@v1")
    assert parsed(folder) == (str(folder), "", "")
    assert speechssl.load(folder).config.model_type == "wav2vec2"


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A stand-in for the hub with two revisions of a model of MMS; what was asked for is recorded."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked, changes = [], dict(adapter_attn_dim=6)
    for seed, revision in enumerate(("main", "v1")):
        folder = save(make("wav2vec2", "pre", seed=seed, **changes), tmp_path / revision)
        other = make("wav2vec2", "pre", seed=seed + 5, **changes).state_dict()
        weights = {k: v for k, v in other.items() if "adapter_layer" in k or k.startswith("lm_head")}
        save_file(weights, folder / "adapter.fra.safetensors")
        (folder / "vocab.json").write_text(json.dumps({"fra": {t: i for i, t in enumerate(LETTERS)}}))

    def snapshot_download(name, allow_patterns, revision="main"):
        asked.append((name, revision, tuple(allow_patterns)))
        if not (tmp_path / revision).is_dir():
            raise ValueError(f"404: no revision {revision}\nlong explanation")
        return str(tmp_path / revision)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_revision_is_pinned_and_a_language_added(remote, speech, tmp_path):
    wave = speech[:9000]
    for source, folder in (
        ("owner/name", "main"),
        ("owner/name@v1", "v1"),
        ("owner/name@fra", "main@fra"),
        ("owner/name@v1:fra", "v1@fra"),
    ):
        remote.clear()
        mine, direct = speechssl.load(source), speechssl.load(f"{tmp_path}/{folder}")
        assert torch.equal(mine.log_probs([wave])[0], direct.log_probs([wave])[0]), source
        (asked,) = remote
        assert asked[:2] == ("owner/name", "v1" if "v1" in source else "main")
        assert ("adapter.fra.safetensors" in asked[2]) == ("fra" in source)
        assert not any(pattern.endswith((".bin", ".msgpack", ".h5", ".onnx")) for pattern in asked[2])


def test_a_revision_that_cannot_be(remote, tmp_path):
    with pytest.raises(speechssl.InputError, match="owner/name at revision 'gone' does not exist here and cannot"):
        speechssl.load("owner/name@gone")
    folder = save(make(), tmp_path / "m")
    with pytest.raises(speechssl.InputError, match="only models of the hub have revisions; leave 'v1' out"):
        speechssl.load(f"{folder}@v1:")


def test_info_of_a_revision_finds_its_model_card(remote, tmp_path, capsys):
    (tmp_path / "v1" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    cli.main(["info", "owner/name@v1:fra"])
    assert "licence     cc-by-nc-4.0" in capsys.readouterr().out


def test_help_says_what_may_follow_the_at_sign(capsys):
    with pytest.raises(SystemExit):
        cli.main(["transcribe", "--help"])
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "owner/name@REVISION:fra" in said and "MODEL@fra" in said


def test_a_misspelt_path_does_not_ask_the_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        speechssl.InputError, match=r"runs/mien does not exist; give a run folder, .*: byol-s, byol-s-wide, small"
    ):
        speechssl.load("runs/mien")


def test_formats_are_recognised(tmp_path):
    folder = save(make(), tmp_path / "m", normalise=False, vocab=LETTERS)
    run = tmp_path / "run"
    shutil.copytree(folder, run / "checkpoints" / "step-00000001")
    (run / "best").symlink_to("checkpoints/step-00000001")
    assert locate(run) == run / "best"
    for to, name in (("fairseq", "m.pt"), ("torchaudio", "m.pth"), ("speechssl", "m2")):
        cli.main(["convert", str(run), str(tmp_path / name), "--to", to])
        assert speechssl.load(tmp_path / name).tokenizer.vocab == {token: i for i, token in enumerate(LETTERS)}
    assert speechssl.load("small").config.hidden_size == speechssl.load(str(locate("small"))).config.hidden_size


def test_info_says_what_is_known(tmp_path, capsys):
    folder = save(make("wavlm", "pre"), tmp_path / "m", normalise=True, vocab=LETTERS)
    (folder / "README.md").write_text(
        "---\nlicense: mit\ndatasets:\n- librispeech_asr\n- other\ntags:\n- x\n---\n# Hi\n"
    )
    cli.main(["info", str(folder)])
    text = capsys.readouterr().out
    count = sum(p.numel() for p in make("wavlm", "pre").parameters())
    for part in (
        "family      wavlm",
        f"parameters  {count:,}",
        "3 of width 32, 4 heads; layer norm in the encoder, pre-LN layers",
        "50 Hz, each frame sees 400 samples at 16000 Hz, normalised",
        "head        CTC",
        "32 symbols: <pad> <s> </s> <unk> | E T",
        "trained on  librispeech_asr, other",
        "licence     mit",
    ):
        assert part in text, text
    cli.main(["info", str(save(make("wav2vec2-bert", add_adapter=True), tmp_path / "b"))])
    text = capsys.readouterr().out
    assert "conformers, relative_key positions" in text and "log-mels" in text
    assert "head        CTC behind an adapter, 25 Hz" in text
    cli.main(["info", "small"])
    text = capsys.readouterr().out
    assert "head        none" in text and "fsdd" in text and "CC BY-SA 4.0" in text and "vocabulary  none" in text
