"""The same steps by transformers and torchaudio, driven as well as their documentation allows: padded batches, each with its
attention mask or lengths, sorted by length, the fastest of several batch sizes, fused AdamW."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.bench.work import LETTERS, Spec, files, tokenizer, transcripts, utterances
from speechssl.core.errors import InputError
from speechssl.sound import audio
from speechssl.text.decode import best_path

BATCHES = (1, 2, 4, 8, 16, 32)


def padded(waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Waves (B, S) with zeros behind, and their lengths (B)."""
    tensors = [torch.from_numpy(wave_S) for wave_S in waves]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(wave) for wave in waves])


def build(system: str, spec: Spec) -> Callable[[], Any]:
    """One step of that system, or an InputError that says why there is none."""
    torch.manual_seed(spec.seed)
    if spec.task == "pretrain":
        return transformers_pretraining(spec) if system == "transformers" else refuse(system, spec)
    net, frames = network(system, spec)
    net.to(spec.device)
    return finetuning(spec, net, frames) if spec.task == "finetune" else inference(spec, net.eval(), frames)


def refuse(system: str, spec: Spec) -> Callable[[], Any]:
    """InputError: that system has nothing to compare with."""
    raise InputError(f"{system} has no {spec.task} step for wav2vec 2.0; compare with --against transformers")


def optimiser(net: torch.nn.Module) -> torch.optim.Optimizer:
    """As fast as torch has it."""
    return torch.optim.AdamW(net.parameters(), 1e-4, fused=True)


def transformers_config(spec: Spec, **changes: Any) -> Any:
    """Our architecture as theirs; the field names are the same."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(**asdict(replace(spec.config, **changes)), apply_spec_augment=False)


def transformers_pretraining(spec: Spec) -> Callable[[], Any]:
    """Wav2Vec2ForPreTraining with the masks and distractors that transformers' own example draws in its collator."""
    from transformers import Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    net: Any = Wav2Vec2ForPreTraining(transformers_config(spec))
    net.to(spec.device).train()
    wave_BS, length_B = padded(utterances(spec))
    sounding_BS = (torch.arange(wave_BS.shape[1]) < length_B[:, None]).long()
    frames = int(net._get_feat_extract_output_lengths(wave_BS.shape[1]))
    sounding_BT = net._get_feature_vector_attention_mask(frames, sounding_BS)
    np.random.seed(spec.seed)  # noqa: NPY002 - theirs
    mask_BT = _compute_mask_indices((len(wave_BS), frames), 0.65, 10, attention_mask=sounding_BT, min_masks=2)
    others = _sample_negative_indices((len(wave_BS), frames), 100, mask_time_indices=mask_BT)
    inputs = {"input_values": wave_BS, "attention_mask": sounding_BS}
    inputs |= {"mask_time_indices": torch.from_numpy(mask_BT), "sampled_negative_indices": torch.from_numpy(others)}
    inputs = {name: value.to(spec.device) for name, value in inputs.items()}
    optimizer = optimiser(net)

    def step() -> None:
        with spec.autocast:
            loss = net(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def network(system: str, spec: Spec) -> tuple[torch.nn.Module, Callable]:
    """(the network, (waves, lengths) -> frames or logits (B, T, ...) and how many frames of each are valid)."""
    vocab = None if spec.task == "embed" else len(LETTERS)
    if system == "transformers":
        from transformers import Wav2Vec2ForCTC, Wav2Vec2Model

        quiet = {"feat_proj_dropout": 0.0, "attention_dropout": 0.0}
        config = transformers_config(spec, **quiet)
        config.vocab_size = vocab or 32
        theirs: Any = Wav2Vec2ForCTC(config) if vocab else Wav2Vec2Model(config)

        def run(wave_BS: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
            sounding_BS = (torch.arange(wave_BS.shape[1], device=wave_BS.device) < length_B[:, None]).long()
            found = theirs(wave_BS, attention_mask=sounding_BS)
            return found[0], theirs._get_feat_extract_output_lengths(length_B)

        return theirs, run
    theirs = torchaudio_model(spec, vocab)
    return theirs, lambda wave_BS, length_B: theirs(wave_BS, length_B)


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


def finetuning(spec: Spec, net: torch.nn.Module, run: Callable) -> Callable[[], Any]:
    """A CTC step with the convolutions left as they are."""
    net.train()
    getattr(net, "wav2vec2", net).feature_extractor.requires_grad_(False)
    wave_BS, length_B = (x.to(spec.device) for x in padded(utterances(spec)))
    targets = [tokenizer().encode(text) for text in transcripts(spec)]
    flat = torch.tensor([i for ids in targets for i in ids], device=spec.device)
    lengths = torch.tensor([len(ids) for ids in targets], device=spec.device)
    optimizer = optimiser(net)

    def step() -> None:
        with spec.autocast:
            logits_BTV, frames_B = run(wave_BS, length_B)
        log_probs = logits_BTV.float().log_softmax(-1).transpose(0, 1)
        F.ctc_loss(log_probs, flat, frames_B, lengths, zero_infinity=True).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(spec: Spec, net: torch.nn.Module, run: Callable) -> Callable[[], Any]:
    """Embeddings or transcripts at the fastest of several batch sizes, found before the clock starts."""
    text = tokenizer()
    waves = utterances(spec) if spec.seconds else []
    paths = [] if spec.seconds else files(spec)
    lengths = [len(wave_S) for wave_S in waves] or [soundfile.info(path).frames for path in paths]
    order = np.argsort(lengths)[::-1]

    @torch.inference_mode()
    def some(numbers: Sequence[int]) -> list:
        chosen = [waves[i] if waves else audio.load(paths[i]) for i in numbers]
        wave_BS, length_B = (x.to(spec.device) for x in padded(chosen))
        with spec.autocast:
            frames_BTV, frames_B = run(wave_BS, length_B)
        pieces = [piece[:n].float() for piece, n in zip(frames_BTV, frames_B.tolist(), strict=True)]
        if spec.task == "embed":
            return [piece.mean(dim=0).cpu().numpy() for piece in pieces]
        return [best_path(piece.argmax(dim=1), text) for piece in pieces]

    def at(size: int, numbers: np.ndarray) -> float:
        began = time.perf_counter()
        for first in range(0, len(numbers), size):
            some(numbers[first : first + size].tolist())
        return time.perf_counter() - began

    trial = order if waves else order[:: max(1, len(order) // 64)]
    size = min((size for size in BATCHES if size < 2 * len(order)), key=lambda size: at(size, trial))

    def step() -> int:
        at(size, order)
        return size

    return step
