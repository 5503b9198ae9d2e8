"""How far the word borders of `align` and `transcribe` are from the true ones.

    python recipes/borders/borders.py MODEL [--speakers theo] [--noise data/librispeech_test.tsv] [--pauses 0.1 0.6]

The spoken digits of a speaker, trimmed where they fall 30 dB below their loudest 20 ms, are joined in random order with pauses of
real room noise between them, which goes on under the words; so the true borders are known. --write FOLDER writes such recordings
and their manifest instead, to train on.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

import speechssl
from speechssl.data.manifest import Utterance, write_manifest
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.sound.audio import SAMPLE_RATE
from speechssl.text.align import Clip, align
from speechssl.use.align import heard_clip

ROOT = Path(__file__).resolve().parents[2]


class Recording(NamedTuple):
    """Words joined. truth: start and end of each in seconds."""

    wave_S: np.ndarray
    text: str
    truth: list[tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; print one line for each way to find words, or write the recordings."""
    data = ROOT / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="fine-tuned on digits")
    parser.add_argument("--speakers", nargs="+", default=["theo"], help="whose digits (default: theo)")
    parser.add_argument("--digits", type=Path, default=data / "fsdd.tsv", help="table of spoken words")
    parser.add_argument(
        "--noise", type=Path, default=data / "librispeech_test.tsv", help="table whose pauses are taken"
    )
    parser.add_argument("--pauses", nargs=2, type=float, default=(0.1, 0.6), help="the shortest and the longest, s")
    parser.add_argument("--decibels", nargs=2, type=float, default=(20.0, 40.0), help="of the words above the noise")
    parser.add_argument("--words", nargs=2, type=int, default=(10, 10), help="in a recording, fewest and most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a folder for the recordings")
    args = parser.parse_args(argv)
    rooms = [noise_S for row in read_manifest(args.noise) if len(noise_S := quietest(wave_of(row)))]
    random = np.random.default_rng(args.seed)
    made = {
        speaker: list(recordings(trimmed_words(args.digits, [speaker]), rooms, args, random))
        for speaker in args.speakers
    }
    if args.write:
        write(args.write, made)
        return
    if args.model is None:
        parser.error("name a model, or a folder with --write")
    measure(speechssl.load(args.model), [one for several in made.values() for one in several])


def recordings(
    words: Sequence[tuple[str, np.ndarray]], rooms: Sequence[np.ndarray], args: Any, random: np.random.Generator
) -> Iterator[Recording]:
    """The words in random order, some in each recording."""
    order = random.permutation(len(words)).tolist()
    while order:
        count = int(random.integers(args.words[0], args.words[1] + 1))
        some, order = [words[i] for i in order[:count]], order[count:]
        yield joined(some, rooms[int(random.integers(len(rooms)))], args.pauses, args.decibels, random)


def write(folder: Path, made: dict[str, list[Recording]]) -> None:
    """Recordings as files, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker, several in made.items():
        for number, one in enumerate(several):
            path = folder / f"{speaker}_{number:03d}.flac"
            soundfile.write(path, one.wave_S, SAMPLE_RATE)
            seconds = len(one.wave_S) / SAMPLE_RATE
            rows.append(Utterance(id=path.stem, path=str(path), duration=seconds, speaker=speaker, text=one.text))
    write_manifest(rows, folder / "joined.tsv")
    print(f"{folder / 'joined.tsv'}: {len(rows)} recordings, {sum(row.duration for row in rows) / 60:.1f} minutes")


def measure(model: Any, made: Sequence[Recording]) -> None:
    """Print the errors of given words, those of CTC's letters alone too, and of recordings whose words are all recognised."""
    how = (model.tokenizer, model.config.letters, model.silence)
    words = [[(word, word) for word in one.text.split()] for one in made]
    heard = [heard_clip(model, one.wave_S) for one in made]
    clips = [Clip(log_probs_TV, spelt, excess_F) for (log_probs_TV, excess_F), spelt in zip(heard, words, strict=True)]
    alone, found = align([clip._replace(excess_F=None) for clip in clips], *how), align(clips, *how)
    print(f"{len(made)} recordings, {sum(len(one.truth) for one in made)} words")
    print("letters alone", summary(list(zip(alone, made, strict=True))))
    print("align        ", summary(list(zip(found, made, strict=True))))
    spoken = [(model.transcribe(one.wave_S), one) for one in made]
    right = [(transcript, one) for transcript, one in spoken if transcript.text == one.text]
    print("transcribe   ", summary(right) if right else "no recording without an error")


