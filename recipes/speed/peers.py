"""The same steps by transformers and torchaudio, used as their documentation recommends: utterances sorted by length, padded
batches with attention masks or lengths, the fastest of several batch sizes, fused AdamW.

A training step goes over all utterances in batches, adds up their gradients, and ends with one update of the optimiser.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from work import LETTERS, Spec, durations, files, timed, tokenizer, transcripts, utterances

from speechssl.sound import audio
from speechssl.text.decode import best_path

SIZES = (1, 2, 4, 8, 16, 32)
SLOWER = 1.05  # a batch size slower than the best by this factor ends the search

Numbers = tuple[int, ...]  # which utterances form a batch
Step = Callable[[Sequence[Numbers]], Any]  # a step over all these batches
Network = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # waves, lengths -> frames or logits (B, T, ...), valid frames


def build(system: str, spec: Spec) -> Callable[[], int]:
    """One step of that system over all utterances, which returns the batch size."""
    torch.manual_seed(spec.seed)
    if spec.task == "pretrain":
        step = pretraining(spec)
    elif spec.task == "finetune":
        step = finetuning(spec, *network(system, spec))
    else:
        step = inference(spec, *network(system, spec))
    order = np.argsort(durations(spec))[::-1].tolist()
    size = best_size(step, order if spec.seconds else order[:: max(1, len(order) // 64)], spec.device)

    def run() -> int:
        step(batches(order, size))
        return size

    return run


def batches(order: Sequence[int], size: int) -> list[Numbers]:
    """`order` in groups of `size`."""
    return [tuple(order[first : first + size]) for first in range(0, len(order), size)]


def best_size(step: Step, order: Sequence[int], device: str) -> int:
    """The fastest batch size: each is run twice, and its faster run counts."""

    def seconds(size: int) -> float:
        return min(timed(lambda: step(batches(order, size)), device)[0] for _ in range(2))

    return fastest(seconds, [size for size in SIZES if size < 2 * len(order)])


def fastest(seconds: Callable[[int], float], sizes: Sequence[int]) -> int:
    """The size with the least `seconds`.

    The search goes up and ends at a size that is clearly slower or does not fit on the GPU: on a CPU, a process that asks for too
    much memory is killed.
    """
    best, least = sizes[0], float("inf")
    for size in sizes:
        try:
            found = seconds(size)
        except torch.OutOfMemoryError:
            break
        if found < least:
            best, least = size, found
        elif found > SLOWER * least:
            break
    return best


def padded(waves: Sequence[np.ndarray], device: str) -> tuple[Tensor, Tensor]:
    """Waves (B, S) with zeros behind them, and their lengths (B)."""
    tensors = [torch.from_numpy(wave_S) for wave_S in waves]
    wave_BS = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return wave_BS.to(device), torch.tensor([len(wave_S) for wave_S in waves], device=device)


def attention_mask(wave_BS: Tensor, length_B: Tensor) -> Tensor:
    """1 on samples, 0 on padding (B, S)."""
    return (torch.arange(wave_BS.shape[1], device=wave_BS.device) < length_B[:, None]).long()


def training(net: torch.nn.Module, loss: Callable[[Numbers], Tensor]) -> Step:
    """A step of AdamW. loss: the summed loss of a batch."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)

    def step(groups: Sequence[Numbers]) -> None:
        for numbers in groups:
            loss(numbers).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pretraining(spec: Spec) -> Step:
    """Wav2Vec2ForPreTraining with masks and distractors drawn as in the collator of the pretraining example that transformers
    ships, before the clock starts, since there loader workers draw them."""
    from transformers import Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    net: Any = Wav2Vec2ForPreTraining(transformers_config(spec))
    net.to(spec.device).train()
    waves = utterances(spec)
    np.random.seed(spec.seed)  # noqa: NPY002 - they draw from numpy's global generator

    @cache
    def inputs(numbers: Numbers) -> dict[str, Tensor]:
        wave_BS, length_B = padded([waves[i] for i in numbers], "cpu")
        sounding_BS = attention_mask(wave_BS, length_B)
        frames = int(net._get_feat_extract_output_lengths(wave_BS.shape[1]))
        sounding_BT = net._get_feature_vector_attention_mask(frames, sounding_BS)
        shape = (len(numbers), frames)
        mask_BT = _compute_mask_indices(shape, 0.65, 10, attention_mask=sounding_BT, min_masks=2)
        others_BTK = _sample_negative_indices(shape, 100, mask_time_indices=mask_BT)
        found = {"input_values": wave_BS, "attention_mask": sounding_BS}
        found["mask_time_indices"] = torch.from_numpy(mask_BT)
        found["sampled_negative_indices"] = torch.from_numpy(others_BTK)
        return {name: value.to(spec.device) for name, value in found.items()}

    def loss(numbers: Numbers) -> Tensor:
        with spec.autocast:
            return net(**inputs(numbers)).loss

    return training(net, loss)


