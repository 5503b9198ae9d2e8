"""The data path: seconds of audio read per second of one core, and what a manifest of a million rows costs."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from speechssl.core.errors import InputError
from speechssl.core.memory import resident
from speechssl.core.packed import Packed, pack
from speechssl.data.loader import Item, MicroBatches
from speechssl.data.manifest import Manifest, Utterance, read_manifest
from speechssl.data.sampler import MicroBatch, Position, Updates
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.sound import audio

DATA = Path(__file__).resolve().parents[2] / "data"
CROPS = {"whole clips": 0.0, "crops of 15.6 s": 15.6, "crops of 0.95 s": 0.95}
FORMATS = {
    "flac 16 kHz": (16_000, 1, "flac", "PCM_16"),
    "opus 16 kHz": (16_000, 1, "ogg", "OPUS"),
    "flac 8 kHz": (8_000, 1, "flac", "PCM_16"),
    "flac 44.1 kHz": (44_100, 1, "flac", "PCM_16"),
    "flac 44.1 kHz stereo": (44_100, 2, "flac", "PCM_16"),
}


def measure(seconds: float = 1.0, rows: int = 1_000_000) -> dict[str, Any]:
    """Seconds of audio per second of CPU by case and format, each measured for `seconds`; the costs of a manifest."""
    if not (DATA / "librispeech.tsv").exists():
        raise InputError(f"the measurement needs the clips in {DATA}; run it from a checkout of the repository")
    with tempfile.TemporaryDirectory() as folder:
        clips = list(islice(read_manifest(DATA / "librispeech.tsv"), 40))
        waves = [audio.load(clip.path) for clip in clips]
        rates: dict[str, dict[str, float]] = {case: {} for case in CROPS}
        for name, form in FORMATS.items():
            short = [write(wave_S, Path(folder, f"{i}"), *form) for i, wave_S in enumerate(waves)]
            long = write(np.concatenate(waves), Path(folder, "long"), *form)
            for case, crop in CROPS.items():
                paths = [long] * len(clips) if crop else short
                rates[case][name] = round(rate(paths, crop, seconds))
        return {"seconds of audio per second of CPU": rates, "manifest": manifest(Path(folder, "m.tsv"), rows)}


def write(wave_S: np.ndarray, path: Path, sample_rate: int, channels: int, form: str, subtype: str) -> str:
    """Write a clip in some format, in blocks of a second: the encoders keep a block on the stack."""
    wave_S = soxr.resample(wave_S, audio.SAMPLE_RATE, sample_rate)
    with soundfile.SoundFile(path, "w", sample_rate, channels, subtype, format=form) as file:
        for first in range(0, len(wave_S), sample_rate):
            file.write(np.repeat(wave_S[first : first + sample_rate, None], channels, axis=1))
    return str(path)


class Packer:
    """Collates by packing only, as every objective does first."""

    def frame_labels(self, utterance: Utterance) -> None:
        """None: there are no labels to load."""

    def collate(self, items: Sequence[Item]) -> Packed:
        """Waves to a stream."""
        return pack([item.wave_S for item in items], Wav2Vec2Config().geometry)


def rate(paths: list[str], crop: float, seconds: float) -> float:
    """Seconds of audio that one core decodes, crops, resamples and packs per second of its time, as the loader does it."""
    rows = Manifest.of(
        Utterance(id=str(i), path=path, duration=audio.info(path).duration) for i, path in enumerate(paths)
    )
    dataset = MicroBatches(rows, Packer(), crop, seed=1)
    samples, began = 0, time.process_time()
    for number in count():
        chosen = tuple((8 * number + i) % len(rows) for i in range(8))
        samples += sum(dataset.batch(MicroBatch(rows=chosen, epoch=number)).samples)
        if time.process_time() - began > seconds:
            break
    return samples / audio.SAMPLE_RATE / (time.process_time() - began)


def manifest(path: Path, rows: int) -> dict[str, Any]:
    """Seconds of CPU and MiB that a manifest of `rows` rows costs, measured in a process of its own."""
    seconds_R = np.random.default_rng(1).uniform(1, 16, rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write("id\tpath\tduration\tspeaker\ttext\tsplit\n")
        for i, duration in enumerate(seconds_R):
            text = f"HE HOPED THERE WOULD BE STEW FOR DINNER ON DAY {i}"
            file.write(
                f"{i // 400}/{i:08d}\tclips/{i // 400}/{i:08d}.flac\t{duration:.3f}\t{i // 400}\t{text}\ttrain\n"
            )
    done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, check=True)
    return {"rows": rows, "file MiB": round(path.stat().st_size / 2**20), **json.loads(done.stdout)}


def cost(path: str) -> dict[str, float]:
    """Seconds of CPU to open a manifest, to cut an epoch into updates, to resume in the middle; MiB of memory."""
    before = resident("VmRSS")
    rows, opening = timed(lambda: read_manifest(path))
    kept, peak = resident("VmRSS") - before, resident("VmHWM") - before
    updates = Updates(seconds_R=rows.durations, batch_seconds=3200.0, micro_seconds=87.5, seed=1)
    sequence = updates.since(Position())
    _, first = timed(lambda: next(sequence))
    _, further = timed(lambda: list(islice(sequence, 100)))
    _, resuming = timed(lambda: next(updates.since(Position(epoch=1, index=len(rows) // 1000))))
    _, access = timed(lambda: [rows[i] for i in range(0, len(rows), max(1, len(rows) // 1000))])
    found = {"open": opening, "first update of an epoch": first, "each further update": further / 100}
    found |= {"resume in the middle of an epoch": resuming, "a row": access / 1000}
    sizes = {"MiB kept": kept, "MiB at most": peak, "MiB at most with sampling": resident("VmHWM") - before}
    return {**{name: round(value, 6) for name, value in found.items()}, **{k: round(v, 1) for k, v in sizes.items()}}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds of CPU that it took (not of the clock, as work.timed gives)."""
    began = time.process_time()
    value = work()
    return value, time.process_time() - began


if __name__ == "__main__":
    print(json.dumps(cost(sys.argv[1])))
