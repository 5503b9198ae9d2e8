"""What is timed: one step of a task by speechssl, on utterances that are in memory already."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.data.loader import Item
from speechssl.data.manifest import read_manifest
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives import Objective, ctc, wav2vec2
from speechssl.objectives.recipe import OptimConfig
from speechssl.sound import audio
from speechssl.text.decode import best_path
from speechssl.text.tokenizer import CharTokenizer
from speechssl.train.optim import build_optimizer
from speechssl.train.recipe import parse_recipe
from speechssl.use.api import SpeechModel
from speechssl.use.embed import embed_to_parquet, embed_waves
from speechssl.use.stream import BATCH
from speechssl.use.transcribe import transcribe_files

RECIPES = Path(__file__).resolve().parents[1]
SIZES = {
    "tiny": RECIPES / "speed" / "tiny.toml",
    "base": RECIPES / "base" / "pretrain.toml",
    "large": RECIPES / "large" / "pretrain.toml",
}
LETTERS = {token: i for i, token in enumerate(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"])}
SPEECH_RATE = 14  # characters per second of read English


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One benchmark, the same for all systems. seconds: lengths of the utterances, cut from the clips of `data`; empty: every
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
    def recipe(self) -> Any:
        """The pretraining recipe of that size."""
        return parse_recipe("pretrain", SIZES[self.size], ["--train.seed", str(self.seed)])

    @property
    def config(self) -> Wav2Vec2Config:
        """The architecture; no layer is dropped, so that every step is the same work."""
        return replace(self.recipe.model, layerdrop=0.0)

    @property
    def autocast(self) -> torch.autocast:
        """The precision, as a context."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")


def utterances(spec: Spec) -> list[np.ndarray]:
    """Real speech cut to the lengths of `spec`; where a clip is too short, the next one is appended."""
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
    """Random texts as long as transcripts of such speech; the words make no difference to the time."""
    rng = np.random.default_rng(spec.seed)
    letters = list(LETTERS)[1:]
    return ["".join(rng.choice(letters, max(1, int(seconds * SPEECH_RATE)))) for seconds in spec.seconds]


def tokenizer() -> CharTokenizer:
    """The characters of English transcripts."""
    return CharTokenizer(dict(LETTERS))


def files(spec: Spec) -> list[Path]:
    """The audio files of the folder, in order of their names."""
    return sorted(path for path in Path(spec.data).rglob("*") if path.suffix.lower() in audio.EXTENSIONS)


def durations(spec: Spec) -> list[float]:
    """Seconds of every utterance, or of every file of the folder."""
    return list(spec.seconds) or [audio.info(path).duration for path in files(spec)]


def timed(step: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of one step, and its result."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    value = step()
    wait()
    return time.perf_counter() - began, value


def ours(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """(one step, the keyword arguments that flops.step_flops needs besides the lengths)."""
    torch.manual_seed(spec.seed)
    return training(spec) if spec.task in ("pretrain", "finetune") else inference(spec)


def training(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Forward, backward, AdamW: the training loop without its gradient norm and its log."""
    objective = pretraining(spec) if spec.task == "pretrain" else finetuning(spec)
    objective.to(spec.device).train()
    optimizer = build_optimizer(objective, {}, OptimConfig())
    texts = transcripts(spec)
    items = [Item(wave_S=w, id=str(i), epoch=0, text=texts[i]) for i, w in enumerate(utterances(spec))]
    batch = objective.collate(items).to(spec.device)

    def step() -> None:
        with spec.autocast:
            shared = objective.before_update(0, [batch])
            result = objective(batch, shared)
        (result.loss / batch.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update(0, shared)

    return step, {"masked": getattr(batch, "masked", ()), "vocab": len(LETTERS)}


def pretraining(spec: Spec) -> Objective:
    """The pretraining objective of that size."""
    return wav2vec2.Wav2Vec2(spec.recipe, Wav2Vec2ForPreTraining(spec.config))


def finetuning(spec: Spec) -> Objective:
    """The CTC objective after its first updates, in which only the output layer learns."""
    model = Wav2Vec2ForCTC(replace(spec.config, feat_proj_dropout=0.0, attention_dropout=0.0), len(LETTERS))
    return ctc.CTC(ctc.Recipe(objective=ctc.CTCObjectiveConfig(freeze_steps=0)), model, tokenizer())


def inference(spec: Spec) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Embeddings (mean of the last layer) or transcripts of the utterances, or of the files of the folder."""
    embeds = spec.task == "embed"
    net = Wav2Vec2Encoder(spec.config) if embeds else Wav2Vec2ForCTC(spec.config, len(LETTERS))
    model = SpeechModel(net.eval(), None if embeds else tokenizer(), {}, spec.size, precision=spec.dtype)
    model = model.to(spec.device)
    if not spec.seconds:
        return folder_pass(spec, model), {}
    waves = utterances(spec)

    def step() -> None:
        answers(model, waves, embeds)

    return step, {"vocab": len(LETTERS)}


def answers(model: SpeechModel, waves: Sequence[np.ndarray], embeds: bool) -> list:
    """The vectors or transcripts that users get for arrays, in packed batches of the size that the commands use, in order."""
    limit = BATCH[model.device.type] * audio.SAMPLE_RATE
    found, batch = [], []
    for index, wave_S in enumerate(waves):
        batch.append(wave_S)
        last = index + 1 == len(waves)
        if not last and sum(map(len, batch)) + len(waves[index + 1]) <= limit:
            continue
        if embeds:
            found += embed_waves(model, batch, layer="last", pool="mean")
        else:
            found += [best_path(log_probs_TV.argmax(dim=1), tokenizer()) for log_probs_TV in model.log_probs(batch)]
        batch = []
    return found


def folder_pass(spec: Spec, model: SpeechModel) -> Callable[[], Any]:
    """The command that a user would run: every file of the folder, decoding and writing included."""

    def step() -> None:
        with tempfile.TemporaryDirectory() as out:
            if spec.task == "embed":
                embed_to_parquet(model, [Path(spec.data)], Path(out) / "e.parquet")
            else:
                transcribe_files(model, files(spec), out=Path(out))

    return step
