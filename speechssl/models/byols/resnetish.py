"""ResNetish34: ResNet-34 on a spectrogram, as BYOL-S uses it; parameter names are those of the published weights."""

import torch
from torch import Tensor, nn

from speechssl.models.kernels.norm import BatchNorm

BLOCKS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the four layers


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2015, figure 2)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), BatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> (B, O, F / stride, T / stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class ResNetish34(nn.Module):
    """A frame is the last map's four mel rows of 512 channels side by side: 2,048 numbers every 160 ms."""

    width = 4 * BLOCKS[-1][0]

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, 1, 3, bias=False)
        self.bn1 = BatchNorm(64)
        inputs = 64
        for number, (width, blocks, stride) in enumerate(BLOCKS, 1):
            rest = [Block(width, width, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(Block(inputs, width, stride), *rest))
            inputs = width

    def forward(self, mel_BFT: Tensor) -> Tensor:
        """(B, F, T) -> (B, T / 16, 2048)."""
        x = torch.relu(self.bn1(self.conv1(mel_BFT[:, None])))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return x.transpose(1, 2).flatten(1, 2).mT
