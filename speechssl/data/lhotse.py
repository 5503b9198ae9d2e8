"""lhotse's manifests: recordings with the supervisions beside them, or cuts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError
from speechssl.data.columns import Reading, make_row
from speechssl.data.lines import read_lines
from speechssl.data.manifest import Utterance
from speechssl.data.objects import has_lines, json_entries, json_lines
from speechssl.data.places import Places

LHOTSE = re.compile(r'[\[\s]*\{\s*"(id|type)":.*?"(sources|recording_id|supervisions)"\s*:', re.DOTALL)
PARTNERS = {"recordings": "supervisions", "supervisions": "recordings"}
FIELDS = ("text", "speaker", "gender", "language")  # of a supervision


def is_lhotse(head: str) -> bool:
    """Whether a text begins with a recording, a supervision or a cut."""
    return bool(LHOTSE.match(head.partition("\n")[0] if has_lines(head) else head))


def read_lhotse(path: Path, head: str, reading: Reading) -> Iterator[Utterance]:
    """A row for each supervision, or for each recording or cut without one. InputError for audio that is not in plain files."""
    first, partner = objects(path, reading), partner_of(path)
    places = Places.of(path)
    kind = next((kind for kind in ("recording_id", "sources") if kind in first[0]), "cuts") if first else "cuts"
    if kind == "cuts":
        for cut in first:
            yield from rows_of_cut(cut, places, f"{path}: {cut.get('id')}")
        return
    if kind == "recording_id" and partner is None:
        raise InputError(
            f"{path} holds supervisions, and no recordings lie beside it; put them there, in a file of the same name with "
            "recordings in place of supervisions"
        )
    second = objects(partner, reading) if partner else []
    recordings, supervisions = (second, first) if kind == "recording_id" else (first, second)
    known, heard = {one["id"]: one for one in recordings}, {one["recording_id"] for one in supervisions}
    for one in supervisions:
        if one["recording_id"] not in known:
            raise InputError(f"{path}: {one['id']} is cut from {one['recording_id']}, which the recordings lack")
        yield row(one["id"], known[one["recording_id"]], one, one, places, f"{path}: {one['id']}")
    for one in recordings:
        if one["id"] not in heard:
            yield row(one["id"], one, {}, {}, places, f"{path}: {one['id']}")


def objects(path: Path, reading: Reading) -> list[dict[str, Any]]:
    """The objects of a manifest, of one line each or in one document."""
    head = next(iter(read_lines(path, reading.encoding)), "")
    found = json_lines(path, reading) if has_lines(head) else json_entries(path, reading)
    return [values for _, values in found]


def partner_of(path: Path) -> Path | None:
    """The supervisions beside recordings, or the other way round, which lhotse names alike."""
    for own, other in PARTNERS.items():
        if own in path.name and path.with_name(path.name.replace(own, other)).is_file():
            return path.with_name(path.name.replace(own, other))
    return None


def rows_of_cut(cut: dict[str, Any], places: Places, where: str) -> Iterator[Utterance]:
    """A row for each supervision of a cut; where there are several they keep their own ids."""
    if "recording" not in cut:
        problem = "is mixed of several cuts" if "tracks" in cut else "has no recording"
        raise InputError(f"{where} {problem}; save its audio first: cuts.save_audios(folder) in lhotse")
    supervisions = cut.get("supervisions") or [{}]
    for one in supervisions:
        first = max(float(one.get("start", 0)), 0.0)
        last = min(first + float(one.get("duration", cut["duration"])), float(cut["duration"]))
        times = {"start": float(cut["start"]) + first, "duration": last - first, "channel": cut.get("channel")}
        yield row(cut["id"] if len(supervisions) == 1 else one["id"], cut["recording"], times, one, places, where)


def row(
    name: str, recording: dict[str, Any], times: dict[str, Any], one: dict[str, Any], places: Places, where: str
) -> Utterance:
    """The row of a recording or a part of it; `one` is the supervision."""
    if recording.get("transforms"):
        raise InputError(
            f"{where} is changed by lhotse ({recording['transforms'][0].get('name')}), which is not done here; save its audio "
            "first: cuts.save_audios(folder) in lhotse"
        )
    channel = times.get("channel")
    path, number = source_of(recording, channel, where)
    values = {key: str(one[key]) for key in FIELDS if one.get(key)}
    values |= {
        key: str(value) for key, value in (one.get("custom") or {}).items() if isinstance(value, (str, int, float))
    }
    values |= {"id": str(name), "path": path, "start": str(times.get("start", 0.0))}
    values["duration"] = str(times.get("duration", recording.get("duration", "")))
    return make_row(values | ({"channel": number} if number else {}), places, where)


def source_of(recording: dict[str, Any], channel: Any, where: str) -> tuple[str, str]:
    """The file that holds a channel of a recording, and its number in that file, "" if the file is meant as a whole."""
    wanted = channel if isinstance(channel, list) else [channel]
    fitting = [one for one in recording["sources"] if channel is None or set(wanted) <= set(one["channels"])]
    if len(fitting) != 1:
        raise InputError(
            f"{where} lies in several files; save it as one file first: cuts.save_audios(folder) in lhotse"
        )
    if fitting[0]["type"] != "file":
        raise InputError(
            f"{where} is the output of a {fitting[0]['type']}, not a file; write it to a file, commands are not run"
        )
    channels = fitting[0]["channels"]
    number = str(channels.index(wanted[0])) if channel is not None and len(wanted) == 1 and len(channels) > 1 else ""
    return fitting[0]["source"], number
