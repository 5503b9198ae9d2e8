"""The architecture, with transformers' field names, so that transformers reads a saved config.json; defaults are BASE."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry

CONFORMERS = ("wav2vec2-conformer", "wav2vec2-bert")
ADAPTERS = ("wav2vec2", "data2vec-audio", *CONFORMERS)  # families for which transformers has an adapter
ONLY = {  # field: (the value that every family may have, the families that may have another)
    "hidden_act": ("gelu", CONFORMERS),
    "position_embeddings_type": ("", CONFORMERS),
    "add_adapter": (False, ADAPTERS),
    "use_intermediate_ffn_before_adapter": (False, ("wav2vec2-bert",)),
}
MAY_BE_ZERO = (
    "adapter_width",
    "output_hidden_size",
    "left_max_position_embeddings",
    "right_max_position_embeddings",
)
LOG_MEL = {"conv_dim": (160,), "conv_kernel": (400,), "conv_stride": (320,)}  # 2 x 80 bands
SAMPLE_RATE = 16_000  # of all audio in this package
LONGEST_HOP = 16_000  # samples; a frame a second is useless, and the hop decides how much memory a batch takes


@dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """wav2vec 2.0 architecture and regularisation (Baevski et al. 2020, section 4.2); the defaults are BASE, 95 M weights.

    The other families share its skeleton and differ by `model_type` and a few fields.
    """

    model_type: Literal[
        "wav2vec2",
        "hubert",
        "wavlm",
        "data2vec-audio",
        "unispeech",
        "unispeech-sat",
        "wav2vec2-conformer",
        "wav2vec2-bert",
    ] = "wav2vec2"
    """wavlm: gated relative position bias in the attention. data2vec-audio: a stack of positional convolutions.
    wav2vec2-conformer: conformer layers. wav2vec2-bert: those on log-mels, causal. The others: as wav2vec2."""
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    """Channels of each convolution of the feature encoder."""
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel width of each convolution, in its input's frames."""
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution; their product, 320 samples, is the frame shift of 20 ms."""
    conv_bias: bool = False
    """Whether the convolutions have a bias (LARGE: true)."""
    feat_extract_norm: Literal["group", "layer"] = "group"
    """group: one group norm after the first convolution (BASE). layer: a layer norm after each one (LARGE)."""
    do_normalize: bool = False
    """Bring each utterance to zero mean and unit variance before the encoder (LARGE: true)."""
    feat_proj_layer_norm: bool = True
    """Whether the encoder's features are layer-normed before the transformer (some HuBERT models: false)."""
    hidden_size: int = 768
    """Width of the transformer."""
    num_hidden_layers: int = 12
    """Transformer layers."""
    num_attention_heads: int = 12
    """Attention heads per layer."""
    intermediate_size: int = 3072
    """Width of the feed-forward blocks."""
    do_stable_layer_norm: bool = False
    """false: layer norm after each block (post-LN, BASE). true: before it (pre-LN, LARGE)."""
    layer_norm_eps: float = 1e-5
    """Epsilon of every layer norm."""
    num_conv_pos_embeddings: int = 128
    """Kernel width of the positional convolution (data2vec-audio: how many are stacked, as transformers has it)."""
    num_conv_pos_embedding_groups: int = 16
    """Groups of the positional convolution."""
    conv_pos_kernel_size: int = 19
    """data2vec-audio: kernel width of each positional convolution."""
    conv_pos_batch_norm: bool = False
    """Batch norm before the positional convolution instead of weight norm (some HuBERT models: true)."""
    num_buckets: int = 320
    """wavlm: entries of the relative position bias."""
    max_bucket_distance: int = 800
    """wavlm: frames beyond which all distances share an entry."""
    hidden_act: Literal["gelu", "swish", "silu", "relu"] = "gelu"
    """Conformers: activation of feed-forward blocks and convolutions; all others have gelu."""
    position_embeddings_type: Literal["", "relative", "rotary", "relative_key"] = ""
    """Conformers: how the attention knows positions; all others have positional convolutions."""
    rotary_embedding_base: int = 10_000
    """rotary: base of the angles."""
    left_max_position_embeddings: int = 64
    """relative_key: frames to the left beyond which all distances share an entry."""
    right_max_position_embeddings: int = 8
    """relative_key: the same to the right."""
    conv_depthwise_kernel_size: int = 31
    """Conformers: kernel width of the convolutions, in frames."""
    conformer_conv_dropout: float = 0.1
    """Conformers: dropout after the convolutions."""
    add_adapter: bool = False
    """Strided convolutions between the last layer and the CTC or classification layer, which then has longer frames."""
    num_adapter_layers: int = 3
    """add_adapter: how many."""
    adapter_kernel_size: int = 3
    """add_adapter: kernel width of each, in frames."""
    adapter_stride: int = 2
    """add_adapter: stride of each."""
    output_hidden_size: int = 0
    """add_adapter: width of the adapter (0: hidden_size)."""
    adapter_act: Literal["gelu", "swish", "silu", "relu"] = "relu"
    """add_adapter of wav2vec2-bert: activation of its feed-forward blocks."""
    use_intermediate_ffn_before_adapter: bool = False
    """add_adapter of wav2vec2-bert: a feed-forward block before it."""
    adapter_width: int = 0
    """Width of the adapter after each pre-LN layer, one set of weights per language (MMS: 16; 0: none)."""
    sampling_rate: Literal[16_000, 8_000] = 16_000
    """Hz of the audio that the network takes; 8000 for telephones. Audio of 16 kHz is resampled to it."""
    num_codevector_groups: int = 2
    """G: codebooks of the product quantizer."""
    num_codevectors_per_group: int = 320
    """V: entries of each codebook."""
    codevector_dim: int = 256
    """Width of a quantised vector, all groups together."""
    proj_codevector_dim: int = 256
    """Width in which contexts and targets are compared."""
    feat_proj_dropout: float = 0.1
    """Dropout of the transformer's input."""
    feat_quantizer_dropout: float = 0.1
    """Dropout of the quantizer's input."""
    hidden_dropout: float = 0.1
    """Dropout after attention, after the feed-forward block and after the positional embedding."""
    attention_dropout: float = 0.1
    """Dropout of the attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward block."""
    final_dropout: float = 0.0
    """Dropout before the CTC layer."""
    layerdrop: float = 0.05
    """Chance that a transformer layer is skipped in a training step."""

    def __post_init__(self) -> None:
        sizes = {len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}
        if len(sizes) != 1:
            raise InputError(
                "model.conv_dim, conv_kernel and conv_stride differ in length; give one entry per convolution"
            )
        for name, value in vars(self).items():
            sizes = value if isinstance(value, tuple) else (value,)
            least = 0 if name in MAY_BE_ZERO else 1
            if not isinstance(value, (bool, str, float)) and min(sizes, default=0) < least:
                raise InputError(f"model.{name} = {value} must be at least {least}")
        hop = math.prod(self.conv_stride) * (
            self.adapter_stride ** min(self.num_adapter_layers, 64) if self.add_adapter else 1
        )
        if hop > LONGEST_HOP:
            raise InputError(f"model.conv_stride and adapter_stride make one frame of {hop} samples; 320 is usual")
        for value, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("hidden_size", "num_conv_pos_embedding_groups"),
            ("codevector_dim", "num_codevector_groups"),
        ):
            if getattr(self, divisor) < 1 or getattr(self, value) % getattr(self, divisor):
                raise InputError(
                    f"model.{value} = {getattr(self, value)} is not a multiple of model.{divisor} = {getattr(self, divisor)}"
                )
        for name, value in vars(self).items():
            if ("dropout" in name or name == "layerdrop") and not 0 <= value < 1:
                raise InputError(f"model.{name} = {value} is outside [0, 1): it is a probability")
        self.check_family()

    def check_family(self) -> None:
        """InputError for fields that do not go with the family or with each other."""
        if self.stacked_positions and (self.feat_extract_norm != "layer" or self.do_stable_layer_norm):
            raise InputError(
                'model.model_type = "data2vec-audio" needs feat_extract_norm = "layer" and do_stable_layer_norm = false: its '
                "folders have no other form"
            )
        for name, (usual, families) in ONLY.items():
            if getattr(self, name) != usual and self.model_type not in families:
                raise InputError(
                    f"model.{name} = {getattr(self, name)!r} does not go with model.model_type = {self.model_type!r}, but with "
                    f"{', '.join(families)}; leave it at {usual!r}"
                )
        if self.log_mel and any(getattr(self, name) != value for name, value in LOG_MEL.items()):
            sizes = ", ".join(f"{name} = {list(value)}" for name, value in LOG_MEL.items())
            raise InputError(f'model.model_type = "wav2vec2-bert" needs {sizes}: its input is log-mels')
        if self.conformer and self.conv_depthwise_kernel_size % 2 == 0:
            raise InputError(f"model.conv_depthwise_kernel_size = {self.conv_depthwise_kernel_size} must be odd")
        if self.position_embeddings_type in ("rotary", "relative") and self.hidden_size // self.num_attention_heads % 2:
            raise InputError(
                f"model.position_embeddings_type = {self.position_embeddings_type!r} needs heads of an even width, and "
                f"{self.hidden_size} / {self.num_attention_heads} is odd"
            )
        if self.add_adapter and self.adapter_kernel_size <= 2 * self.adapter_padding:
            raise InputError(
                f"model.adapter_kernel_size = {self.adapter_kernel_size} must be above {2 * self.adapter_padding}, the zeros "
                "around an utterance; 3 is usual"
            )
        if self.gated_attention and not 4 <= self.num_buckets < 4 * self.max_bucket_distance:
            raise InputError(
                f"model.num_buckets = {self.num_buckets} and model.max_bucket_distance = {self.max_bucket_distance} do not "
                "go together; WavLM has 320 and 800"
            )

    @property
    def gated_attention(self) -> bool:
        """Whether the attention has WavLM's gated relative position bias."""
        return self.model_type == "wavlm"

    @property
    def stacked_positions(self) -> bool:
        """Whether positions are embedded by data2vec's stack of convolutions instead of a single one."""
        return self.model_type == "data2vec-audio"

    @property
    def conformer(self) -> bool:
        """Whether the layers are conformers."""
        return self.model_type in CONFORMERS

    @property
    def log_mel(self) -> bool:
        """Whether the input is log-mels instead of convolutions of samples, and the conformers are causal."""
        return self.model_type == "wav2vec2-bert"

    @property
    def adapter_padding(self) -> int:
        """Zeros on either side of an utterance in the adapter's convolutions."""
        return self.adapter_stride // 2 if self.log_mel else 1

    @property
    def output_width(self) -> int:
        """Width of what the CTC or classification layer takes."""
        return self.output_hidden_size or self.hidden_size if self.add_adapter else self.hidden_size

    @cached_property
    def geometry(self) -> Geometry:
        """Strides and kernels of the encoder as length arithmetic, in samples of 16 kHz: resampling counts as a convolution."""
        halving = (2,) if self.sampling_rate < SAMPLE_RATE else ()
        kernels, strides = (*halving, *self.conv_kernel), (*halving, *self.conv_stride)
        return Geometry(
            kernels=kernels, strides=strides, late=80 if self.log_mel else 0
        )  # half of the 10 ms between two

    @cached_property
    def stream(self) -> Geometry:
        """The same in samples of the network's own rate."""
        return Geometry(kernels=self.conv_kernel, strides=self.conv_stride)

    @cached_property
    def letters(self) -> Geometry:
        """The same for the frames of the CTC layer, which are longer with an adapter. A convolution of K frames whose input has
        P zeros at both ends counts as one of K - 2 P without."""
        layers = self.num_adapter_layers if self.add_adapter else 0
        kernel = self.adapter_kernel_size - 2 * self.adapter_padding
        return Geometry(
            kernels=(*self.geometry.kernels, *[kernel] * layers),
            strides=(*self.geometry.strides, *[self.adapter_stride] * layers),
            late=self.geometry.late,
        )
