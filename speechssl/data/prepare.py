"""`speechssl prepare`: from a folder, a corpus or another manifest to a manifest of audio that can be trained on.

Every file is decoded to its end, in blocks. Unusable files are listed with the reason, never dropped silently. The findings
are cached beside the manifest, so that a second run decodes only the files that changed.
"""

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.english import count
from speechssl.core.errors import DamagedError, InputError
from speechssl.core.files import entries_below, output_file, writing
from speechssl.core.progress import Progress
from speechssl.data.channels import by_channel, segment_of
from speechssl.data.columns import AudioInside, Reading, parse_columns
from speechssl.data.corpora import Found, find
from speechssl.data.cremad import is_pointer
from speechssl.data.manifest import (
    Utterance,
    fits_a_line,
    read_rejected,
    rejected_path,
    write_manifest,
    write_rejected,
)
from speechssl.data.tables import is_table, read_rows
from speechssl.sound import audio
from speechssl.sound.mix import SILENCE, Mix, channel_names, channel_number
from speechssl.sound.windows import parts

LONGER = 0.25  # seconds that a table may say more than its file holds: rounding, and the padding of encoders
FOUND_BY = 2  # the way in which files are looked at; what was found in another way is not used again


@dataclass(kw_only=True)
class Summary:
    """The lines of prepare. reused: files whose findings were cached; passed: what was passed over -> how often; opposed: rows of
    which the louder channel is used; longer: rows that were shortened; notes: what was read as what; reasons: of rejections."""

    out: Path
    kept: int = 0
    seconds: float = 0.0
    reused: int = 0
    ignored: Counter = field(default_factory=Counter)
    passed: Counter = field(default_factory=Counter)
    opposed: int = 0
    longer: int = 0
    speakers: int = 0
    corpus: str = ""
    notes: list[str] = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)

    @property
    def rejected(self) -> int:
        """The number of files and rows that are not in the manifest."""
        return sum(self.reasons.values())

    def __str__(self) -> str:
        head = f"{count(self.kept, 'utterance')}, {clock(self.seconds)}, {count(self.speakers, 'speaker')}"
        lines = [f"{self.out}: {head} ({self.corpus})", *(f"  {note}" for note in self.notes)]
        if self.reused:
            lines.append(f"  {count(self.reused, 'file')} unchanged since the last run and not decoded again")
        lines += [f"  {note}" for note in ignored_note(self.ignored)]
        lines += [f"  {number:,} {what} passed over" for what, number in sorted(self.passed.items())]
        if self.opposed:
            rows = count(self.opposed, "row")
            lines.append(f"  {rows}: channels in opposite phase cancel each other out; the louder one is used")
        if self.longer:
            rows = count(self.longer, "row")
            lines.append(f"  {rows} with a duration beyond the end of the file, with which they end now")
        for reason, number in self.reasons.most_common():
            lines.append(f"  {number:,} rejected: {reason}")
        if self.rejected:
            lines.append(f"  each one is listed in {rejected_path(self.out)}")
        return "\n".join(lines)


def ignored_note(ignored: Counter[str]) -> list[str]:
    """Files of no use, counted by their endings, in a line if there are any."""
    endings = ", ".join(f"{number:,} {ending}" for ending, number in ignored.most_common(6))
    return [f"{count(ignored.total(), 'other file')} ignored ({endings}{' ...' if len(ignored) > 6 else ''})"] * bool(
        ignored
    )


