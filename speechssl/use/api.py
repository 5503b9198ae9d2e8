"""A loaded model as users hold it: `speechssl.load(path)`, then `.embed`, `.transcribe`, `.align`, `.hidden_states`."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.interop.source import read
from speechssl.models import families
from speechssl.models.checkpoint import checkpoint_of, extra_tensors
from speechssl.models.folder import class_names
from speechssl.models.protocol import Encoder
from speechssl.sound import audio
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.sound.mix import EACH
from speechssl.text.tokenizer import CharTokenizer

PRECISIONS = ("float32", "bf16")


class SpeechModel:
    """A pretrained or fine-tuned model in evaluation mode. The results for a clip never depend on the other clips."""

    def __init__(
        self,
        model: Encoder,
        tokenizer: CharTokenizer | None,
        config_json: dict[str, Any],
        source: str,
        extra: dict[str, Tensor] | None = None,
        precision: str = "float32",
    ) -> None:
        """config_json: the config.json it came with. extra: tensors of the file that the model has no use for, kept for
        `save`. precision: float32, or bf16 for matrix products in 16 bits."""
        self.precision = precision
        self.model, self.tokenizer, self.config_json, self.source = model, tokenizer, config_json, source
        self.extra = extra or {}

    @property
    def config(self) -> Any:
        """The architecture, of the class that its family names."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def frame_rate(self) -> float:
        """Frames per second (50 for wav2vec 2.0, 12.5 or 6.25 for BYOL-S)."""
        return SAMPLE_RATE / self.model.geometry.hop

    def recorded(self, name: str) -> Any:
        """What training has written into config.json; None if nothing."""
        known = self.config_json.get("speechssl")
        return known.get(name) if isinstance(known, dict) else None

    @property
    def silence(self) -> float:
        """Seconds of silence that were joined to both ends of each clip in fine-tuning, and are in transcribing."""
        silence = self.recorded("silence")
        return float(silence) if isinstance(silence, (int, float)) and 0 <= silence <= 10 else 0.0

    @property
    def best_layer(self) -> int:
        """The layer that training found best, if config.json records one, else the last."""
        layer, last = self.recorded("layer"), self.model.layers - 1
        return layer if isinstance(layer, int) and 0 <= layer <= last else last

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inference in the model's precision; float32 convolutions are computed in float32 on a GPU too."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), autocast, dist.exact_convolutions():
            yield

    def to(self, device: str) -> "SpeechModel":
        """Move the weights; returns the model itself."""
        self.model.to(device)
        return self

    def untrained(self, seed: int = 1) -> "SpeechModel":
        """The same network with random weights (and the same input normalisation): the baseline of every score."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = self.model.untrained()
        source = f"{self.source}, random weights"
        layer = {"speechssl": {"layer": self.best_layer}}  # compared layer by layer
        return SpeechModel(fresh.to(self.device).eval(), None, layer, source, precision=self.precision)

    def fingerprint(self) -> str:
        """A hash that differs between models, and before and after more training of one: sizes, letters, precision, and the
        first values of every tensor."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.config, self.precision, self.tokenizer and self.tokenizer.vocab)).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.flatten()[:8].tolist()}".encode())
        return digest.hexdigest()

    def hidden_states(self, waves: Sequence[np.ndarray], layers: Sequence[int] | None = None) -> list[Tensor]:
        """Per utterance (S,) at 16 kHz: (L, T, D) float32. For wav2vec 2.0, 0 is the input of the first layer and the last
        one the output of the last; BYOL-S has one state, its frames. layers: only these, in this order."""
        with self.computing():
            return [states_LTD.float().cpu() for states_LTD in self.model.states(waves, layers)]

    def log_probs(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """Per utterance (S,) at 16 kHz: CTC log-posteriors (T, V) float32. InputError without a CTC head."""
        self.require_head()
        with self.computing():
            return [log_probs_TV.cpu() for log_probs_TV in self.model.log_probs(waves)]

    def posteriors(self, source: Any, **options: Any) -> Tensor:
        """CTC log-posteriors (T, V) of one clip of any length, natural logarithms: what `transcribe` decodes, for other decoders
        too. Column i is `tokenizer.labels[i]`, the blank `tokenizer.blank`, the word delimiter `tokenizer.delimiter`. Options as
        in speechssl.sound.windows.windows."""
        from speechssl.use.transcribe import posteriors

        self.require_tokenizer()
        return torch.cat(posteriors(self, source, **options))

    def require_head(self) -> None:
        """InputError unless the model has a CTC head."""
        if self.model.head != "CTC":
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

    def require_classes(self) -> None:
        """InputError unless the model has a classifier."""
        if self.model.head != "classes":
            raise InputError(
                f"{self.source} has no classifier; make one with `speechssl finetune recipes/classify/clips.toml --init MODEL "
                "--train labelled.tsv --out RUN`; `speechssl embed` and `probe` work with every model"
            )

    @property
    def classes(self) -> list[str]:
        """The names of the classifier's outputs, in order. InputError without a classifier."""
        self.require_classes()
        return class_names(self.config_json, len(self.model.get_parameter("classifier.weight")))

    def classify(self, source: Any, *, sample_rate: int | None = None, channel: str = "mix") -> dict[str, float]:
        """One clip, any source of speechssl.sound.audio.load -> the probability of each class; a longer clip than 30 s has the
        mean of its parts. InputError without a classifier."""
        from speechssl.use.classify import probabilities_of_long

        self.require_classes()
        probs_C = probabilities_of_long(self, source, sample_rate=sample_rate, channel=channel)
        return dict(zip(self.classes, probs_C.tolist(), strict=True))

    def class_logits(self, waves: Sequence[np.ndarray]) -> Tensor:
        """(B, classes) of utterances (S,) at 16 kHz, for a model with a classifier. InputError without one."""
        self.require_classes()
        with self.computing():
            return self.model.class_logits(waves).cpu()

    def embed(
        self,
        source: Any,
        *,
        layer: int | str = "best",
        pool: str = "model",
        sample_rate: int | None = None,
        channel: str = "mix",
    ):
        """One clip, any source of speechssl.sound.audio.load -> numpy array; see speechssl.use.embed for layer and pool.

        Several, as a list of sources or an array (B, S) -> one more axis in front; a list with pool="none". channel: as in load,
        or "each": several clips, one of each channel.
        """
        from speechssl.use.embed import embed_clip

        several = audio.several(source, channel)
        if several is None:
            return embed_clip(self, source, layer=layer, pool=pool, sample_rate=sample_rate, channel=channel)
        how: dict[str, Any] = {"layer": layer, "pool": pool, "sample_rate": sample_rate}
        found = [self.embed(part, channel=name, **how) for part, name in several]
        return found if pool == "none" else np.stack(found)

    def transcribe(self, source: Any, *, channel: str = "mix", **options: Any):
        """One clip of any length -> Transcript (text, words with times); options as in speechssl.use.transcribe.

        Several, as a list of sources or an array (B, S) -> a list. channel: as in audio.load, or "each": one Transcript with a
        speaker for each channel.
        """
        from speechssl.text.formats import dialogue
        from speechssl.use.transcribe import transcribe

        self.require_tokenizer()
        several = audio.several(source, channel)
        if several is None:
            return transcribe(self, source, channel=channel, **options)
        found = [self.transcribe(part, channel=name, **options) for part, name in several]
        if channel == EACH and audio.batch(source) is None:
            return dialogue({name: text for (_, name), text in zip(several, found, strict=True)})
        return found

    def stream(self, chunks: Any, **options: Any):
        """Chunks of audio as they come -> an iterator of Events, partial and final words; see speechssl.use.live.stream."""
        from speechssl.use.live import stream

        self.require_tokenizer()
        return stream(self, chunks, **options)

    def align(self, source: Any, text: str, *, gaps: bool = False, **options: Any):
        """The times of the words and letters of a text that is said in one clip of any length -> Transcript; see
        speechssl.use.align.align_clip for gaps and options."""
        from speechssl.use.align import align_clip

        return align_clip(self, source, text, gaps=gaps, **options)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a model folder that speechssl opens, and transformers too unless it is BYOL-S; half: weights in 16 bits."""
        checkpoint = checkpoint_of(self.model, self.tokenizer, self.config_json, self.extra)
        families.write(Path(folder), checkpoint, half=half)


def load(source: str | Path, *, device: str = "cpu", precision: str = "float32") -> SpeechModel:
    """Open a run, a model folder of any family, a file of fairseq, torchaudio or the authors of BYOL-S, any state dict, a shipped
    name or a hub id; `MODEL@LANGUAGE` with an adapter of MMS, `owner/name@REVISION` as it was at that revision. precision bf16:
    several times faster where the processor supports it, equal but for rounding. InputError says what is wrong."""
    device = dist.usable(device)
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r} is not known; use one of {', '.join(PRECISIONS)}")
    checkpoint = read(source)
    model = families.build(checkpoint)
    extra = extra_tensors(checkpoint, model)
    return SpeechModel(model, checkpoint.tokenizer, checkpoint.raw, str(source), extra, precision).to(device)
