"""What is timed: one step of a task by speechssl, on utterances that are in memory already."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechssl.data.loader import Item
from speechssl.data.tables import read_manifest
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives import ctc, wav2vec2
from speechssl.objectives.recipe import OptimConfig
from speechssl.sound import audio
from speechssl.text.tokenizer import CharTokenizer
from speechssl.train.optim import build_optimizer
from speechssl.train.recipe import parse_recipe
from speechssl.use.api import SpeechModel
from speechssl.use.embed import embed_waves
from speechssl.use.stream import BATCH

RECIPES = Path(__file__).resolve().parents[1]
CLIPS = RECIPES.parent / "data" / "librispeech_test.tsv"
SIZES = {name: RECIPES / name / "pretrain.toml" for name in ("small", "base", "large")}
SIZES["tiny"] = RECIPES / "speed" / "tiny.toml"
LETTERS = {token: i for i, token in enumerate(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"])}
SPEECH_RATE = 14  # characters per second of read English


@dataclass(frozen=True)
class Spec:
    """One benchmark, the same for both systems. seconds: lengths of the utterances."""

    task: str
    size: str
    dtype: str
    device: str
    threads: int
    seed: int
    seconds: tuple[float, ...]

    @property
    def samples(self) -> list[int]:
        """The lengths in samples."""
        return [round(seconds * audio.SAMPLE_RATE) for seconds in self.seconds]

    @property
    def recipe(self) -> Any:
        """The pretraining recipe of that size."""
        return parse_recipe("pretrain", SIZES[self.size], ["--train.seed", str(self.seed)])

    @property
    def config(self) -> Wav2Vec2Config:
        """The architecture; no layer is dropped, so that every step is the same work."""
        config = replace(self.recipe.model, layerdrop=0.0)
        return config if self.task == "pretrain" else replace(config, feat_proj_dropout=0.0, attention_dropout=0.0)

    @property
    def autocast(self) -> torch.autocast:
        """The precision, as a context."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == "bf16")


def lengths(low: float, high: float, total: float, seed: int) -> tuple[float, ...]:
    """Lengths in seconds, uniform between low and high, that add up to `total` or a little more."""
    rng, found = np.random.default_rng(seed), []
    while sum(found) < total:
        found.append(round(float(rng.uniform(low, high)), 2))
    return tuple(found)


def utterances(spec: Spec) -> list[np.ndarray]:
    """Clips of the repository, in random order and end to end, cut to the lengths of `spec`."""
    rows = list(read_manifest(CLIPS))
    order = np.random.default_rng(spec.seed).permutation(len(rows))
    sound_S = np.concatenate([audio.load(rows[i].path, start=rows[i].start, duration=rows[i].duration) for i in order])
    ends = np.cumsum(spec.samples)
    return np.split(np.resize(sound_S, ends[-1]), ends[:-1])


def transcripts(spec: Spec) -> list[str]:
    """Random texts as long as transcripts of such speech; the words make no difference to the time."""
    rng = np.random.default_rng(spec.seed)
    letters = list(LETTERS)[1:]
    return ["".join(rng.choice(letters, max(1, int(seconds * SPEECH_RATE)))) for seconds in spec.seconds]


def timed(step: Callable[[], Any], device: str) -> float:
    """Seconds of one step."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - began


def build(spec: Spec) -> tuple[Callable[[], Any], Sequence[int]]:
    """One step over all utterances, and how many frames it masks in each."""
    torch.manual_seed(spec.seed)
    return embedding(spec) if spec.task == "embed" else training(spec)


def training(spec: Spec) -> tuple[Callable[[], None], Sequence[int]]:
    """Forward, backward, AdamW: the training loop without its gradient norm and its log."""
    if spec.task == "pretrain":
        objective = wav2vec2.Wav2Vec2(spec.recipe, Wav2Vec2ForPreTraining(spec.config))
    else:  # after its first updates, in which only the output layer learns
        recipe = ctc.Recipe(objective=ctc.CTCObjectiveConfig(freeze_steps=0))
        objective = ctc.CTC(recipe, Wav2Vec2ForCTC(spec.config, len(LETTERS)), CharTokenizer(dict(LETTERS)))
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

    return step, getattr(batch, "masked", ())


def embedding(spec: Spec) -> tuple[Callable[[], list[np.ndarray]], Sequence[int]]:
    """The mean of the last layer's frames, in packed batches of the commands' size, in the order of the utterances."""
    model = SpeechModel(Wav2Vec2Encoder(spec.config).eval(), None, {}, spec.size, precision=spec.dtype).to(spec.device)
    limit = BATCH[model.device.type] * audio.SAMPLE_RATE
    batches = [[]]
    for wave_S in utterances(spec):
        if batches[-1] and sum(map(len, batches[-1])) + len(wave_S) > limit:
            batches.append([])
        batches[-1].append(wave_S)

    def step() -> list[np.ndarray]:
        return [vector for batch in batches for vector in embed_waves(model, batch, layer="last", pool="mean")]

    return step, ()
