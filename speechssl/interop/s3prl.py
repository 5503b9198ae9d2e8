"""An upstream as s3prl's downstream tasks expect one: a list of waves in, the hidden states of every layer out."""

from collections.abc import Sequence

from torch import Tensor, nn

from speechssl.core.packed import pack
from speechssl.interop.source import read
from speechssl.models.byols.model import ByolsModel
from speechssl.models.checkpoint import build


class UpstreamExpert(nn.Module):
    """`ckpt` is any model that speechssl opens. Gradients reach the weights, so that it can be fine-tuned too."""

    def __init__(self, ckpt: str = "small", **_: object) -> None:
        super().__init__()
        self.model = build(read(ckpt))
        self.config = self.model.config

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples from one frame to the next."""
        return self.config.geometry.hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Waves (S,) at 16 kHz -> {"hidden_states": L + 1 tensors (B, T, D)}, one of BYOL-S; shorter ones end in zeros."""
        pad = nn.utils.rnn.pad_sequence
        if isinstance(self.model, ByolsModel):
            return {"hidden_states": [pad([x[0] for x in self.model.hidden_states(wavs)], batch_first=True)]}
        geometry, device = self.config.geometry, next(self.parameters()).device
        waves = [wave_S.detach().cpu() for wave_S in wavs]
        batch = pack(waves, geometry, normalise=self.config.do_normalize).to(device)
        states = self.model.wav2vec2(batch).states
        return {"hidden_states": [pad(list(x.split(batch.frames)), batch_first=True) for x in states]}
