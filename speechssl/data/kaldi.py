"""Kaldi's folders: wav.scp, and where present text, segments, utt2spk, reco2file_and_channel, spk2gender and spk2age."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.columns import Reading, make_row
from speechssl.data.manifest import Utterance
from speechssl.data.places import Places
from speechssl.sound import audio

SIDES = {"a": "0", "b": "1", "1": "0", "2": "1"}  # of a call, counted from 0


def read_kaldi(folder: Path, reading: Reading) -> Iterator[Utterance]:
    """The rows of a folder. InputError for shell pipes and archives in wav.scp, and for lines that cannot be understood.

    As in Kaldi, relative paths start from the working folder. Where no file lies there, they start from this folder or, as
    in speechocean762, from the one above.
    """
    names = ("wav.scp", "text", "utt2spk", "segments", "reco2file_and_channel")
    waves, texts, speakers, segments, sides = (table(folder / name, reading) for name in names)
    traits = {name: table(folder / f"spk2{name}", reading) for name in ("gender", "age")}
    places = Places([".", folder, folder.parent])
    channels = {key: channel_of(side, waves[key], places) for key, side in sides.items() if key in waves}

    def row(key: str) -> Utterance:
        values = {"id": key, "path": key}
        if segments:
            values |= segment(segments[key], f"{folder / 'segments'}: {key}")
        recording = values["path"]
        if recording not in waves:
            raise InputError(
                f"{folder / 'segments'}: {key} is cut from {recording}, which {folder / 'wav.scp'} lacks; add or remove it"
            )
        refuse_commands(folder / "wav.scp", recording, waves[recording])
        values |= {"path": waves[recording], "text": texts.get(key, ""), "speaker": speakers.get(key, "")}
        values |= {name: of.get(values["speaker"], "") for name, of in traits.items() if of}
        if channels.get(recording):
            values.setdefault("channel", channels[recording])
        return make_row(values, places, f"{folder} {key}")

    for key in segments or waves:
        recording = segments[key].split()[0] if segments.get(key) else key
        yield from reading.usable(f"{folder} {key}", waves.get(recording, ""), partial(row, key))


def table(file: Path, reading: Reading) -> dict[str, str]:
    """The lines of a file by their first word; {} for a missing file. InputError if two lines begin with the same word."""
    found: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(read_lines(file, reading.encoding) if file.exists() else (), 1):
        key, *rest = line.strip().split(maxsplit=1) or [""]
        if key in found:
            raise InputError(f"{file}: lines {numbers[key]} and {number} both begin with {key}; remove one of them")
        if key:
            found[key], numbers[key] = "".join(rest), number
    return found


def refuse_commands(file: Path, key: str, place: str) -> None:
    """InputError for what Kaldi would run or look up in an archive."""
    if place.endswith("|") or place.startswith("|"):
        raise InputError(f"{file}: {key} is a shell pipe; write its output to a file, pipes are not run")
    if re.search(r"\.ark:\d+$", place):
        raise InputError(
            f"{file}: {key} lies in an archive of Kaldi; write it to a file (wav-copy), archives are not read"
        )


def segment(line: str, where: str) -> dict[str, str]:
    """The recording, the times and, if there is one, the channel in a line of `segments`; the end -1 is that of the recording.
    InputError if it is not of that form."""
    try:
        recording, start, end, *channel = line.split()
        first, last = float(start), float(end)
        if len(channel) > 1 or (last != -1 and last <= first):
            raise ValueError
    except ValueError:
        problem = "is not `segment recording start end` with an end after the start, or -1"
        raise InputError(f"{where} {line} {problem}; correct the line") from None
    values = {"path": recording, "start": start, "duration": "" if last == -1 else repr(last - first)}
    return values | ({"channel": channel[0]} if channel else {})


def channel_of(line: str, path: str, places: Places) -> str:
    """The channel in a line of reco2file_and_channel, counted from 0; "" for a file with one channel or that cannot be opened."""
    side = SIDES.get(line.split()[-1].lower(), "") if line.split() else ""
    try:
        return side if side and audio.info(places.find(path, path)).channels > 1 else ""
    except InputError:
        return ""
