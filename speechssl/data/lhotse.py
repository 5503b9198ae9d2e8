"""lhotse's manifests: recordings with the supervisions beside them, or cuts."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError
from speechssl.data.columns import Reading, names_a_path
from speechssl.data.manifest import Utterance
from speechssl.data.objects import json_objects, read_objects

Row = tuple[str, dict[str, Any]]  # its place, and its columns
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
        yield from read_objects(path, in_cuts(path, own, reading), reading)


def in_recordings(path: Path, own: list[dict[str, Any]], reading: Reading) -> Iterator[Row]:
    """The rows of recordings and supervisions, of which `own` are the ones and the others lie beside them."""
    partner = partner_of(path)
    others = [] if partner is None else [values for _, values in json_objects(partner, "", reading)]
    recordings, supervisions = (own, others) if "sources" in own[0] else (others, own)
    if not recordings:
        raise InputError(
            f"{path} holds supervisions, and no recordings lie beside it; put them there, in a file of the same name with "
            "recordings in place of supervisions"
        )
    known = {one.get("id"): one for one in recordings}
    left = dict(known)
    for one in supervisions:
        left.pop(one.get("recording_id"), None)
        recording, where = known.get(one.get("recording_id")), f"{path}: {one.get('id')}"
        yield from reading.usable(where, first_file(recording), partial(made, where, row, one, recording, one, one))
    for name, one in left.items():
        where = f"{path}: {name}"
        yield from reading.usable(where, first_file(one), partial(made, where, row, one, one, {}, {}))


def partner_of(path: Path) -> Path | None:
    """The supervisions beside recordings, or the other way round, which lhotse names alike."""
    names = [path.name.replace(own, other) for own, other in PARTNERS.items() if own in path.name]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def in_cuts(path: Path, cuts: list[dict[str, Any]], reading: Reading) -> Iterator[Row]:
    """The rows of cuts: one for each supervision, under its own id where a cut has several."""
    for cut in cuts:
        supervisions, where = cut.get("supervisions") or [{}], f"{path}: {cut.get('id')}"
        for one in supervisions:
            named = cut if len(supervisions) == 1 else one
            file = first_file(cut.get("recording"))
            yield from reading.usable(where, file, partial(made, where, part, named, cut, one))


def part(named: dict[str, Any], cut: dict[str, Any], one: dict[str, Any], where: str) -> Row:
    """The row of a supervision, `one`, of a cut; its id is that of `named`."""
    if "recording" not in cut:
        raise InputError(f"{where} {'is mixed of several cuts' if 'tracks' in cut else 'has no recording'}; {SAVE}")
    length = float(cut["duration"])
    first = max(float(one.get("start", 0)), 0.0)
    last = min(float(one.get("start", 0)) + float(one.get("duration", length)), length)
    times = {"start": float(cut["start"]) + first, "duration": last - first, "channel": cut.get("channel")}
    return row(named, cut["recording"], times, one, where)


def made(where: str, make: Callable[..., Row], *values: Any) -> Row:
    """What `make` makes of some values. InputError for one that lacks what lhotse writes."""
    try:
        return make(*values, where)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where} is not whole ({type(error).__name__}: {error}); write the manifest again") from None


def first_file(recording: dict[str, Any] | None) -> str:
    """The path of a recording, as far as it has one."""
    sources = (recording or {}).get("sources")
    return str(sources[0].get("source", "")) if isinstance(sources, list) and sources else ""


def row(
    named: dict[str, Any], recording: dict[str, Any] | None, times: dict[str, Any], one: dict[str, Any], where: str
) -> Row:
    """The row of a recording or a part of it, with its place in the file, under the id of `named`; `one` is the supervision."""
    if recording is None:
        raise InputError(f"{where} is cut from {one.get('recording_id')}, which the recordings lack; add or remove it")
    if recording.get("transforms"):
        change = recording["transforms"][0].get("name")
        raise InputError(f"{where} is changed by lhotse ({change}), which is not done here; {SAVE}")
    path, channel = source_of(recording, times.get("channel"), where)
    values = {key: one[key] for key in FIELDS if key in one} | (one.get("custom") or {})
    duration = times.get("duration", recording.get("duration"))
    values |= {"id": named["id"], "path": path, "start": times.get("start", 0.0), "duration": duration}
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
