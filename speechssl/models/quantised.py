"""Weights of fewer bits: 8-bit matrices of bitsandbytes become floating point, every other quantisation is refused by name."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.core.errors import InputError

SETTINGS = "quantization_config"  # in config.json
MARKS = (  # what the tensors of each kind are called
    (r"\.(absmax|quant_map|nested_absmax|quant_state\..*)$", "bitsandbytes, 4 bits"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.(weight|input)_scale(_inv)?$|\.weight_(packed|shape|zero_point)$", "weights with scales beside them"),
    (r"\.(_data|_scale|_packed)$|\.weight\._\w+$", "quanto or torchao"),
    (r"\._packed_params", "torch's quantized modules"),
)


def check(file: Path, raw: dict[str, Any]) -> None:
    """InputError when a config.json, `raw` of `file`, names a quantisation that `dequantised` cannot undo."""
    said = raw.get(SETTINGS)
    if said and not (isinstance(said, dict) and said.get("load_in_8bit")):
        named = said if isinstance(said, dict) else {"quant_method": said}
        bits = next(
            (f", {n} bits" for key, n in (("load_in_4bit", 4), ("bits", named.get("bits"))) if named.get(key)), ""
        )
        raise refusal(file, f"{named.get('quant_method') or 'a method that it does not name'}{bits}")


def dequantised(state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The tensors of a file with bitsandbytes' int8 matrices as float32: weight * SCB / 127, row by row (Dettmers et al. 2022).

    InputError that names the quantisation for tensors of any other; float8 without scales counts as floating point.
    """
    state = dict(state)
    for key in [key for key in state if key.endswith(".SCB")]:
        scale_O, name = state.pop(key), key.removesuffix("SCB") + "weight"
        layout = state.pop(key.removesuffix("SCB") + "weight_format", None)
        weight_OI = state.get(name)
        if weight_OI is None or weight_OI.dtype != torch.int8 or scale_O.shape != weight_OI.shape[:1]:
            raise refusal(source, f"bitsandbytes, 8 bits, but {name} does not go with {key}")
        if layout is not None and layout.any():
            raise refusal(source, f"bitsandbytes, 8 bits, in the layout {layout.tolist()} of one kind of GPU")
        state[name] = weight_OI.float() * scale_O.float()[:, None] / 127
    for key, value in state.items():
        for pattern, method in MARKS:
            if re.search(pattern, key):
                raise refusal(source, f"{method}: it has {key}")
        if not value.is_floating_point() and key.endswith((".weight", ".bias")):
            raise refusal(source, f"{key} is {str(value.dtype).removeprefix('torch.')}")
    return state


def refusal(source: Path, method: str) -> InputError:
    """The error for a quantised model."""
    return InputError(
        f"{source} is quantised ({method}), of which only 8-bit weights as bitsandbytes stores them can be opened; take the "
        "model before its quantisation, or save it dequantised"
    )
