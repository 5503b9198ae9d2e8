"""lhotse's manifests: recordings with the supervisions beside them, or cuts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError
from speechssl.data.columns import Reading, names_a_path
from speechssl.data.manifest import Utterance
from speechssl.data.objects import json_objects, read_objects

PARTNERS = {"recordings": "supervisions", "supervisions": "recordings"}
FIELDS = ("text", "speaker", "gender", "language")  # of a supervision
SAVE = "save its audio first: cuts.save_audios(folder) in lhotse"


def is_lhotse(head: str) -> bool:
    """Whether a text begins with a recording, a supervision or a cut, none of which has a path of its own."""
    keys = re.findall(r'"(\w+)"\s*:', head.partition("}")[0])
    known = "id" in keys and bool({"sources", "recording_id", "supervisions", "tracks"} & set(keys))
    return known and not names_a_path(keys, Reading())


def read_lhotse(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """A row for each supervision, and for each recording or cut without one. InputError for audio that is not in plain files."""
    own = [values for _, values in json_objects(path, head, reading)]
    if "sources" in own[0] or "recording_id" in own[0]:
        yield from read_objects(path, in_recordings(path, own, reading), reading)
    else:
        yield from read_objects(path, in_cuts(path, own), reading)


def in_recordings(path: Path, own: list[dict[str, Any]], reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of recordings and supervisions, of which `own` are the ones and the others lie beside them."""
    partner = partner_of(path)
    others = [] if partner is None else [values for _, values in json_objects(partner, "", reading)]
    recordings, supervisions = (own, others) if "sources" in own[0] else (others, own)
    if not recordings:
        raise InputError(
            f"{path} holds supervisions, and no recordings lie beside it; put them there, in a file of the same name with "
            "recordings in place of supervisions"
        )
    left = {one["id"]: one for one in recordings}
    known = dict(left)
    for one in supervisions:
        if one["recording_id"] not in known:
            raise InputError(f"{path}: {one['id']} is cut from {one['recording_id']}, which the recordings lack")
        left.pop(one["recording_id"], None)
        yield row(one["id"], known[one["recording_id"]], one, one, f"{path}: {one['id']}")
    for name, one in left.items():
        yield row(name, one, {}, {}, f"{path}: {name}")


def partner_of(path: Path) -> Path | None:
    """The supervisions beside recordings, or the other way round, which lhotse names alike."""
    names = [path.name.replace(own, other) for own, other in PARTNERS.items() if own in path.name]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def in_cuts(path: Path, cuts: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of cuts: one for each supervision, under its own id where a cut has several."""
    for cut in cuts:
        where = f"{path}: {cut['id']}"
        if "recording" not in cut:
            raise InputError(f"{where} {'is mixed of several cuts' if 'tracks' in cut else 'has no recording'}; {SAVE}")
        supervisions = cut.get("supervisions") or [{}]
        for one in supervisions:
            first = max(float(one.get("start", 0)), 0.0)
            last = min(float(one.get("start", 0)) + float(one.get("duration", cut["duration"])), float(cut["duration"]))
            times = {"start": float(cut["start"]) + first, "duration": last - first, "channel": cut.get("channel")}
            yield row(cut["id"] if len(supervisions) == 1 else one["id"], cut["recording"], times, one, where)


def row(
    name: str, recording: dict[str, Any], times: dict[str, Any], one: dict[str, Any], where: str
) -> tuple[str, dict[str, Any]]:
    """The row of a recording or a part of it, with its place in the file; `one` is the supervision."""
    if recording.get("transforms"):
        change = recording["transforms"][0].get("name")
        raise InputError(f"{where} is changed by lhotse ({change}), which is not done here; {SAVE}")
    path, channel = source_of(recording, times.get("channel"), where)
    values = {key: one[key] for key in FIELDS if key in one} | (one.get("custom") or {})
    duration = times.get("duration", recording.get("duration"))
    values |= {"id": name, "path": path, "start": times.get("start", 0.0), "duration": duration}
    return where, values | ({"channel": channel} if channel else {})


def source_of(recording: dict[str, Any], channel: Any, where: str) -> tuple[str, str]:
    """The file that holds a channel of a recording, and its number in that file, "" if the file is meant as a whole."""
    wanted = channel if isinstance(channel, list) else [] if channel is None else [channel]
    fitting = [one for one in recording["sources"] if set(wanted) <= set(one["channels"])]
    if len(fitting) != 1:
        raise InputError(f"{where} lies in several files; {SAVE}")
    if fitting[0]["type"] != "file":
        kind = fitting[0]["type"]
        raise InputError(f"{where} is the output of a {kind}, not a file; write it to a file, commands are not run")
    channels = fitting[0]["channels"]
    number = str(channels.index(wanted[0])) if len(wanted) == 1 and len(channels) > 1 else ""
    return fitting[0]["source"], number
