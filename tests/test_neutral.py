"""What was made fast computes what plain torch computes, part by part: along 200 updates in float32, at the weights of every
one of them, the losses agree to rounding and so do the gradients."""

import pytest
import torch
import torch.nn.functional as F

from speechssl.data.loader import Item
from speechssl.models.wav2vec2 import context, encoder
from speechssl.models.wav2vec2.model import Wav2Vec2ForPreTraining
from speechssl.objectives import wav2vec2
from tests.conftest import masked_learner, one_step, tiny

UPDATES = 200


def plain_conv(x_NC, weight_OCK, bias_O, stride):
    kernel = weight_OCK.shape[2]
    return F.conv1d(F.pad(x_NC.T, (0, kernel - stride)), weight_OCK, bias_O, stride).T


def plain_conv_and_norm(stream_N, weight_OK, norm, stride, valid):
    x_TO = plain_conv(stream_N[:, None], weight_OK[:, None], None, stride)
    y_TO = torch.zeros_like(x_TO)
    for rows in valid:
        y_TO[rows] = norm(x_TO[rows].T[None])[0].T
    return y_TO


def plain_attend(q, k, v, dropout, bias=None):
    """One head after the other; the same noise as in `attend`."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    kept = context.keep_mask(weights, dropout) if dropout else torch.ones_like(weights)
    return torch.einsum("bhqk,bhkd->bhqd", weights * kept / (1 - dropout), v)


def plain_contrastive(context_MD, target_MD, codes_MG, counts_MM, temperature):
    """Every pair's cosine by itself, as the paper's formula has it."""
    loss, right = 0.0, 0
    for m, counts_M in enumerate(counts_MM):
        others = counts_M.nonzero()[:, 0]
        others = others[(codes_MG[others] != codes_MG[m]).any(dim=1)]
        chosen = torch.cat([torch.tensor([m]), others.repeat_interleave(counts_M[others].long())])
        scores = F.cosine_similarity(context_MD[m], target_MD[chosen], dim=-1) / temperature
        loss = loss + F.cross_entropy(scores[None], torch.zeros(1, dtype=torch.long))
        right += int(scores.argmax() == 0)
    return loss, torch.tensor(right)


def plain_conv_grouped(x_NC, weight_OCK, bias_O, groups):
    return F.conv1d(x_NC.T, weight_OCK, bias_O, groups=groups).T


PLAIN = {
    "positional convolution": (context, "conv_grouped", plain_conv_grouped),
    "convolutions": (encoder, "conv_stream", plain_conv),
    "first convolution with its norm": (encoder, "conv_and_norm", plain_conv_and_norm),
    "attention": (context, "attend", plain_attend),
    "loss": (wav2vec2, "contrastive", plain_contrastive),
}


def losses(objective, batch, update) -> torch.Tensor:
    """The mean loss of one update, with its dropout noise."""
    torch.manual_seed(update)
    return one_step(objective, batch, update).loss / batch.count


@pytest.mark.parametrize("part", sorted(PLAIN))
def test_curves_agree(part, speech, monkeypatch):
    torch.manual_seed(1)
    model = Wav2Vec2ForPreTraining(tiny(attention_dropout=0.1, hidden_dropout=0.1))
    objective = masked_learner(model, num_negatives=10).train()
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-4)
    curve, loss_gaps, gradient_gaps = [], [], []
    for update in range(UPDATES):
        items = [Item(wave_S=speech[a:b], id=f"{a}", epoch=update) for a, b in ((0, 9_000), (9_000, 22_000))]
        batch = objective.collate(items)
        loss = losses(objective, batch, update)
        with monkeypatch.context() as patch:
            patch.setattr(*PLAIN[part])
            plain = losses(objective, batch, update)
        weights = list(model.parameters())
        expected = torch.autograd.grad(plain, weights)
        loss.backward()
        norm = sum(g.square().sum() for g in expected).sqrt()
        gap = sum((w.grad - g).square().sum() for w, g in zip(weights, expected, strict=True)).sqrt()
        loss_gaps.append(abs(float(loss.detach() / plain.detach()) - 1))
        gradient_gaps.append(float(gap / norm))
        optimizer.step()
        optimizer.zero_grad()
        curve.append(loss.item())
    assert curve[-1] < 0.8 * curve[0]  # it learns
    assert max(gradient_gaps) > 0  # the plain part was called
    # rounding may tip the choice of a code now and then: such an update is another one
    assert sorted(loss_gaps)[-3] < 2e-6
    assert sorted(gradient_gaps)[-3] < 2e-4