def wave_of(row: Any) -> np.ndarray:
    """The audio of a row of a table."""
    return audio.load(row.path, start=row.start, duration=None if np.isnan(row.duration) else row.duration)


def trimmed_words(table: Path, speakers: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """(text, wave) of the words of some speakers."""
    return [(row.text, trimmed(wave_of(row))) for row in read_manifest(table) if row.speaker in speakers]


def trimmed(wave_S: np.ndarray, decibels: float = 30.0, size: int = 320) -> np.ndarray:
    """A word without what is 30 dB below its loudest 20 ms at both ends."""
    power_S = np.convolve(wave_S.astype(np.float64) ** 2, np.ones(size) / size, "same")
    loud_S = np.flatnonzero(power_S > power_S.max() / 10 ** (decibels / 10))
    return wave_S[loud_S[0] : loud_S[-1] + 1]


def quietest(wave_S: np.ndarray, seconds: float = 0.3) -> np.ndarray:
    """The stretch of a recording with the least power, which is a pause; nothing where even that is digital silence."""
    size = round(seconds * SAMPLE_RATE)
    power_S = np.cumsum(np.concatenate([[0.0], wave_S.astype(np.float64) ** 2]))
    lowest = int((power_S[size:] - power_S[:-size]).argmin())
    piece_S = wave_S[lowest : lowest + size]
    return piece_S if np.sqrt((piece_S**2).mean()) > 1e-4 else piece_S[:0]


def bed(noise_S: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """A piece of noise made longer: it is laid end to end, each time turned or not, over 20 ms of cross-fade."""
    fade, made_S = 320, np.zeros(count + len(noise_S), np.float32)
    ramp_S = np.ones(len(noise_S), np.float32)
    ramp_S[:fade] = np.sqrt(np.linspace(0, 1, fade))
    ramp_S[-fade:] = ramp_S[:fade][::-1]
    for first in range(0, count, len(noise_S) - fade):
        made_S[first : first + len(noise_S)] += ramp_S * (noise_S if random.integers(2) else noise_S[::-1])
    return made_S[:count]


def joined(
    words: Sequence[tuple[str, np.ndarray]],
    noise_S: np.ndarray,
    pauses: tuple[float, float],
    decibels: tuple[float, float],
    random: np.random.Generator,
) -> Recording:
    """Some words with pauses before, between and after them; noise under all, so many decibels below the words."""
    pieces, truth, at = [], [], 0
    for _, wave_S in words:
        pause = round(random.uniform(*pauses) * SAMPLE_RATE)
        pieces += [np.zeros(pause, np.float32), wave_S]
        truth.append(((at + pause) / SAMPLE_RATE, (at + pause + len(wave_S)) / SAMPLE_RATE))
        at += pause + len(wave_S)
    wave_S = np.concatenate([*pieces, np.zeros(round(random.uniform(*pauses) * SAMPLE_RATE), np.float32)])
    loud = np.sqrt(np.mean(np.concatenate([word_S for _, word_S in words]) ** 2))
    scale = loud / np.sqrt(np.mean(noise_S**2)) / 10 ** (random.uniform(*decibels) / 20)
    return Recording(wave_S + scale * bed(noise_S, len(wave_S), random), " ".join(text for text, _ in words), truth)


def summary(pairs: Sequence[tuple[Any, Recording]]) -> str:
    """The error of all borders, and which way starts and ends are wrong, in milliseconds."""
    found = np.array([(word.start, word.end) for transcript, _ in pairs for word in transcript.words])
    error = 1000 * (found - np.concatenate([one.truth for _, one in pairs]))
    size, medians = np.abs(error), np.median(error, axis=0)
    return (
        f"{error.size} borders: median error {np.median(size):.0f} ms, {100 * (size <= 80).mean():.1f} % within 80 ms, "
        f"90 % within {np.percentile(size, 90):.0f} ms; starts {np.median(size[:, 0]):.0f} ms (median of {medians[0]:+.0f}), "
        f"ends {np.median(size[:, 1]):.0f} ms ({medians[1]:+.0f})"
    )


if __name__ == "__main__":
    main()