def clock(seconds: float) -> str:
    """A length in a unit in which it has some digits: 8.4 s, 12.3 min, 960.41 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def prepare(
    src: Path,
    out: Path,
    *,
    where: str | Sequence[str] = "",
    channel: str = "mix",
    min_seconds: float = 0.1,
    max_seconds: float = 0.0,
    jobs: int = 0,
    **how: Any,
) -> Summary:
    """List the usable utterances of `src` in the manifest `out`, and beside it those that are left out, with the reason.

    The arguments are those of the verb (verbs.py). how: see looked_at. InputError if no audio is usable, or if `out` cannot be
    written.
    """
    src, out = Path(src), output_file(Path(out), "all.tsv")
    if 0 < max_seconds < 0.1:
        raise InputError(f"max_seconds = {max_seconds:g} cuts words into pieces; give 0.1 or more (0: never)")
    source = looked_at(src, out, unpack=out.with_suffix(".audio"), **how)
    rows, again = list(source.rows.where(where)), src.is_file() and out.exists() and out.samefile(src)
    if where and again:
        raise InputError(f"--where would leave only some rows of {out} in it; choose another --out")
    if again and source.left_out:
        raise InputError(
            f"{count(len(source.left_out), 'row')} of {out} cannot be used, and would be lost; correct them ("
            f"{': '.join(source.left_out[0])}), or choose another --out"
        )
    summary = Summary(out=out, corpus=source.corpus, notes=source.described(), ignored=source.ignored)
    summary.passed = Counter(why for _, why in (entries_below(src) if src.is_dir() else ()) if why)
    findings = inspect_all(sorted({row.path for row in rows}), out, jobs, summary)
    rows = list(by_channel(rows, channel, lambda path: channel_names(len(findings[path].get("peaks", ["mix"])) - 1)))
    kept, rejected = sort_out(rows, findings, min_seconds, summary)
    rejected = [*source.left_out, *rejected]
    write_rejected([*(read_rejected(out) if again else ()), *rejected], out)
    summary.reasons = Counter(reason.split(" (")[0] for _, reason in rejected)
    if not kept:
        counts = ", ".join(f"{reason}: {number}" for reason, number in summary.reasons.most_common(3))
        raise InputError(f"{src} has no usable audio ({counts}); each file is listed in {rejected_path(out)}")
    kept = cut_all(kept, max_seconds, jobs)
    write_manifest(kept, out)
    summary.kept, summary.seconds = len(kept), sum(row.duration for row in kept)
    summary.speakers = len({row.speaker for row in kept} - {""})
    return summary


def looked_at(
    src: Path,
    out: Path | None,
    *,
    columns: Sequence[str] = (),
    encoding: str = "",
    unpack: Path | None = None,
    **how: Any,
) -> Found:
    """What lies in `src`, read as the options of `speechssl prepare` say. how: corpus, pattern and tier, see find."""
    reading = Reading(columns=parse_columns(columns), encoding=encoding, unpack=unpack, left_out=[])
    return find(src, reading=reading, skip=out, **how)


def listed(sources: Sequence[Path], run: Path, name: str, resume: bool) -> list[Path]:
    """The manifests to train on: `sources`, with a folder of audio, or a table without durations, replaced by the manifest
    RUN.name.tsv, which is made here.

    Long recordings are cut into rows of at most 30 s. A run that is resumed uses the manifest that it made. InputError if that
    is needed for one of several sources, or under torchrun, where every process would do it.
    """
    run, found = Path(os.path.abspath(run)), []
    for source in map(Path, sources):
        if kind := unfinished(source):
            out = run.with_name(f"{run.name}.{name or 'rows'}.tsv")
            if len(sources) > 1:
                raise InputError(
                    f"{source} is {kind} beside other sources; prepare it first: {by_hand(source, source.stem + '.tsv', name)}"
                )
            if not (resume and out.exists()):
                if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                    raise InputError(
                        f"{source} is {kind}; prepare it once for all processes: {by_hand(source, out, name)}"
                    )
                print(prepare(source, out, max_seconds=30.0), file=sys.stderr)
            source = out
        found.append(source)
    return found


def unfinished(source: Path) -> str:
    """What a source is that must be prepared first: a folder of audio, or a table whose first row has no duration, or the audio
    itself; "" for any other."""
    if source.is_dir() and not is_table(source):
        return "a folder"
    try:
        return "a table without durations" if math.isnan(next(read_rows(source, Reading(left_out=[]))).duration) else ""
    except AudioInside:
        return "a table with the audio inside"


def by_hand(source: Path, out: str | Path, name: str) -> str:
    """The commands that an error suggests. name: of the flag that takes the table, "" for none."""
    flag = f"--{name} " if name else ""
    return f"`speechssl prepare {source} --out {out} --max-seconds 30`, then {flag}{out}"


def inspect(path: str) -> dict:
    """Decode a whole file in pieces, once: {"seconds": its length, "peaks": of the mix and then of each channel, "opposed": the
    place of the channel that is used where channels cancel each other out, else 0}; or {"reason": why it cannot be used}."""
    try:
        if not fits_a_line(path):
            return {"reason": "name with a tab, a line break or bytes that are not UTF-8 (rename it)"}
        if is_pointer(path):
            return {"reason": "git-lfs pointer, not audio (run `git lfs pull`)"}
        sound = audio.opened(path)
        try:
            mix, read, peaks_C = Mix(0, audio.PIECE * sound.rate), 0, np.zeros(1 + sound.channels)
            for piece_SC in sound.pieces(0, None, mix.size):
                read += len(piece_SC)
                peaks_C = np.maximum(peaks_C, peaks_of(mix(piece_SC), piece_SC))
        finally:
            sound.close()
    except InputError as error:
        return {"reason": reason_of(path, error)}
    except (OSError, MemoryError) as error:
        return {"reason": f"breaks off while decoding ({error})"}
    if read == 0:
        return {"reason": "no samples"}
    if not np.isfinite(peaks_C).all():
        return {"reason": "NaN or infinite samples"}
    if peaks_C.max() > audio.LOUDEST:
        return {"reason": f"samples beyond ±1 (up to {peaks_C.max():.3g}: divide by 32768?)"}
    peaks = [float(f"{peak:.3g}") for peak in peaks_C]
    return {"seconds": read / sound.rate, "peaks": peaks, "opposed": mix.opposed or 0}


def peaks_of(mix_S: np.ndarray, piece_SC: np.ndarray) -> np.ndarray:
    """The largest absolute samples of the mix and then of each channel; NaN where one is NaN."""
    if piece_SC.shape[1] == 1:
        return np.abs(mix_S).max(initial=0.0).repeat(2)
    return np.array([np.abs(wave_S).max(initial=0.0) for wave_S in (mix_S, *piece_SC.T)])


def reason_of(path: str, error: InputError) -> str:
    """A short reason, by which files are counted, with the details in brackets."""
    if not os.path.exists(path):
        return "missing"
    if os.path.getsize(path) == 0:
        return "empty file"
    if isinstance(error, DamagedError):
        return error.reason
    return f"cannot be used ({str(error).removeprefix(path).strip()})"


def stamp(path: str) -> list[int]:
    """Size and modification time of a file; as long as they stay the same, its content is taken to be the same."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def inspect_all(paths: list[str], out: Path, jobs: int, summary: Summary) -> dict[str, dict]:
    """The finding of every file: from the cache beside `out` where the file did not change, else by decoding it."""
    cache = out.with_name(out.name + ".cache.jsonl")
    findings = {}
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines() if cache.exists() else ():
        try:
            entry = json.loads(line)
            findings[entry["path"]] = entry
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a killed process
    fresh = [path for path in paths if findings.get(path, {}).get("stamp") != [FOUND_BY, *stamp(path)]]
    summary.reused = len(paths) - len(fresh)
    seconds = sum(findings[path].get("seconds", 0.0) for path in set(paths) - set(fresh))
    with (
        writing(cache),
        open(cache, "a", encoding="utf-8") as file,
        Progress(len(paths), "file", "prepare", initial=summary.reused, show=bool(fresh)) as progress,
    ):
        for path, finding in run_all(fresh, jobs or os.cpu_count() or 1):
            findings[path] = {"path": path, "stamp": [FOUND_BY, *stamp(path)]} | finding
            file.write(json.dumps(findings[path]) + "\n")
            file.flush()  # a killed process loses no finding
            seconds += finding.get("seconds", 0.0)
            progress.postfix(clock(seconds))
            progress.update()
    return findings


