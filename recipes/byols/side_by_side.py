"""Two AudioNTT2020 as one: the embeddings of both, one after the other, from one log-mel spectrogram.

    python recipes/byols/side_by_side.py FIRST SECOND OUT

Every map of the result holds both networks' as blocks, with zeros between them. The input has the first one's normalisation:
the second one's first convolution is changed to undo it, exactly but for the border of one cell where zeros are padded.
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
    """Fill a layer of `target` with those of two networks. flat: channels of the first network, where both axes of a map are
    flattened band by band, so that the two networks' channels alternate."""
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
    """The encoder for log-mels of other statistics: its first convolution takes the change upon itself."""
    (mean, std), (theirs, spread), encoder = model.mel_stats, stats_2, copy.deepcopy(model.encoder)
    conv = encoder.features[0]
    conv.bias += conv.weight.sum(dim=(1, 2, 3)) * (theirs - mean) / std
    conv.weight *= spread / std
    return encoder


@torch.no_grad()
def side_by_side(first: ByolsModel, second: ByolsModel) -> ByolsModel:
    """The model whose embedding is those of both. InputError unless both are AudioNTT2020 on the same log-mels."""
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
    first.facts["speechssl"] = {"origin": f"side by side: {args.first}, {args.second}"}
    first.model = side_by_side(first.model, second.model)
    first.save(args.out, half=True)


if __name__ == "__main__":
    main()
