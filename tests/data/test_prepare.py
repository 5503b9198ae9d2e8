"""`prepare`: every kind of bad file is counted with its reason, and nothing that happens in between harms the manifest."""

import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.core.errors import InputError
from speechssl.data.prepare import inspect, prepare
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from tests.conftest import CLIP, DATA, ROOT, digits, with_pauses, write_table


def streamed(clip: np.ndarray, path: Path) -> None:
    """A wav as ffmpeg writes it into a pipe: the lengths in its header are all ones."""
    soundfile.write(path, clip, 16_000)
    data = bytearray(path.read_bytes())
    for place in (4, data.find(b"data") + 4):
        data[place : place + 4] = b"\xff" * 4
    path.write_bytes(bytes(data))


def rated(clip: np.ndarray, path: Path, rate: int) -> None:
    """A wav whose header lies about its rate."""
    soundfile.write(path, clip, 16_000)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(bytes(data))


GOOD = {
    "plain.wav": lambda x, p: soundfile.write(p, x, 16_000),
    "telephone.wav": lambda x, p: soundfile.write(p, x[::2], 8_000),
    "stereo.flac": lambda x, p: soundfile.write(p, np.stack([x, x], 1), 16_000),
    "24bit.wav": lambda x, p: soundfile.write(p, x, 16_000, subtype="PCM_24"),
    "8 channels at 96 kHz.wav": lambda x, p: soundfile.write(p, np.tile(x.repeat(6)[:, None], 8), 96_000),
    "flac called.wav": lambda x, p: p.write_bytes(CLIP.read_bytes()),
    "streamed.wav": streamed,
    "opposed.wav": lambda x, p: soundfile.write(p, np.stack([x, -x], 1), 16_000, subtype="FLOAT"),
    "two  spaces .ogg": lambda x, p: soundfile.write(p, x, 16_000),
    "привет 你好 नमस्ते.wav": lambda x, p: soundfile.write(p, x, 16_000),
    "e\u0301.wav": lambda x, p: soundfile.write(p, x, 16_000),
}


def half_an_mp3(wave_S, path) -> None:
    """Its header promises the whole."""
    soundfile.write(path, np.tile(wave_S, 10), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD = {
    "empty.wav": ("empty file", lambda x, p: p.write_bytes(b"")),
    "text.wav": ("cannot be used", lambda x, p: p.write_text("I am a text")),
    "cut.flac": (
        "truncated",
        lambda x, p: p.write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size // 2]),
    ),
    "one.wav": ("shorter than 0.1 s", lambda x, p: soundfile.write(p, x[:1], 16_000)),
    "header only.wav": ("no samples", lambda x, p: soundfile.write(p, x[:0], 16_000)),
    "zero.wav": ("silent", lambda x, p: soundfile.write(p, 0 * x, 16_000)),
    "nan.wav": (
        "NaN or infinite samples",
        lambda x, p: soundfile.write(p, np.append(x, np.nan), 16_000, subtype="FLOAT"),
    ),
    "half.mp3": ("truncated", half_an_mp3),
    "loud.wav": (
        "samples beyond ±1",
        lambda x, p: soundfile.write(p, 9000 * x, 16_000, subtype="FLOAT"),
    ),
    "call.m4a": ("cannot be used", lambda x, p: p.write_bytes(b"ftypM4A ")),
    "slow.wav": ("cannot be used", lambda x, p: rated(x, p, 1)),
    "dead link.wav": ("missing", lambda x, p: p.symlink_to("nowhere.wav")),
    "loop.wav": ("missing", lambda x, p: p.symlink_to("loop.wav")),
    "tab\t.wav": (
        "name with a tab, a line break or bytes that are not UTF-8",
        lambda x, p: soundfile.write(p, x, 16_000),
    ),
    "line\n.wav": (
        "name with a tab, a line break or bytes that are not UTF-8",
        lambda x, p: soundfile.write(p, x, 16_000),
    ),
    os.fsdecode(b"caf\xe9.wav"): (
        "name with a tab, a line break or bytes that are not UTF-8",
        lambda x, p: p.write_bytes(CLIP.read_bytes()),
    ),
    "pointer.wav": (
        "git-lfs pointer, not audio",
        lambda x, p: p.write_text("version https://git-lfs.github.com/spec/v1\n"),
    ),
}


def test_what_is_usable_is_kept_and_can_be_read(clip, tmp_path):
    for name, make in GOOD.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        make(clip, tmp_path / "in" / name)
    summary = prepare(tmp_path / "in", tmp_path / "out" / "x.tsv", jobs=1)
    rows = read_manifest(tmp_path / "out" / "x.tsv")
    assert summary.rejected == 0
    assert {Path(path).name for path in rows.column("path")} == set(GOOD)
    for row in rows:
        assert len(audio.load(row.path)) == pytest.approx(len(clip), rel=1e-3)
        assert row.duration == pytest.approx(len(clip) / 16_000, rel=1e-3)
    assert not (tmp_path / "out" / "x.rejected.tsv").exists()


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_is_not_usable_is_counted_with_its_reason(name, clip, tmp_path):
    reason, make = BAD[name]
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "good.wav", clip, 16_000)
    make(clip, folder / name)
    summary = prepare(folder, tmp_path / "x.tsv", jobs=1)
    assert (summary.kept, dict(summary.reasons)) == (1, {reason: 1})
    assert f"  1 rejected: {reason}\n" in str(summary)
    line = (tmp_path / "x.rejected.tsv").read_text(encoding="utf-8").splitlines()[1]
    assert line.split("\t")[1].startswith(reason)


