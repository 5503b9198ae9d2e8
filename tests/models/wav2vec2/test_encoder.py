"""The convolution of a stream equals torch's own, gradients included, for every stride and kernel that a stack may have."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.models.kernels.conv import conv_stream
from speechssl.models.wav2vec2.config import LOG_MEL, Wav2Vec2Config
from speechssl.models.wav2vec2.encoder import ConvLayer
from speechssl.models.wav2vec2.logmel import log_mel, triangles


@pytest.mark.parametrize("kernel, stride", [(10, 5), (3, 2), (2, 2), (1, 1), (5, 1), (2, 4)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_conv1d(kernel, stride, channels, bias):
    torch.manual_seed(kernel * 10 + stride)
    x_NC = torch.randn(stride * 12, channels, dtype=torch.float64, requires_grad=True)
    weight_OCK = torch.randn(7, channels, kernel, dtype=torch.float64, requires_grad=True)
    bias_O = torch.randn(7, dtype=torch.float64, requires_grad=True) if bias else None
    expected_TO = F.conv1d(x_NC.T[None], weight_OCK, bias_O, stride)[0].T
    mine_TO = conv_stream(x_NC, weight_OCK, bias_O, stride)[: len(expected_TO)]
    torch.testing.assert_close(mine_TO, expected_TO)
    leaves = [leaf for leaf in (x_NC, weight_OCK, bias_O) if leaf is not None]
    pull_TO = torch.randn_like(expected_TO)
    for mine, expected in zip(
        torch.autograd.grad(mine_TO, leaves, pull_TO), torch.autograd.grad(expected_TO, leaves, pull_TO), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_first_layer_is_group_norm_of_its_convolution_to_rounding(clip):
    """Against float64; neighbouring samples of speech are so alike that a variance by float32 products would lose digits."""
    config = Wav2Vec2Config()
    layer, wave = ConvLayer(config, 0), torch.from_numpy(clip[: len(clip) // 5 * 5])
    frames = config.geometry.frames(len(wave), 1)
    mine_TC = layer(wave[:, None], [slice(0, frames)])[:frames]
    weight, norm = layer.conv.weight.double(), layer.layer_norm
    y_1CT = F.conv1d(wave.double()[None, None], weight, stride=5)
    exact_1CT = F.gelu(F.group_norm(y_1CT, len(weight), norm.weight.double(), norm.bias.double(), norm.eps))
    torch.testing.assert_close(mine_TC.double(), exact_1CT[0].T, atol=1e-5, rtol=1e-5)


def test_a_frame_of_w2v_bert_is_centred_on_the_samples_of_both_its_halves(clip):
    how = {"num_conv_pos_embedding_groups": 1, "num_conv_pos_embeddings": 128, "feat_extract_norm": "layer"}
    config = Wav2Vec2Config(model_type="wav2vec2-bert", position_embeddings_type="relative_key", **LOG_MEL, **how)
    triangles.cache_clear()
    with torch.inference_mode():
        log_mel(torch.from_numpy(clip[:4000]))  # what it keeps must serve training too
    wave_S = torch.from_numpy(clip[:4000]).requires_grad_()
    log_mel(wave_S)[:2].sum().backward()
    heard_S = wave_S.grad.nonzero()[:, 0]
    assert config.geometry.centre == (heard_S[0] + heard_S[-1] + 1) / 2 == 280
