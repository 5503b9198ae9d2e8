"""NIST's STM and CTM, as tiers of the recording beside which they lie, or as tables of many recordings."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.aligned import Segment, Tier
from speechssl.data.columns import Reading, make_row
from speechssl.data.kaldi import SIDES
from speechssl.data.manifest import Utterance
from speechssl.data.places import Places

Talks = dict[str, dict[str, list[Segment]]]  # recording -> channel -> its segments
PAUSE = 0.5  # seconds without a word, at which the words of a CTM file are cut into segments
STM = re.compile(
    r"(\S+)\s+(\S+)\s+(\S+)\s+(\d+\.?\d*)\s+(\d+\.?\d*)(?:\s+<[^>]*>)?(?:\s+(.*))?"
)  # file channel speaker start end <labels> text
CTM = re.compile(
    r"(\S+)\s+(\S+)\s+(\d*\.?\d+|\*)\s+(\d*\.?\d+|\*)\s+(\S+)(?:\s.*)?"
)  # file channel start duration word
NO_WORD = re.compile(r"<.*>|\[.*\]|\(%.*\)|SIL|SPN|@")  # silence, noise, marks of alternatives


def fields_of(text: str, where: str, form: re.Pattern, names: str) -> Iterator[tuple[str, ...]]:
    """The fields of each line; comments begin with ;;. InputError for a line of another form."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith(";;"):
            if not (found := form.fullmatch(line.strip())):
                raise InputError(f"{where} line {number} is not `{names}`; correct or remove it")
            yield found.groups("")


def parse_stm(text: str, where: str) -> Talks:
    """The segments of an STM file, as in TED-LIUM, without those to be ignored."""
    talks: Talks = {}
    for name, channel, speaker, start, end, said in fields_of(text, where, STM, "file channel speaker start end text"):
        own = talks.setdefault(name, {}).setdefault(channel, [])
        if "ignore_time_segment_in_scoring" not in said.lower():
            own.append(Segment(float(start), float(end), " ".join(said.split()), speaker))
    return talks


def parse_ctm(text: str, where: str) -> Talks:
    """The words of a CTM file, as Kaldi and NeMo write them, cut at pauses; <eps> and the like are no words. InputError without
    any word."""
    words: Talks = {}
    for name, channel, start, length, word in fields_of(text, where, CTM, "file channel start duration word"):
        own = words.setdefault(name, {}).setdefault(channel, [])
        if not NO_WORD.fullmatch(word) and "*" not in (start, length):
            own.append(Segment(float(start), float(start) + float(length), word))
    if not any(own for channels in words.values() for own in channels.values()):
        raise InputError(f"{where} holds no words; correct or remove it")
    return {name: {side: cut(own) for side, own in channels.items()} for name, channels in words.items()}


def cut(words: list[Segment]) -> list[Segment]:
    """Words joined to segments from pause to pause."""
    parts: list[Segment] = []
    for word in sorted(words):
        if parts and word.start - parts[-1].end < PAUSE:
            before = parts[-1]
            parts[-1] = before._replace(end=max(before.end, word.end), text=f"{before.text} {word.text}")
        else:
            parts.append(word)
    return parts


def segments_of(channels: dict[str, list[Segment]]) -> list[Segment]:
    """The segments of a recording, with their channel where it has several."""
    side = {name: SIDES.get(name.lower(), name) if len(channels) > 1 else "" for name in channels}
    return [part._replace(channel=side[name]) for name, own in channels.items() for part in own]


def read_own(parse: Callable[[str, str], Talks], text: str, where: str) -> list[Tier]:
    """The segments of the recording that is called as the file, or of the only one."""
    talks, name = parse(text, where), Path(where).stem
    if len(talks) > 1 and name not in talks:
        raise InputError(f"{where} holds words of {len(talks)} recordings, of which none is called {name}; divide it")
    return [Tier("captions", segments_of(talks.get(name) or next(iter(talks.values()), {})))]


read_stm, read_ctm = partial(read_own, parse_stm), partial(read_own, parse_ctm)


def read_talks(path: Path, _head: str, reading: Reading) -> Iterator[Utterance]:
    """The rows of an STM or CTM file of any number of recordings, such as the reference of a test set."""
    parse, places = parse_ctm if path.suffix.lower() == ".ctm" else parse_stm, Places.of(path)
    seen: Counter[str] = Counter()
    for name, channels in parse("\n".join(read_lines(path, reading.encoding)), str(path)).items():
        for part in sorted(segments_of(channels)):
            key = f"{name}@{part.start:g}"
            seen[key] += 1
            values = {"id": key + (f"+{seen[key] - 1}" if seen[key] > 1 else ""), "path": name, "text": part.text}
            values |= {"start": str(part.start), "duration": repr(part.end - part.start)}
            values |= {"speaker": part.speaker, "channel": part.channel}
            yield from reading.usable(f"{path} {key}", name, partial(make_row, values, places, f"{path} {key}"))