def test_nothing_usable_is_one_sentence_with_the_reasons(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"in has no usable audio \(empty file: 1\); .*x\.rejected\.tsv"):
        prepare(tmp_path / "in", tmp_path / "x.tsv")
    assert not (tmp_path / "x.tsv").exists()


def test_a_damaged_flac_under_another_reason_is_never_kept(tmp_path):
    data = bytearray(CLIP.read_bytes())
    for place in range(2000, len(data), 1500):
        data[place] ^= 0x55
    (tmp_path / "a.flac").write_bytes(bytes(data))
    assert "reason" in inspect(str(tmp_path / "a.flac"))


def test_rows_of_a_manifest_are_checked_against_their_files(tmp_path):
    rows = [
        {"id": "whole", "path": CLIP},
        {"id": "part", "path": CLIP, "start": 0.5, "duration": 1.0},
        {"id": "long", "path": CLIP, "start": 0.5, "duration": 60.0},
        {"id": "late", "path": CLIP, "start": 60.0},
        {"id": "gone", "path": tmp_path / "gone.flac"},
    ]
    summary = prepare(write_table(tmp_path / "in.tsv", *rows), tmp_path / "x.tsv", jobs=1)
    found = {row.id: row.duration for row in read_manifest(tmp_path / "x.tsv")}
    length = audio.info(CLIP).duration
    assert found == {
        "whole": pytest.approx(length, abs=1e-3),
        "part": 1.0,
        "long": pytest.approx(length - 0.5, abs=1e-3),
    }
    assert summary.reasons == {"starts behind the end of its file": 1, "missing": 1}


def test_duplicate_ids_of_a_tree_are_counted(tmp_path):
    for name in ("7_theo_1.wav", "7_theo_1.flac", "7_theo_2.wav"):
        soundfile.write(tmp_path / name, audio.load(CLIP), 16_000)
    summary = prepare(tmp_path, tmp_path / "x.tsv", corpus="fsdd", jobs=1)
    assert (summary.kept, dict(summary.reasons)) == (2, {"duplicate id": 1})


def test_cutting_covers_every_second_once(tmp_path):
    summary = prepare(write_table(tmp_path / "in.tsv", {"path": CLIP}), tmp_path / "x.tsv", max_seconds=0.6)
    rows = list(read_manifest(tmp_path / "x.tsv"))
    assert summary.kept == len(rows) >= int(np.ceil(audio.info(CLIP).duration / 0.6))
    assert max(row.duration for row in rows) <= 0.6 + 1e-6
    assert all(b.start == pytest.approx(a.start + a.duration, abs=2e-3) for a, b in pairwise(rows))
    assert sum(row.duration for row in rows) == pytest.approx(audio.info(CLIP).duration, abs=1e-2)


def test_recordings_are_cut_between_words(tmp_path):
    """A row of its second channel, from its first second on; the row with a transcript stays whole."""
    wave, spans = with_pauses([audio.load(row["path"]) for row in digits(40)], [0.5, 0.9], 0.3)
    soundfile.write(tmp_path / "x.wav", np.stack([np.roll(wave, 9000), wave], 1), 16_000, subtype="FLOAT")
    same = {"path": "x.wav", "start": 1.0, "channel": "right"}
    table = write_table(tmp_path / "in.tsv", {"id": "a"} | same, {"id": "b", "text": "zero one"} | same)
    prepare(table, tmp_path / "x.tsv", max_seconds=8.0)
    *rows, whole = read_manifest(tmp_path / "x.tsv")
    assert (whole.id, whole.start, whole.duration) == ("b", 1.0, pytest.approx(len(wave) / 16_000 - 1, abs=1e-3))
    cuts = np.array([row.start for row in rows[1:]]) * 16_000
    assert len(cuts) >= 4 and all(2.0 <= row.duration <= 8.0 for row in rows)
    assert not any(((cuts > start + 800) & (cuts < stop - 800)).any() for start, stop in spans)


def test_pieces_too_short_for_speech_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"max_seconds = 0\.01 .* 0\.1 or more"):
        prepare(write_table(tmp_path / "in.tsv", {"path": CLIP}), tmp_path / "x.tsv", max_seconds=0.01)


