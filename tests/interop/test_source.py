"""What a MODEL may be, and the verbs `info` and `convert`."""

import shutil
import sys

import pytest
import torch

import speechssl
from speechssl import cli
from speechssl.interop.source import locate
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
    cli.main(["info", "small"])
    text = capsys.readouterr().out
    assert "head        none" in text and "fsdd" in text and "CC BY-SA 4.0" in text and "vocabulary  none" in text
