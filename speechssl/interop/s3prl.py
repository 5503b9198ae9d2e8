"""An upstream as s3prl's downstream tasks expect one: a list of waves in, the hidden states of every layer out."""

from collections.abc import Sequence

from torch import Tensor, nn

from speechssl.interop.source import read
from speechssl.models import families


class UpstreamExpert(nn.Module):
    """`ckpt` is any model that speechssl opens. Gradients reach the weights, so that it can be fine-tuned too."""

    def __init__(self, ckpt: str = "small", **_: object) -> None:
        super().__init__()
        self.model = families.build(read(ckpt))

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples from one frame to the next."""
        return self.model.geometry.hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Waves (S,) at 16 kHz -> {"hidden_states": L tensors (B, T, D)}; those of shorter waves end in zeros."""
        layers = zip(*self.model.states(wavs), strict=True)
        return {"hidden_states": [nn.utils.rnn.pad_sequence(list(pieces), batch_first=True) for pieces in layers]}