def test_a_second_run_looks_only_at_what_changed(clip, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "x.tsv"
    folder.mkdir()
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", clip, 16_000)
    assert prepare(folder, out, jobs=1).reused == 0
    first = out.read_text()
    assert prepare(folder, out, jobs=1).reused == 3
    assert out.read_text() == first
    soundfile.write(folder / "b.wav", clip[:8000], 16_000)
    assert prepare(folder, out, jobs=1).reused == 2
    assert read_manifest(out)[1].duration == 0.5


def test_several_processes_find_what_one_finds(tmp_path):
    for jobs, name in ((1, "one.tsv"), (2, "two.tsv")):
        prepare(DATA / "librispeech_test.tsv", tmp_path / name, jobs=jobs)
    rows = write_table(
        tmp_path / "many.tsv", *[{"path": path} for path in sorted((DATA / "fsdd").glob("*_theo_1*.flac"))]
    )
    for jobs, name in ((1, "one.tsv"), (2, "two.tsv")):
        prepare(rows, tmp_path / name, jobs=jobs)
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()


def test_two_runs_at_once_leave_one_whole_manifest(tmp_path):
    context = multiprocessing.get_context("fork")
    rows = write_table(tmp_path / "in.tsv", *[{"path": path} for path in sorted((DATA / "fsdd").glob("*_theo_*.flac"))])
    runs = [context.Process(target=quiet, args=(rows, tmp_path / "x.tsv")) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert len(read_manifest(tmp_path / "x.tsv")) == len(read_manifest(rows))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tsv", "x.tsv", "x.tsv.cache.jsonl"]


def test_a_named_pipe_is_no_clip_and_blocks_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "reason" in inspect(str(tmp_path / "pipe.wav"))


def quiet(source: Path, out: Path) -> None:
    """Prepare in a process of its own, without its progress."""
    sys.stderr = open(os.devnull, "w")
    prepare(source, out, jobs=1)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again(kind, tmp_path):
    cache = tmp_path / "x.tsv.cache.jsonl"
    code = f"from speechssl.cli import main; main(['prepare', {str(DATA / 'fsdd')!r}, '--out', {str(tmp_path / 'x.tsv')!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while process.poll() is None and not (cache.exists() and cache.read_text().count("\n") > 50):
        time.sleep(0.005)
    os.killpg(process.pid, kind)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if kind == signal.SIGINT else -kind)
    assert "Traceback" not in said
    assert not (tmp_path / "x.tsv").exists()
    with open(cache, "a", encoding="utf-8") as file:
        file.write('{"path": "cut sho')
    summary = prepare(DATA / "fsdd", tmp_path / "x.tsv", jobs=1)
    assert summary.kept == 1500 and summary.reused > 50


def test_no_worker_outlives_a_killed_prepare(tmp_path):
    """Only the parent is killed, as a scheduler or the kernel does it; its workers share its session."""
    cache = tmp_path / "x.tsv.cache.jsonl"
    command = [sys.executable, "-m", "speechssl", "prepare", str(DATA / "fsdd"), "--out", str(tmp_path / "x.tsv")]
    process = subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not (cache.exists() and cache.read_text()):
        time.sleep(0.005)
    process.kill()
    process.wait()
    for _ in range(500):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("a worker still runs ten seconds after its parent")


@pytest.mark.parametrize("killers", [{0}, {9, 10}, {3, 19}], ids=str)
def test_a_file_that_kills_its_decoder_is_found_and_costs_no_other_file(killers, tmp_path, monkeypatch):
    folder, opened, parent = tmp_path / "in", audio.opened, os.getpid()
    folder.mkdir()
    for number in range(20):
        shutil.copy(CLIP, folder / f"{number:02d}{' kills' if number in killers else ''}.flac")

    def deadly(path: str):
        if " kills" in path:
            assert os.getpid() != parent, "the file would kill `prepare` itself"
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(path)

    monkeypatch.setattr(audio, "opened", deadly)
    summary = prepare(folder, tmp_path / "x.tsv", jobs=2)
    assert dict(summary.reasons) == {"kills the decoder": len(killers)}
    assert summary.kept == 20 - len(killers)


def test_three_hours_take_no_more_memory_than_one_minute(speech, tmp_path):
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8_000, 1, "PCM_U8") as file:
        while file.frames < 3 * 3600 * 8_000:
            file.write(speech[::2])
    peaks = []
    for source in (CLIP, tmp_path / "long.wav"):
        code = (
            "import resource, sys; from pathlib import Path; from speechssl.data.prepare import inspect; "
            f"found = inspect({str(source)!r}); print(found['seconds'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds, kilobytes = map(float, done.stdout.split())
        peaks.append(kilobytes)
    assert seconds >= 3 * 3600
    assert peaks[1] - peaks[0] < 30_000


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"corpus": "timit"}, "no corpus reader 'timit'; choose one of librispeech"),
        ({"where": "split=x"}, "no row of the manifest has split=x"),
        ({"where": "nope=1"}, "no column 'nope'"),
    ],
    ids=str,
)
def test_slips(options, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint):
        prepare(DATA / "fsdd.tsv", tmp_path / "x.tsv", **options)


def test_outputs_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for out, complaint in (
        (tmp_path, "is a folder; name the file to write"),
        (tmp_path / "file" / "x.tsv", "cannot be made"),
    ):
        with pytest.raises(InputError, match=complaint):
            prepare(DATA / "fsdd.tsv", out)
    with pytest.raises(InputError, match="does not exist"):
        prepare(tmp_path / "gone", tmp_path / "x.tsv")
