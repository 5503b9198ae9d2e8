"""Weights of fewer bits: 8-bit matrices are dequantised, everything else is refused by its name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import speechssl
from tests.interop.builders import make, save

LINEAR = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight", "dense.weight")


@pytest.fixture
def folder(tmp_path):
    """A model in full precision."""
    return save(make(), tmp_path / "m")


def rewrite(folder, change, **config) -> dict:
    """Change the tensors of a folder, and add to its config.json."""
    state = change(load_file(folder / "model.safetensors"))
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    return state


def in_8_bits(state: dict, layout: bool = False) -> dict:
    """As bitsandbytes stores them: the largest value of a row is 127."""
    made = {}
    for key, value in state.items():
        if not key.endswith(LINEAR):
            made[key] = value
            continue
        scale_O = value.abs().amax(dim=1)
        made[key] = (value * 127 / scale_O[:, None]).round().to(torch.int8)
        made[key.replace("weight", "SCB")] = scale_O
        if layout:
            made[key.replace("weight", "weight_format")] = torch.tensor(0, dtype=torch.uint8)
    return made


@pytest.mark.parametrize("layout", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_8_bits_of_bitsandbytes(told, layout, folder, speech, tmp_path):
    exact = speechssl.load(folder).hidden_states([speech[:9000]])[0]
    method = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    state = rewrite(folder, lambda s: in_8_bits(s, layout), **({"quantization_config": method} if told else {}))
    mine = speechssl.load(folder)
    found = mine.hidden_states([speech[:9000]])[0]
    by_hand = {
        key: value.float() * state[key.replace("weight", "SCB")][:, None] / 127
        for key, value in state.items()
        if value.dtype == torch.int8
    }
    assert by_hand and 0 < (found - exact).abs().max() < 0.2
    rewrite(
        folder,
        lambda s: {k: by_hand.get(k, v) for k, v in s.items() if "SCB" not in k and "_format" not in k},
        quantization_config=None,
    )
    torch.testing.assert_close(speechssl.load(folder).hidden_states([speech[:9000]])[0], found, rtol=0, atol=1e-5)
    mine.save(tmp_path / "again")
    said = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "quantization_config" not in said and said["dtype"] == "float32"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_fewer_bits_of_floating_point(kind, folder, speech):
    exact = speechssl.load(folder).hidden_states([speech[:9000]])[0]
    rewrite(folder, lambda s: {k: v.to(kind) if v.ndim > 1 else v for k, v in s.items()})
    found = speechssl.load(folder).hidden_states([speech[:9000]])[0]
    assert (found - exact).abs().mean() < 16 * torch.finfo(kind).eps


@pytest.mark.parametrize(
    "method, name",
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "awq, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "bitsandbytes, 4 bits"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "something-new"}, "something-new"),
        ({}, None),
        ("gptq", "gptq"),
    ],
    ids=str,
)
def test_other_methods_are_refused_by_name(method, name, folder):
    rewrite(folder, lambda s: s, quantization_config=method)
    if name is None:
        assert speechssl.load(folder)
        return
    with pytest.raises(speechssl.InputError, match=rf"is quantised \({name}\)") as caught:
        speechssl.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "added, name",
    [
        ({"weight": torch.uint8, "weight.absmax": torch.float32}, "bitsandbytes, 4 bits"),
        ({"qweight": torch.int32, "qzeros": torch.int32}, "GPTQ or AWQ"),
        ({"weight": torch.float8_e4m3fn, "weight_scale": torch.float32}, "weights with scales"),
        ({"weight": torch.float8_e4m3fn, "weight_scale_inv": torch.float32}, "weights with scales"),
        ({"weight": torch.int8}, "q_proj.weight is int8"),
        ({"weight": torch.float32, "SCB": torch.float32}, "does not go with"),
    ],
    ids=str,
)
def test_tensors_alone_tell_too(added, name, folder):
    place = "wav2vec2.encoder.layers.0.attention.q_proj."
    rewrite(folder, lambda s: s | {place + key: torch.ones(32, 32).to(kind) for key, kind in added.items()})
    with pytest.raises(speechssl.InputError, match=name) as caught:
        speechssl.load(folder)
    assert "is quantised" in str(caught.value) and "\n" not in str(caught.value)