def network(system: str, spec: Spec) -> tuple[torch.nn.Module, Network]:
    """The network of a system, and the function that computes its frames (embed) or logits."""
    vocab = None if spec.task == "embed" else len(LETTERS)
    if system == "torchaudio":
        net = torchaudio_model(spec, vocab).to(spec.device)
        return net, net
    from transformers import Wav2Vec2ForCTC, Wav2Vec2Model

    config = transformers_config(spec, feat_proj_dropout=0.0, attention_dropout=0.0)
    config.vocab_size = vocab or 32
    theirs: Any = Wav2Vec2ForCTC(config) if vocab else Wav2Vec2Model(config)
    theirs.to(spec.device)

    def run(wave_BS: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        found = theirs(wave_BS, attention_mask=attention_mask(wave_BS, length_B))
        return found[0], theirs._get_feat_extract_output_lengths(length_B)

    return theirs, run


def transformers_config(spec: Spec, **changes: Any) -> Any:
    """Our architecture in transformers' class; the field names are the same."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(**asdict(replace(spec.config, **changes)), apply_spec_augment=False)


def torchaudio_model(spec: Spec, vocab: int | None) -> torch.nn.Module:
    """Our architecture as torchaudio's."""
    from torchaudio.models import wav2vec2_model

    config = spec.config
    return wav2vec2_model(
        extractor_mode="group_norm" if config.feat_extract_norm == "group" else "layer_norm",
        extractor_conv_layer_config=list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)),
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.hidden_size,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.num_conv_pos_embeddings,
        encoder_pos_conv_groups=config.num_conv_pos_embedding_groups,
        encoder_num_layers=config.num_hidden_layers,
        encoder_num_heads=config.num_attention_heads,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.intermediate_size,
        encoder_ff_interm_dropout=config.activation_dropout,
        encoder_dropout=config.hidden_dropout,
        encoder_layer_norm_first=config.do_stable_layer_norm,
        encoder_layer_drop=0.0,
        aux_num_out=vocab,
    )


def finetuning(spec: Spec, net: torch.nn.Module, run: Network) -> Step:
    """CTC with the convolutions left as they are."""
    net.train()
    getattr(net, "wav2vec2", net).feature_extractor.requires_grad_(False)
    waves = utterances(spec)
    targets = [torch.tensor(tokenizer().encode(text)) for text in transcripts(spec)]

    @cache
    def inputs(numbers: Numbers) -> tuple[Tensor, ...]:
        chosen = [targets[i] for i in numbers]
        lengths = torch.tensor([len(target) for target in chosen], device=spec.device)
        return *padded([waves[i] for i in numbers], spec.device), torch.cat(chosen).to(spec.device), lengths

    def loss(numbers: Numbers) -> Tensor:
        wave_BS, length_B, flat, lengths = inputs(numbers)
        with spec.autocast:
            logits_BTV, frames_B = run(wave_BS, length_B)
        log_probs_TBV = logits_BTV.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_probs_TBV, flat, frames_B, lengths, reduction="sum", zero_infinity=True)

    return training(net, loss)


def inference(spec: Spec, net: torch.nn.Module, run: Network) -> Step:
    """Embeddings (mean over time) or transcripts (greedy), in the order of the batches."""
    net.eval()
    waves = utterances(spec) if spec.seconds else []
    paths = [] if spec.seconds else files(spec)
    finish = mean_vectors if spec.task == "embed" else greedy_texts

    @torch.inference_mode()
    def step(groups: Sequence[Numbers]) -> list:
        found = []
        for numbers in groups:
            clips = [waves[i] if waves else audio.load(paths[i]) for i in numbers]
            with spec.autocast:
                frames_BTV, frames_B = run(*padded(clips, spec.device))
            found += finish(frames_BTV.float(), frames_B.tolist())
        return found

    return step


def mean_vectors(frames_BTD: Tensor, counts: Sequence[int]) -> list[np.ndarray]:
    """The mean of the valid frames of each utterance."""
    return [frames_TD[:count].mean(dim=0).cpu().numpy() for frames_TD, count in zip(frames_BTD, counts, strict=True)]


def greedy_texts(logits_BTV: Tensor, counts: Sequence[int]) -> list[str]:
    """The greedy transcript of each utterance."""
    best_BT = logits_BTV.argmax(dim=2)
    return [best_path(best_T[:count], tokenizer()) for best_T, count in zip(best_BT, counts, strict=True)]
