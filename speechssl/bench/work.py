"""What is timed: one step of a task by this package, on a batch that lies ready."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.data.manifest import read_manifest
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Headless, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives.ctc import CTCObjective, CTCObjectiveConfig
from speechssl.objectives.protocol import Item
from speechssl.objectives.wav2vec2 import Wav2Vec2Objective, Wav2Vec2ObjectiveConfig
from speechssl.sound import audio
from speechssl.text.decode import best_path
from speechssl.text.tokenizer import CharTokenizer
from speechssl.train.optim import build_optimizer
from speechssl.train.recipe import OptimConfig
from speechssl.use.api import SpeechModel
from speechssl.use.embed import embed_to_parquet, embed_waves
from speechssl.use.stream import BATCH
from speechssl.use.transcribe import transcribe_files

LARGE: dict[str, Any] = {
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_normalize": True,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
    "feat_proj_dropout": 0.0,
    "feat_quantizer_dropout": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
TINY: dict[str, Any] = {
    "conv_dim": (64,) * 7,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SIZES: dict[str, dict[str, Any]] = {"tiny": TINY, "base": {}, "large": LARGE}
LETTERS = {token: i for i, token in enumerate(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"])}
SPEECH_RATE = 14  # characters per second of read English


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One benchmark, the same for all systems. seconds: lengths of the utterances, cut from the clips of `data`; none: every
    step is a pass over the files of the folder `data`, decoding included."""

    task: str
    size: str
    dtype: str
    device: str
    threads: int
    seed: int
    data: str
    seconds: tuple[float, ...] = ()

    @property
    def config(self) -> Wav2Vec2Config:
        """The architecture; no layer is dropped, so that every step is the same work."""
        return Wav2Vec2Config(**{**SIZES[self.size], "layerdrop": 0.0})

    @property
    def autocast(self) -> torch.autocast:
        """The precision, as a context."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def utterances(spec: Spec) -> list[np.ndarray]:
    """Real speech, cut to the lengths asked for; a clip that is too short is followed by the next."""
    rows = list(read_manifest(Path(spec.data)))
    order = np.random.default_rng(spec.seed).permutation(len(rows))
    waves, ahead = [], np.zeros(0, dtype=np.float32)
    clips = iter(order.tolist() * 1000)
    for seconds in spec.seconds:
        samples = round(seconds * audio.SAMPLE_RATE)
        while len(ahead) < samples:
            row = rows[next(clips)]
            ahead = np.concatenate([ahead, audio.load(row.path, start=row.start, duration=row.duration)])
        waves.append(ahead[:samples])
        ahead = ahead[samples:]
    return waves


def transcripts(spec: Spec) -> list[str]:
    """Texts as long as such speech has them; what they say costs no time."""
    rng = np.random.default_rng(spec.seed)
    letters = list(LETTERS)[1:]
    return ["".join(rng.choice(letters, max(1, int(seconds * SPEECH_RATE)))) for seconds in spec.seconds]


def tokenizer() -> CharTokenizer:
    """English letters."""
    return CharTokenizer(dict(LETTERS))


def files(spec: Spec) -> list[Path]:
    """The audio files of the folder, in order of their names."""
    return sorted(path for path in Path(spec.data).rglob("*") if path.suffix.lower() in audio.EXTENSIONS)


def ours(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """(one step, facts that the count of its arithmetic needs)."""
    torch.manual_seed(spec.seed)
    return training(spec) if spec.task in ("pretrain", "finetune") else inference(spec)


def training(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Forward, backward, AdamW: what the training loop does but for its norm of the gradients and its log."""
    objective = pretraining(spec) if spec.task == "pretrain" else finetuning(spec)
    objective.to(spec.device).train()
    optimizer = build_optimizer(objective, [], OptimConfig())
    texts = transcripts(spec)
    items = [Item(wave_S=w, id=str(i), epoch=0, text=texts[i]) for i, w in enumerate(utterances(spec))]
    batch = objective.collate(items).to(spec.device)
    objective.start_step(0)

    def step() -> None:
        with spec.autocast:
            result = objective(batch)
        (result.loss / batch.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step()

    return step, {"masked": getattr(batch, "masked", ()), "vocab": len(LETTERS)}


def pretraining(spec: Spec) -> Wav2Vec2Objective:
    """The pretraining objective of that size."""
    config = Wav2Vec2ObjectiveConfig(feature_grad=1.0, penalty_weight=0.0) if spec.size == "large" else None
    return Wav2Vec2Objective(Wav2Vec2ForPreTraining(spec.config), config or Wav2Vec2ObjectiveConfig(), spec.seed)


def finetuning(spec: Spec) -> CTCObjective:
    """The CTC objective after the first updates, in which only the head learns."""
    model = Wav2Vec2ForCTC(replace(spec.config, feat_proj_dropout=0.0, attention_dropout=0.0), len(LETTERS))
    return CTCObjective(model, CTCObjectiveConfig(freeze_steps=0), tokenizer(), spec.seed)


def inference(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Embeddings (the mean of the last layer) or transcripts of the utterances, or of the files of the folder."""
    embeds = spec.task == "embed"
    net = Headless(spec.config) if embeds else Wav2Vec2ForCTC(spec.config, len(LETTERS))
    precision = "bf16" if spec.dtype == "bf16" else "float32"
    model = SpeechModel(net.eval(), None if embeds else tokenizer(), {}, spec.size, precision=precision).to(spec.device)
    if not spec.seconds:
        return folder_pass(spec, model), {}
    waves = utterances(spec)

    def step() -> None:
        answers(model, waves, embeds)

    return step, {"vocab": len(LETTERS)}


def answers(model: SpeechModel, waves: Sequence[np.ndarray], embeds: bool) -> list:
    """What users get for arrays, packed in batches as the commands do it, in the order of the waves."""
    found, group, total, batch_seconds = [], [], 0, BATCH[model.device.type]
    for index, wave_S in enumerate(waves):
        group, total = [*group, wave_S], total + len(wave_S)
        if index + 1 < len(waves) and total + len(waves[index + 1]) <= batch_seconds * audio.SAMPLE_RATE:
            continue
        if embeds:
            found += embed_waves(model, group, layer="last", pool="mean")
        else:
            found += [best_path(log_probs_TV.argmax(dim=1), tokenizer()) for log_probs_TV in model.log_probs(group)]
        group, total = [], 0
    return found


def folder_pass(spec: Spec, model: SpeechModel) -> Callable[[], Any]:
    """The command that a user would give: every file of the folder, decoding and writing included."""

    def step() -> None:
        with tempfile.TemporaryDirectory() as out:
            if spec.task == "embed":
                embed_to_parquet(model, [Path(spec.data)], Path(out) / "e.parquet")
            else:
                transcribe_files(model, files(spec), out=Path(out))

    return step
