"""A loaded model as users hold it: `speechssl.load(path)`, then `.embed`, `.transcribe`, `.hidden_states`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.packed import Packed, pack, segments
from speechssl.interop.source import read, write
from speechssl.models.byols.model import ByolsModel
from speechssl.models.checkpoint import build, checkpoint_of, extra_tensors
from speechssl.models.wav2vec2.model import (
    Headless,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
)
from speechssl.sound import audio
from speechssl.text.tokenizer import CharTokenizer

PRECISIONS = ("float32", "bf16")


class SpeechModel:
    """A pretrained or fine-tuned model in evaluation mode. The results for a clip never depend on the other clips."""

    def __init__(
        self,
        model: Any,
        tokenizer: CharTokenizer | None,
        facts: dict[str, Any],
        source: str,
        extra: dict[str, Tensor] | None = None,
        precision: str = "float32",
    ) -> None:
        """facts: the config.json it came with. extra: tensors of the file that the model has no use for, kept for `save`.
        precision: float32, or bf16 for matrix products in 16 bits."""
        self.precision = precision
        self.model, self.tokenizer, self.facts, self.source, self.extra = model, tokenizer, facts, source, extra or {}

    @property
    def config(self) -> Any:
        """The architecture: Wav2Vec2Config, or ByolsConfig."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def frame_rate(self) -> float:
        """Frames per second (50 for wav2vec 2.0, 12.5 or 6.25 for BYOL-S)."""
        return audio.SAMPLE_RATE / self.config.geometry.hop

    def run(self, module: Any, waves: Sequence[np.ndarray]) -> tuple[Any, Packed]:
        """What a module of a wav2vec 2.0 model makes of utterances (S,) at 16 kHz, in the model's precision, and how they were
        packed."""
        batch = pack(waves, self.config.geometry, normalise=self.config.do_normalize).to(self.device)
        with self.autocast():
            return module(batch), batch

    def autocast(self) -> torch.autocast:
        """The model's precision, as a context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def to(self, device: str) -> "SpeechModel":
        """Move the weights; returns the model itself."""
        self.model.to(device)
        return self

    def untrained(self, seed: int = 1) -> "SpeechModel":
        """The same network with random weights (and the same input normalisation): the baseline of every score."""
        kind = type(self.model) if isinstance(self.model, (ByolsModel, Wav2Vec2ForPreTraining)) else Headless
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh: Any = kind(self.config)
        if isinstance(self.model, ByolsModel):
            fresh.mel_stats.copy_(self.model.mel_stats)
        source = f"{self.source}, random weights"
        return SpeechModel(fresh.to(self.device).eval(), None, {}, source, precision=self.precision)

    def fingerprint(self) -> str:
        """A hash that tells this model from others and from what it was before more training: sizes, letters, precision, and the
        first values of every tensor."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.config, self.precision, self.tokenizer and self.tokenizer.vocab)).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.flatten()[:8].tolist()}".encode())
        return digest.hexdigest()

    @torch.inference_mode()
    def hidden_states(self, waves: Sequence[np.ndarray], layers: Sequence[int] | None = None) -> list[Tensor]:
        """Per utterance (S,) at 16 kHz: (L + 1, T, D) float32; 0 is the input of the first layer, L the last output.
        layers: only these, in this order. BYOL-S has one state, its frames."""
        if isinstance(self.model, ByolsModel):
            with self.autocast():
                found = self.model.hidden_states(waves)
            return [frames_1TD.float().cpu()[slice(None) if layers is None else list(layers)] for frames_1TD in found]
        encoded, batch = self.run(self.model.wav2vec2, waves)
        chosen = encoded.states if layers is None else [encoded.states[layer] for layer in layers]
        states_LTD = torch.stack(chosen).float().cpu()
        return [states_LTD[:, rows] for rows in segments(batch.frames)]

    @property
    def adds_maximum(self) -> bool:
        """How this model's authors make one vector of frames: mean + maximum (most BYOL-S), or the mean alone."""
        return isinstance(self.model, ByolsModel) and self.config.pool == "mean+max"

    @torch.inference_mode()
    def log_probs(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Per utterance (S,) at 16 kHz: CTC log-posteriors (T, V) float32. InputError without a CTC head."""
        self.require_head()
        log_probs_TV, batch = self.run(self.model, waves)
        log_probs_TV = log_probs_TV.cpu()
        return [log_probs_TV[rows] for rows in segments(batch.frames)]

    def require_head(self) -> None:
        """InputError unless the model has a CTC head."""
        if not isinstance(self.model, Wav2Vec2ForCTC):
            raise InputError(
                f"{self.source} has no CTC head and cannot transcribe; make one with "
                "`speechssl finetune RECIPE.toml --init MODEL --train labelled.tsv --out RUN`"
            )

    def require_tokenizer(self) -> None:
        """InputError unless the model can transcribe."""
        self.require_head()
        if self.tokenizer is None:
            raise InputError(
                f"{self.source} has no vocabulary, so it cannot transcribe; put its vocab.json (fairseq: dict.ltr.txt) beside "
                "the weights, or fine-tune it with `speechssl finetune`"
            )

    @torch.inference_mode()
    def class_logits(self, waves: Sequence[np.ndarray]) -> Tensor:
        """(B, classes) of utterances (S,) at 16 kHz, for a model with a classifier. InputError without one."""
        if not isinstance(self.model, Wav2Vec2ForSequenceClassification):
            raise InputError(f"{self.source} has no classifier; `speechssl embed` and `probe` work with every model")
        return self.run(self.model, waves)[0].float().cpu()

    def embed(self, source: Any, *, layer: int | str = "last", pool: str = "model", sample_rate: int | None = None):
        """One clip (path, file object, array or tensor) -> numpy array; see speechssl.use.embed for layer and pool."""
        from speechssl.use.embed import embed_clip

        return embed_clip(self, source, layer=layer, pool=pool, sample_rate=sample_rate)

    def transcribe(self, source: Any, **options: Any):
        """One clip of any length -> Transcript (text, words with times); options as in speechssl.use.transcribe."""
        from speechssl.use.transcribe import transcribe

        self.require_tokenizer()
        return transcribe(self, source, **options)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a model folder that speechssl opens, and transformers too unless it is BYOL-S; half: weights in 16 bits."""
        write(Path(folder), checkpoint_of(self.model, self.tokenizer, self.facts, self.extra), half=half)


def load(source: str | Path, *, device: str = "cpu", precision: str = "float32") -> SpeechModel:
    """Open a run, a folder of transformers' (wav2vec2, hubert, wavlm, data2vec-audio), a file of fairseq's, torchaudio's or
    BYOL-S's authors, a shipped name or a hub id; `MODEL@LANGUAGE` with an adapter of MMS. precision bf16: several times
    faster where the processor knows it, equal but for rounding. InputError says what is wrong."""
    device = dist.usable(device)
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    checkpoint = read(source)
    model = build(checkpoint)
    extra = extra_tensors(checkpoint, model)
    return SpeechModel(model, checkpoint.tokenizer, checkpoint.raw, str(source), extra, precision).to(device)
