"""The same steps by transformers, used as its documentation recommends: utterances sorted by length, padded batches with
attention masks, the fastest of several batch sizes, fused AdamW.

A training step goes over all utterances in batches, adds up their gradients, and ends with one update of the optimiser.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from work import LETTERS, Spec, timed, transcripts, utterances

SIZES = (1, 2, 4, 8, 16, 32)
SLOWER = 1.05  # a batch size slower than the best by this factor ends the search


def build(spec: Spec) -> tuple[Callable[[], Any], int]:
    """One step over all utterances, and the batch size that it found fastest."""
    torch.manual_seed(spec.seed)
    step = step_of(spec, network(spec))
    order = np.argsort(spec.seconds)[::-1].tolist()

    def run(size: int) -> None:
        step([tuple(order[first : first + size]) for first in range(0, len(order), size)])

    def seconds(size: int) -> float:
        return min(timed(lambda: run(size), spec.device) for _ in range(2))

    size = fastest(seconds, [size for size in SIZES if size < 2 * len(order)])
    return lambda: run(size), size


def fastest(seconds: Callable[[int], float], sizes: Sequence[int]) -> int:
    """The size with the least `seconds`.

    The search goes up and ends where a size is clearly slower or does not fit on the GPU: on a CPU, a process that asks for too
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


def network(spec: Spec) -> Any:
    """Our architecture in transformers' class; the names in its config are the same."""
    import transformers as hub

    names = {"pretrain": hub.Wav2Vec2ForPreTraining, "finetune": hub.Wav2Vec2ForCTC, "embed": hub.Wav2Vec2Model}
    config = hub.Wav2Vec2Config(**asdict(spec.config), vocab_size=len(LETTERS), apply_spec_augment=False)
    config.ctc_zero_infinity = True
    net: Any = names[spec.task](config)
    if spec.task == "finetune":
        net.freeze_feature_encoder()
    return net.to(spec.device).train(spec.task != "embed")


def step_of(spec: Spec, net: Any) -> Callable[[Sequence[tuple[int, ...]]], Any]:
    """A step over batches, each the numbers of some utterances; training finds its batches ready, as from a loader."""
    waves, texts = utterances(spec), transcripts(spec)
    np.random.seed(spec.seed)  # noqa: NPY002 - their masks are drawn from numpy's global generator

    def inputs(numbers: tuple[int, ...]) -> dict[str, Tensor]:
        wave_BS = pad_sequence([torch.from_numpy(waves[i]) for i in numbers], batch_first=True)
        length_B = torch.tensor([len(waves[i]) for i in numbers])
        sounding_BS = (torch.arange(wave_BS.shape[1]) < length_B[:, None]).long()
        found = {"input_values": wave_BS, "attention_mask": sounding_BS}
        if spec.task == "pretrain":
            found |= masks(spec, net, sounding_BS)
        if spec.task == "finetune":
            labels = [torch.tensor([LETTERS[letter] for letter in texts[i]]) for i in numbers]
            found["labels"] = pad_sequence(labels, batch_first=True, padding_value=-100)
        return {name: value.to(spec.device) for name, value in found.items()}

    @torch.inference_mode()
    def embed(groups: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        found = []
        for numbers in groups:
            with spec.autocast:
                frames_BTD = net(**inputs(numbers)).last_hidden_state.float()
            counts = net._get_feat_extract_output_lengths(torch.tensor([len(waves[i]) for i in numbers]))
            found += [frames_TD[:n].mean(dim=0).cpu().numpy() for frames_TD, n in zip(frames_BTD, counts, strict=True)]
        return found

    if spec.task == "embed":
        return embed
    ready, optimizer = cache(inputs), torch.optim.AdamW(net.parameters(), 1e-4, fused=True)

    def train(groups: Sequence[tuple[int, ...]]) -> None:
        for numbers in groups:
            with spec.autocast:
                loss = net(**ready(numbers)).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def masks(spec: Spec, net: Any, sounding_BS: Tensor) -> dict[str, Tensor]:
    """Masks and distractors as the collator of transformers' pretraining example draws them."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    objective = spec.recipe.objective
    shape = (len(sounding_BS), int(net._get_feat_extract_output_lengths(sounding_BS.shape[1])))
    sounding_BT = net._get_feature_vector_attention_mask(shape[1], sounding_BS)
    mask_BT = _compute_mask_indices(
        shape, objective.mask_prob, objective.mask_length, attention_mask=sounding_BT, min_masks=2
    )
    others_BTK = _sample_negative_indices(shape, objective.num_negatives, mask_time_indices=mask_BT)
    return {
        "mask_time_indices": torch.from_numpy(mask_BT),
        "sampled_negative_indices": torch.from_numpy(others_BTK),
    }
