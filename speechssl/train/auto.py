"""Which fine-tuning recipe fits, by the hours of labels, the size of the network and the memory of the machine."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from speechssl.core import dist
from speechssl.core.config import on_command_line, parse_overrides
from speechssl.data.marked import read_parts
from speechssl.objectives import OBJECTIVES
from speechssl.objectives.recipe import Recipe
from speechssl.train.recipe import parse_recipe
from speechssl.train.run import Paths, read_start

SIZES = {"small": 6 * 256, "base": 12 * 768, "large": 24 * 1024}  # layers times width
HOURS = {
    "words": {"small-digits": 2 / 60, "small-words": 100 / 60},
    "small": {"small-sentences": 1.0},
    **{s: {f"{s}-{name}": hours for name, hours in (("10m", 1 / 6), ("1h", 1), ("10h", 10), ("100h", 100), ("960h", 960))}
       for s in ("base", "large")},
}  # fmt: skip
WORD = 2.0  # seconds: clips that are shorter on average are isolated words
PASSES = 2  # in which networks of the size of `small` hear every clip at least
ROOM = (
    60_000  # seconds at once x layers x width / GiB: what fairseq's 200 s of BASE and 80 s of LARGE on 32 GiB come to
)
AT_ONCE = 20.0  # seconds, a long sentence: where less has room, layers are computed again in the backward pass


class Situation(NamedTuple):
    """hours: of labelled audio. mean_seconds: of a clip. layers, width, weights: of the network. memory: GiB that a process may
    fill."""

    hours: float
    mean_seconds: float
    layers: int
    width: int
    weights: int
    memory: float


def nearest(value: float, known: Mapping[str, float]) -> str:
    """The name whose number has the smallest ratio to `value`."""
    return min(known, key=lambda name: abs(math.log(known[name] / max(value, 1e-6))))


def choose(now: Situation) -> tuple[str, dict[str, float | bool]]:
    """(the name of the recipe, the values by which it fits to data and machine): the nearest hours among those for the nearest
    size. A published update keeps its seconds, by accumulation over micro-batches that fit into the memory."""
    size = nearest(now.layers * now.width, SIZES)
    if size == "small":
        name = nearest(now.hours, HOURS["words" if now.mean_seconds < WORD else "small"])
        recipe = parse_recipe("finetune", Path(name))
        steps = math.ceil(PASSES * now.hours * 3600 / recipe.data.batch_seconds)
        return name, {"train.steps": steps} if steps > recipe.train.steps else {}
    left = now.memory - 16 * now.weights / 2**30  # weights, gradients and two moments in float32
    seconds = round(ROOM * max(left, 0) / (now.layers * now.width))
    recompute: dict[str, float | bool] = {"train.gradient_checkpointing": True} if seconds < AT_ONCE else {}
    return nearest(now.hours, HOURS[size]), {"data.micro_seconds": max(seconds, AT_ONCE)} | recompute


def situation(paths: Paths, device: str) -> Situation:
    """What there is to learn from, what shall learn, and where."""
    rows, _ = read_parts(paths.train, paths.valid, paths.where, lambda line: None)
    labelled_R = np.array([bool(text.strip()) for text in rows.column("text")])
    seconds_R = np.nan_to_num(rows.durations[labelled_R])
    start = read_start(OBJECTIVES["ctc"], replace(paths, scratch=False))
    assert start is not None
    return Situation(
        hours=float(seconds_R.sum()) / 3600,
        mean_seconds=float(seconds_R.mean()) if len(seconds_R) else 0.0,
        layers=start.config.num_hidden_layers,
        width=start.config.hidden_size,
        weights=sum(value.numel() for value in start.state.values()),
        memory=memory_of(dist.usable(device)),
    )


def memory_of(device: str) -> float:
    """GiB that a process may fill: a GPU, or its share of half of the machine's memory."""
    if device != "cpu":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return whole / 2 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def auto_recipe(paths: Paths, overrides: Sequence[str]) -> Recipe:
    """The recipe that fits the labels, the model and the machine; overrides have the last word. Says what was chosen, and why."""
    said = parse_overrides(OBJECTIVES["ctc"].Recipe(), overrides)
    now = situation(paths, str(said.get("train.device", "auto")))
    name, fitted = choose(now)
    words = [word for key, value in fitted.items() for word in (f"--{key}", on_command_line(value))]
    recipe = parse_recipe("finetune", Path(name), [*words, *overrides], scratch=paths.scratch)
    seconds = min(recipe.data.batch_seconds, now.hours * 3600)
    if os.environ.get("RANK", "0") == "0":
        labels = f"{now.hours:.2g} h of labels in clips of {now.mean_seconds:.1f} s"
        heard = recipe.train.steps * seconds / 3600
        length = f"{recipe.train.steps:,} updates of {seconds:.0f} s, {heard:,.{0 if heard > 10 else 2}f} h to hear"
        fit = f", with {' '.join(words)} for this data and machine" if words else ""
        network = f"{now.layers} layers of width {now.width}"
        print(f"auto: {labels} and {network}: recipe {name}, {length}{fit}", file=sys.stderr)
    return recipe
