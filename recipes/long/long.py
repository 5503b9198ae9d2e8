"""An hour of real speech in one file: is it transcribed as its utterances alone, in how much memory and time; what noise gives.

python recipes/long/long.py MODEL TABLE [--room ROOM.wav] [--noise NOISE.wav] [--minutes 60] [--where split=test]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

import speechssl
from speechssl.core.english import count
from speechssl.core.memory import forget_shapes
from speechssl.data.channels import segment_of
from speechssl.data.tables import read_manifest
from speechssl.score.evaluate import transcribe_manifest
from speechssl.score.wer import error_rates
from speechssl.sound import audio
from speechssl.use.transcribe import decoded, posteriors, transcribe

RATE = audio.SAMPLE_RATE


def room(path: Path | None, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """So many seconds of the noise of a room from a random place on; zeros without a path."""
    length = round(seconds * RATE)
    if path is None:
        return np.zeros(length, np.float32)
    noise_S = audio.load(path)
    return np.resize(np.roll(noise_S, -int(rng.integers(len(noise_S)))), length)


def concatenate(rows, minutes: float, noise: Path | None, out: Path) -> list[int]:
    """Write rows in random order, again and again, with 0.3 to 1 s of noise between them; returns which they are."""
    rng, used, written = np.random.default_rng(1), [], 0
    with soundfile.SoundFile(out, "w", RATE, 1, "PCM_16") as file:
        while written < minutes * 60 * RATE:
            for index in rng.permutation(len(rows)).tolist():
                if written >= minutes * 60 * RATE:
                    break
                wave_S = audio.load(rows[index].path, **segment_of(rows[index]))
                piece_S = np.concatenate([wave_S, room(noise, rng.uniform(0.3, 1.0), rng)])
                file.write(piece_S)
                used.append(index)
                written += len(piece_S)
    return used


def measured(model: str, path: Path) -> dict:
    """Transcribe a file in a process of its own: text, seconds, and the most memory in MiB."""
    command = [sys.executable, __file__, model, str(path), "--alone"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(model: str, path: Path) -> None:
    """What `measured` runs."""
    forget_shapes()  # as the command line does
    torch.set_num_threads(1)
    opened = speechssl.load(model)
    began = time.monotonic()
    found = transcribe(opened, path)
    seconds = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"text": found.text, "seconds": seconds, "memory": memory, "audio": found.duration}))


def long_file(model: str, rows, minutes: float, noise: Path | None, out: Path) -> None:
    """Print the error rates of the utterances alone and of them in one file, and what a sixth of the file and the whole take."""
    heard = transcribe_manifest(speechssl.load(model), rows)
    for length in (minutes / 6, minutes):
        path = out / f"{length:g}.flac"
        used = concatenate(rows, length, noise, path)
        texts = [rows[index].text for index in used]
        single = error_rates(texts, [heard[index].text for index in used])
        whole = measured(model, path)
        joint = error_rates([" ".join(texts)], [whole["text"]])
        speed = whole["seconds"] / whole["audio"]
        print(f"{length:g} min, {count(len(used), 'utterance')}", end=": ")
        print(f"CER {100 * single.cer.value:.2f} alone, {100 * joint.cer.value:.2f} in one file", end="; ")
        print(f"WER {100 * single.wer.value:.2f}, {100 * joint.wer.value:.2f}", end="; ")
        print(f"{whole['memory']:.0f} MiB, {speed:.3f} s per s of audio", flush=True)


def noise_only(model: str, rows, path: Path) -> None:
    """Print, for each --confidence, the words per minute that are heard in noise, and the error rates of the rows."""
    opened = speechssl.load(model)
    noise_TV = torch.cat(posteriors(opened, path))
    spoken = [torch.cat(posteriors(opened, row.path, **segment_of(row))) for row in rows]
    print("confidence  words per minute of noise  WER  CER")
    for confidence in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9):
        words = len(decoded(noise_TV, opened, None, confidence, np.zeros(0)).words)
        found = [decoded(log_probs_TV, opened, None, confidence, np.zeros(0)).text for log_probs_TV in spoken]
        rates = error_rates([row.text for row in rows], found)
        per_minute = 60 * words / audio.info(path).duration
        print(
            f"{confidence:.1f}  {per_minute:.1f}  {100 * rates.wer.value:.2f}  {100 * rates.cer.value:.2f}", flush=True
        )


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--room", type=Path, help="noise between the utterances; otherwise digital silence")
    parser.add_argument("--noise", type=Path, help="recording without speech, in which words are counted")
    parser.add_argument("--where", nargs="*", default=())
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--alone", action="store_true")
    args = parser.parse_args(argv)
    if args.alone:
        alone(args.model, args.table)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read_manifest(args.table).where(args.where)
    long_file(args.model, rows, args.minutes, args.room, args.out)
    if args.noise:
        noise_only(args.model, rows, args.noise)


if __name__ == "__main__":
    main()
