"""The column `channel` of a manifest: left, right, mix ("" too) or a number from 0; and the option --channel: `each` too."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from speechssl.core.errors import InputError
from speechssl.data.manifest import Manifest, Utterance
from speechssl.sound.audio import channels_of
from speechssl.sound.mix import EACH, channel_number


def segment_of(row: Utterance) -> dict[str, Any]:
    """Where the audio of a row lies in its file: options of audio.load and of all that reads clips."""
    duration = None if math.isnan(row.duration) else row.duration
    return {"start": row.start, "duration": duration, "channel": row.channel}


def check_channel(channel: str) -> None:
    """InputError for a value of --channel that is none."""
    if channel != EACH:
        try:
            channel_number(channel)
        except InputError:
            raise InputError(f"--channel {channel}: it is mix, left, right, each, or a number from 0") from None


def names_in(path: str) -> list[str]:
    """The names of the channels of a file; none for one that cannot be opened, so that the error comes when it is read."""
    try:
        return channels_of(path)
    except InputError:
        return []


def by_channel(
    rows: Iterable[Utterance], channel: str, names_of: Callable[[str], list[str]] = names_in
) -> Iterator[Utterance]:
    """The rows with `channel` where they name none; for "each", a row of each channel of a file that has several.

    The id of such a row ends in the name of its channel: call.wav.left. names_of: path -> the names of its channels.
    """
    check_channel(channel)
    for row in rows:
        if row.channel or channel in ("", "mix"):
            yield row
        elif channel != EACH:
            yield replace(row, channel=channel)
        elif len(names := names_of(row.path)) > 1:
            yield from (replace(row, id=f"{row.id}.{name}", channel=name) for name in names)
        else:
            yield row


def with_channel(rows: Manifest, channel: str) -> Manifest:
    """The same of a whole manifest."""
    check_channel(channel)
    return rows if channel in ("", "mix") else Manifest.of(by_channel(rows, channel))
