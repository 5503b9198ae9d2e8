"""Exported graphs give the model's numbers at every length, in torch and in onnxruntime."""

import numpy as np
import pytest
import torch

import speechssl
from speechssl import cli
from speechssl.interop.export import Exported, export
from tests.interop.builders import LETTERS, make, save

LENGTHS = (1_000, 7_777, 33_333)


@pytest.mark.parametrize(
    "family, style, encoder",
    [("wav2vec2", "post", False), ("wavlm", "pre", False), ("data2vec-audio", "post", True)],
)
def test_torch_export_has_a_free_time_axis(family, style, encoder, speech, tmp_path):
    mine = speechssl.load(save(make(family, style, num_hidden_layers=1), tmp_path / "m", normalise=True))
    assert "differs from the model by" in export(mine, tmp_path / "m.pt2", "torch", encoder=encoder)
    graph = torch.export.load(tmp_path / "m.pt2").module()
    for samples in LENGTHS:
        wave = speech[:samples]
        expected_TX = mine.hidden_states([wave])[0][-1] if encoder else mine.log_probs([wave])[0]
        torch.testing.assert_close(graph(torch.from_numpy(wave)[None])[0], expected_TX, rtol=0, atol=1e-4)


def test_onnx_runs_in_onnxruntime_and_int8_is_smaller(speech, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    wide = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    folder = save(make("wav2vec2", "pre", **wide), tmp_path / "m", normalise=True, vocab=LETTERS)
    mine = speechssl.load(folder)
    cli.main(["export", str(folder), str(tmp_path / "m.onnx"), "--to", "onnx"])
    assert "MB, differs from the model by" in capsys.readouterr().out
    cli.main(["export", str(folder), str(tmp_path / "m8.onnx"), "--to", "onnx", "--int8"])
    graph, small = Exported(tmp_path / "m.onnx", mine), Exported(tmp_path / "m8.onnx", mine)
    for samples in LENGTHS:
        expected_TV = mine.log_probs([speech[:samples]])[0]
        torch.testing.assert_close(graph.log_probs([speech[:samples]])[0], expected_TV, rtol=0, atol=1e-4)
        gap = small.log_probs([speech[:samples]])[0] - expected_TV
        assert 1e-6 < gap.abs().mean() < 0.1, "8 bits cost something, and not much"
    assert (tmp_path / "m8.onnx").stat().st_size < 0.7 * (tmp_path / "m.onnx").stat().st_size


def test_wishes_that_cannot_be_granted(tmp_path, monkeypatch):
    import sys

    mine = speechssl.load(save(make(), tmp_path / "m"))
    with pytest.raises(speechssl.InputError, match="--int8 needs --to onnx"):
        export(mine, tmp_path / "x.pt2", "torch", int8=True)
    (tmp_path / "x.onnx").write_text("precious")
    with pytest.raises(speechssl.InputError, match="nothing is overwritten"):
        export(mine, tmp_path / "x.onnx", "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(speechssl.InputError, match=r"pip install 'speechssl\[onnx\]'"):
        export(mine, tmp_path / "y.onnx", "onnx")
    with pytest.raises(speechssl.InputError, match="shorter than one frame"):
        Exported.log_probs(mine, [np.zeros(10, np.float32)])


@pytest.mark.parametrize(
    "family, changes, complaint",
    [
        ("wav2vec2-conformer", {}, "is a wav2vec2-conformer model, and export needs one of: wav2vec2, hubert"),
        ("wav2vec2-bert", {}, "is a wav2vec2-bert model, and export needs one of"),
        ("wav2vec2", dict(add_adapter=True), "an adapter after its last layer"),
    ],
)
def test_what_no_graph_holds_is_refused(family, changes, complaint, tmp_path):
    mine = speechssl.load(save(make(family, **changes), tmp_path / "m"))
    with pytest.raises(speechssl.InputError, match=complaint):
        export(mine, tmp_path / "m.pt2", "torch")
    assert not (tmp_path / "m.pt2").exists()
