"""Join two AudioNTT2020 into one network whose embedding is that of the first followed by that of the second.

    python recipes/byols/side_by_side.py FIRST SECOND OUT

The weights of the two networks are the diagonal blocks of each layer, with zeros elsewhere. The log-mels have the normalisation
of the first network; the first convolution of the second is changed to undo it, which is exact except in the border of one cell
where zeros are padded.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import speechssl
from speechssl.core.errors import InputError
from speechssl.models.byols.model import ByolsConfig, ByolsModel


def blocks(target: nn.Module, first: nn.Module, second: nn.Module, flat: int = 0) -> None:
    """Fill a layer of `target` with the layers of two networks as blocks.

    flat: channels of the first network, if the layer's input is a map flattened band by band, so that the channels of the two
    networks alternate; 0 otherwise.
    """
    for name, value in target.state_dict().items():
        a, b = first.state_dict()[name], second.state_dict()[name]
        if value.dim() < 2:
            value.copy_(torch.cat([a, b]) if value.dim() else a)
            continue
        value.zero_()
        value[: len(a), : a.shape[1]] = a
        value[len(a) :, value.shape[1] - b.shape[1] :] = b
        if name == "weight" and flat:
            bands, both = a.shape[1] // flat, value.shape[1] // (a.shape[1] // flat)
            value.zero_()
            value.view(len(value), bands, both)[: len(a), :, :flat] = a.view(len(a), bands, flat)
            value.view(len(value), bands, both)[len(a) :, :, flat:] = b.view(len(b), bands, both - flat)


def renormalised(model: ByolsModel, stats_2: torch.Tensor) -> Any:
    """A copy of the encoder for log-mels that are normalised by other statistics, with an adapted first convolution."""
    (mean, std), (theirs, spread), encoder = model.mel_stats, stats_2, copy.deepcopy(model.encoder)
    conv = encoder.features[0]
    conv.bias += conv.weight.sum(dim=(1, 2, 3)) * (theirs - mean) / std
    conv.weight *= spread / std
    return encoder


@torch.no_grad()
def side_by_side(first: ByolsModel, second: ByolsModel) -> ByolsModel:
    """The joined model. InputError unless both are AudioNTT2020 on the same log-mels."""
    for config in (first.config, second.config):
        if not isinstance(config, ByolsConfig) or config.encoder != "audiontt2020":
            raise InputError("both models must be AudioNTT2020 (model.encoder = audiontt2020)")
    for name in ("frontend", "pool"):
        one, two = getattr(first.config, name), getattr(second.config, name)
        if one != two:
            raise InputError(f"{name} differs: {one}, {two}; both models must have the same")
    channels = first.config.channels + second.config.channels
    model = ByolsModel(replace(first.config, width=first.config.width + second.config.width, channels=channels)).eval()
    model.mel_stats.copy_(first.mel_stats)
    one: Any = first.encoder
    two = renormalised(second, first.mel_stats)
    for index, layer in enumerate(model.encoder.features):
        if index == 0:  # both read the same one channel
            layer.weight.copy_(torch.cat([one.features[0].weight, two.features[0].weight]))
            layer.bias.copy_(torch.cat([one.features[0].bias, two.features[0].bias]))
        elif layer.state_dict():
            blocks(layer, one.features[index], two.features[index])
    blocks(model.encoder.fc[0], one.fc[0], two.fc[0], flat=first.config.channels)
    blocks(model.encoder.fc[3], one.fc[3], two.fc[3])
    return model


def main() -> None:
    """Write the model folder OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    first, second = speechssl.load(args.first), speechssl.load(args.second)
    first.config_json["speechssl"] = {"origin": f"side by side: {args.first}, {args.second}"}
    first.model = side_by_side(first.model, second.model)
    first.save(args.out, half=True)


if __name__ == "__main__":
    main()