def run_all(paths: list[str], jobs: int) -> Iterator[tuple[str, dict]]:
    """Inspect files in their order, many of them in several processes.

    When a file kills the process that decodes it, the remaining ones are inspected by one process at a time: the first
    file without a finding is then the one that killed it.
    """
    if jobs == 1 or len(paths) <= 16:
        yield from ((path, inspect(path)) for path in paths)
        return
    done, chunk = 0, 8
    while done < len(paths):
        with ProcessPoolExecutor(jobs, initializer=start_worker) as pool:
            try:
                for finding in pool.map(inspect, paths[done:], chunksize=chunk):
                    yield paths[done], finding
                    done += 1
            except BrokenProcessPool:
                if jobs == 1:
                    yield paths[done], {"reason": "kills the decoder"}
                    done += 1
        jobs, chunk = 1, 1


def start_worker() -> None:
    """Leave ctrl-C to the parent process, and end when it ends, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait until the parent process ends, then end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def sort_out(
    rows: list[Utterance], findings: dict[str, dict], min_seconds: float, summary: Summary
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """The rows to keep, and (path, reason) of the others; counts those in opposite phase."""
    kept, rejected, seen = [], [], set()
    for row in rows:
        finding = findings[row.path]
        rest = finding.get("seconds", 0.0) - row.start  # of the file
        seconds = rest if np.isnan(row.duration) else min(row.duration, rest)
        reason = finding.get("reason") or channel_fault(row, finding["peaks"])
        if reason is None and "\ufffd" in row.text:
            reason = "transcript is not UTF-8 (convert it: iconv -f latin1 -t utf-8)"
        if reason is None and row.id in seen:
            reason = f"duplicate id ({row.id})"
        if reason is None and rest <= 0 < row.start:
            reason = f"starts behind the end of its file (at {row.start:g} s of {rest + row.start:.3f} s)"
        if reason is None and seconds < 0:
            reason = f"ends before it begins ({row.id})"
        if reason is None and seconds < min_seconds:
            reason = f"shorter than {min_seconds} s ({seconds:.3f} s: {row.id})"
        if reason is not None:
            rejected.append((row.path, reason))
            continue
        seen.add(row.id)
        summary.longer += row.duration > rest + LONGER
        if finding["opposed"] and not channel_number(row.channel):
            louder = channel_names(len(finding["peaks"]) - 1)[finding["opposed"] - 1]
            row, summary.opposed = replace(row, channel=louder), summary.opposed + 1
        kept.append(replace(row, duration=seconds))
    return kept, rejected


def channel_fault(row: Utterance, peaks: list[float]) -> str | None:
    """Why the channel of a row cannot be used. peaks: of the mix, and then of each channel."""
    try:
        number = channel_number(row.channel)
    except InputError as error:
        return str(error)
    if number >= len(peaks):
        return f"has no such channel ({row.channel}; {len(peaks) - 1} in the file)"
    where = f" of channel {row.channel}" if row.channel else ""
    return f"silent (peak {peaks[number]:.1e}{where})" if peaks[number] < SILENCE else None


def cut_all(rows: list[Utterance], max_seconds: float, jobs: int) -> list[Utterance]:
    """The rows, those of more than `max_seconds` (0: none) in pieces; a row with a transcript stays whole."""
    too_long = [not row.text and 0 < max_seconds * (1 + 1e-6) < row.duration for row in rows]
    with (
        ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool,
        Progress(sum(too_long), "recording", "cut", show=any(too_long)) as progress,
    ):
        found, cut_rows = pool.map(lambda row: cut(row, max_seconds), compress(rows, too_long)), []
        for row, long in zip(rows, too_long, strict=True):
            cut_rows += next(found) if long else [row]
            progress.update(long)
    return cut_rows


def cut(row: Utterance, max_seconds: float) -> list[Utterance]:
    """A row as pieces of at most `max_seconds`, cut where it is quietest."""
    pieces = parts(audio.stream(row.path, **segment_of(row)), round(max_seconds * audio.SAMPLE_RATE))
    begins = [part.start / audio.SAMPLE_RATE for part in pieces]
    lengths = [end - begin for begin, end in pairwise([*begins, row.duration])]
    return [
        replace(row, id=f"{row.id}#{n}", start=row.start + begin, duration=length)
        for n, (begin, length) in enumerate(zip(begins, lengths, strict=True))
    ]
