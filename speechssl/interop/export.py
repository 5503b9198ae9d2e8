"""A model as one graph with a free time axis: torch.export, or ONNX for onnxruntime, optionally with 8-bit weights.

The graph takes one utterance (1, S) at 16 kHz, of any length, and gives CTC log-posteriors (1, T, V) or the last hidden
state (1, T, D). Every export is run and compared with the model before it is kept.
"""

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, writing
from speechssl.core.packed import pack
from speechssl.models import families
from speechssl.sound.audio import SAMPLE_RATE

LONGEST = 60 * 16_000  # samples that a graph accepts at once
TOLERANCE = 1e-4
PROBES = (16_000, 12_345, 40_001)  # lengths at which the graph must agree with the model; it is traced with another


class Single(nn.Module):
    """The model on one utterance, in operations that exporters know; a copy with the same weights."""

    def __init__(self, model: Any, head: bool) -> None:
        super().__init__()
        self.model, self.head = copy.deepcopy(model).eval(), head
        for name, module in list(self.model.named_modules()):
            if isinstance(module, nn.Conv1d) and parametrize.is_parametrized(module):
                self.model.set_submodule(name, unnormed(module))

    def forward(self, wave_BS: Tensor) -> Tensor:
        """(1, S) -> (1, T, V) or (1, T, D)."""
        body = self.model.wav2vec2
        if self.model.config.do_normalize:
            variance, mean = torch.var_mean(wave_BS, correction=0)
            wave_BS = (wave_BS - mean) / torch.sqrt(variance + 1e-7)
        x_BCT = wave_BS[:, None]
        for layer in body.feature_extractor.conv_layers:
            x_BCT = F.gelu(normalised(layer.conv(x_BCT), layer.layer_norm))
        x_TD, _ = body.feature_projection(x_BCT[0].T)
        x_TD = body.encoder(x_TD, [x_TD.shape[0]])[-1]
        return (self.model.lm_head(x_TD).log_softmax(dim=-1) if self.head else x_TD)[None]


def unnormed(conv: nn.Conv1d) -> nn.Conv1d:
    """A new convolution whose weight has the weight norm applied. Removing the parametrization from a copy would remove it
    from the original too, since both have the same class."""
    merged = nn.Conv1d(conv.in_channels, conv.out_channels, conv.kernel_size[0], groups=conv.groups)
    assert conv.bias is not None
    merged.load_state_dict({"weight": conv.weight.detach(), "bias": conv.bias.detach()})
    return merged


def normalised(x_BCT: Tensor, norm: nn.Module | None) -> Tensor:
    """After a convolution: group norm over time, layer norm over channels, or nothing."""
    if isinstance(norm, nn.LayerNorm):
        return norm(x_BCT.transpose(1, 2)).transpose(1, 2)
    return x_BCT if norm is None else norm(x_BCT)


def export(model: Any, out: Path, to: str, *, int8: bool = False, encoder: bool = False) -> str:
    """Write a loaded model as `out` for torch (`torch.export.load`) or onnx; returns a line of summary.

    int8: matrix weights in 8 bits, quantised on the fly (onnx only). encoder: without the CTC head.
    """
    families.require(model.config.model_type, model.source, families.with_format("export"), "export")
    if model.config.add_adapter:
        raise InputError(
            f"{model.source} has an adapter after its last layer (add_adapter), which a graph cannot hold yet"
        )
    if model.config.sampling_rate != SAMPLE_RATE:
        raise InputError(f"{model.source} takes audio of {model.config.sampling_rate} Hz, and a graph takes 16000")
    if int8 and to != "onnx":
        raise InputError("--int8 needs --to onnx: onnxruntime has the 8-bit matrix products")
    if out.exists():
        raise InputError(f"{out} exists; choose another name, nothing is overwritten")
    head = model.model.head == "CTC" and not encoder
    single = Single(model.model, head)
    output_folder(out.parent)
    time = torch.export.Dim("samples", min=2 * model.config.geometry.receptive_field, max=LONGEST)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(
            single,
            (torch.randn(1, 20_000),),
            dynamic_shapes=({1: time},),
            prefer_deferred_runtime_asserts_over_guards=True,  # the solver cannot prove that two frames are not one
        )
    if to == "torch":
        with writing(out, RuntimeError):
            torch.export.save(program, out)
        run = torch.export.load(out).module()
        gap = disagreement(model, head, lambda wave_BS: run(torch.from_numpy(wave_BS)).detach().numpy())
    else:
        write_onnx(program, out, int8)
        session = open_onnx(out)
        gap = disagreement(model, head, lambda wave_BS: session.run(None, {"wave": wave_BS})[0])
    if gap > TOLERANCE and not int8:
        out.unlink()
        raise InputError(f"{out} disagrees with the model by {gap:.1e}; use another version of torch or onnxruntime")
    size = out.stat().st_size / 1e6
    kind = "log-posteriors (1, T, V)" if head else "last hidden state (1, T, D)"
    return f"{out}: wave (1, samples) -> {kind}, {size:.1f} MB, differs from the model by {gap:.1e} at most"


def write_onnx(program: Any, out: Path, int8: bool) -> None:
    """The exported program as an ONNX file, weights inside."""
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization as quantization
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}: pip install 'speechssl[onnx]'") from None
    whole = out.with_name(f".float-{out.name}") if int8 else out
    logging.disable(logging.WARNING)  # about operators of torchvision, and advice that does not apply
    try:
        made = torch.onnx.export(program, input_names=["wave"], output_names=["out"], dynamo=True, verbose=False)
        assert made is not None
        made.save(str(whole), external_data=False)
        if int8:
            products = ["MatMul", "Gemm"]
            quantization.quantize_dynamic(
                whole, out, weight_type=quantization.QuantType.QInt8, op_types_to_quantize=products
            )
    finally:
        logging.disable(logging.NOTSET)
        if int8:
            whole.unlink(missing_ok=True)


def open_onnx(path: Path) -> Any:
    """A session of onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def disagreement(model: Any, head: bool, run: Any) -> float:
    """Largest absolute difference between the graph and the model, over noise of several lengths."""
    rng, gap = np.random.default_rng(1), 0.0
    for samples in PROBES:
        wave_S = rng.standard_normal(samples).astype(np.float32) * 0.1
        mine = model.log_probs([wave_S])[0] if head else model.hidden_states([wave_S])[0][-1]
        gap = max(gap, float(np.abs(run(wave_S[None])[0] - mine.numpy()).max()))
    return gap


class Exported:
    """An ONNX file with the interface of a model that `transcribe` and `evaluate` use; config and tokenizer are the model's."""

    def __init__(self, path: Path, model: Any) -> None:
        self.session, self.source = open_onnx(path), str(path)
        self.config, self.tokenizer = model.config, model.tokenizer

    def log_probs(self, waves: list[np.ndarray]) -> list[Tensor]:
        """Per utterance (S,) at 16 kHz: CTC log-posteriors (T, V)."""
        pack(waves, self.config.geometry)  # raises if an utterance is too short
        return [torch.from_numpy(self.session.run(None, {"wave": wave_S[None]})[0][0]) for wave_S in waves]
