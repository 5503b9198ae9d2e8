"""Files whose header does not tell the truth, files put together with `cat`, files under another ending."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from speechssl.core.errors import DamagedError, InputError
from speechssl.data.prepare import inspect
from speechssl.sound import audio
from tests.conftest import ROOT
from tests.sound.encode import encode


@pytest.fixture(scope="module")
def other(speech) -> np.ndarray:
    """A second clip, of another length."""
    return speech[: 16_000 * 3 - 700]


def wav(wave_S: np.ndarray) -> bytearray:
    """The bytes of a 16-bit wav."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_S, 16_000, format="WAV")
    return bytearray(buffer.getvalue())


def mp3(wave_S: np.ndarray, **how) -> bytes:
    """The bytes of an mp3 with a table of its length in the first frame."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_S, 16_000, format="MP3", **how)
    return buffer.getvalue()


def with_sizes(data: bytearray, riff: int, size: int) -> bytes:
    """A wav whose header tells other sizes."""
    place = data.find(b"data") + 4
    data[4:8], data[place : place + 4] = struct.pack("<I", riff), struct.pack("<I", size)
    return bytes(data)


def all_agree(path: Path, low: float, high: float | None = None) -> None:
    """prepare, load, info and a segment tell of one file, of `low` to `high` seconds."""
    whole = audio.load(path)
    assert low - 1e-3 <= len(whole) / 16_000 <= (high or low) + 1e-3
    assert inspect(str(path))["seconds"] == pytest.approx(len(whole) / 16_000, abs=1e-4)
    assert audio.info(path).duration == pytest.approx(len(whole) / 16_000, abs=1e-4)
    for start in (0.3, low - 1.2):
        first = round(start * 16_000)
        part = audio.load(path, start=start, duration=1.0)
        np.testing.assert_allclose(part, whole[first : first + 16_000], atol=1e-3)


@pytest.mark.parametrize(
    "riff, size",
    [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000), (20_036, 20_000)],
    ids=hex,
)
def test_a_wav_whose_length_was_never_filled_in_is_read_to_its_end(riff, size, clip, tmp_path):
    (tmp_path / "x.wav").write_bytes(with_sizes(wav(clip), riff, size))
    all_agree(tmp_path / "x.wav", len(clip) / 16_000)
    np.testing.assert_allclose(audio.load(tmp_path / "x.wav"), clip, atol=1e-4)


def test_chunks_and_tags_behind_the_samples_are_no_samples(clip, tmp_path):
    for number, rest in enumerate((b"LIST\x04\0\0\0INFO", b"TAG" + bytes(125), bytes(6000))):
        (tmp_path / f"{number}.wav").write_bytes(bytes(wav(clip)) + rest)
        all_agree(tmp_path / f"{number}.wav", len(clip) / 16_000)


def test_a_cut_wav_tells_how_much_is_there(clip, tmp_path):
    (tmp_path / "x.wav").write_bytes(wav(clip)[: 44 + len(clip)])
    told = rf"truncated \({len(clip) // 2} of {len(clip)} samples\)"
    with pytest.raises(DamagedError, match=rf"x\.wav is {told}; copy it again or leave it out"):
        audio.load(tmp_path / "x.wav", start=0.1, duration=0.1)
    (tmp_path / "big.wav").write_bytes(with_sizes(wav(clip), 36 + 4 * len(clip), 4 * len(clip)))
    assert inspect(str(tmp_path / "big.wav"))["reason"] == f"truncated ({len(clip)} of {2 * len(clip)} samples)"


def without_table(data: bytes) -> bytes:
    """An mp3 without its first frame."""
    return data[data.index(data[:2], 4) :]


def test_mp3_put_together_is_heard_to_its_end(clip, other, tmp_path):
    seconds = (len(clip) + len(other)) / 16_000
    tag, end = b"ID3\x03\0\0\0\0\x01\0" + bytes(128), b"TAG" + bytes(125)
    first, second = mp3(clip), mp3(other)
    for name, data in (
        ("joined", first + second),
        ("with tags", tag + first + end + tag + second + end),
        ("without tables", without_table(first) + without_table(second)),
    ):
        (tmp_path / f"{name}.mp3").write_bytes(data)
        all_agree(tmp_path / f"{name}.mp3", seconds, seconds + 0.25)


def test_mp3_with_a_wrong_table_or_none(clip, tmp_path):
    seconds, data = len(clip) / 16_000, mp3(clip)
    wrong = bytearray(data)
    place = wrong.index(b"Xing") + 8
    wrong[place : place + 4] = struct.pack(">I", 20)  # frames
    for name, changed in (
        ("wrong", bytes(wrong)),
        ("none", without_table(data)),
        ("padded", data + bytes(3000)),
        ("constant", without_table(mp3(clip, bitrate_mode="CONSTANT"))),
    ):
        (tmp_path / f"{name}.mp3").write_bytes(changed)
        all_agree(tmp_path / f"{name}.mp3", seconds, seconds + 0.1)
    (tmp_path / "tagged.mp3").write_bytes(b"ID3\x03\0\0\0\0\x01\0" + bytes(128) + data + b"TAG" + bytes(125))
    all_agree(tmp_path / "tagged.mp3", seconds)


def test_a_cut_mp3_is_told_without_decoding_it(clip, tmp_path):
    data = mp3(clip)
    (tmp_path / "x.mp3").write_bytes(data[:5000])
    assert inspect(str(tmp_path / "x.mp3"))["reason"] == f"truncated (5000 of {len(data)} bytes)"
    (tmp_path / "y.mp3").write_bytes(without_table(mp3(clip, bitrate_mode="CONSTANT"))[:5000])
    assert inspect(str(tmp_path / "y.mp3"))["reason"].startswith("truncated (its last frame")


@pytest.mark.parametrize("kind, codec", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16")])
def test_files_put_together_are_their_parts_one_after_the_other(kind, codec, clip, other, tmp_path):
    data, waves = b"", []
    for number, wave_S in enumerate((clip, other, clip)):
        soundfile.write(tmp_path / f"{number}", wave_S, 16_000, format=kind, subtype=codec)
        waves.append(audio.load(tmp_path / f"{number}"))
        data += (tmp_path / f"{number}").read_bytes()
    (tmp_path / "x").write_bytes(data)
    np.testing.assert_array_equal(audio.load(tmp_path / "x"), np.concatenate(waves))
    np.testing.assert_array_equal(audio.load(data), np.concatenate(waves))
    all_agree(tmp_path / "x", sum(map(len, waves)) / 16_000)


def test_parts_of_different_rates_are_not_mixed_up(clip, tmp_path):
    for rate in (16_000, 8_000):
        soundfile.write(tmp_path / f"{rate}.ogg", clip, rate)
    (tmp_path / "x.ogg").write_bytes((tmp_path / "16000.ogg").read_bytes() + (tmp_path / "8000.ogg").read_bytes())
    with pytest.raises(InputError, match=r"x\.ogg was put together from recordings of different rates"):
        audio.load(tmp_path / "x.ogg")


def test_a_flac_of_unknown_length(clip, tmp_path):
    soundfile.write(tmp_path / "x.flac", clip, 16_000)
    data = bytearray((tmp_path / "x.flac").read_bytes())  # written into a pipe: 36 bits of length stay zero
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "x.flac").write_bytes(bytes(data))
    all_agree(tmp_path / "x.flac", len(clip) / 16_000)
    np.testing.assert_allclose(audio.load(tmp_path / "x.flac"), clip, atol=1e-4)


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_an_ogg_without_its_last_page_is_cut_but_one_without_the_mark_of_the_end_is_not(codec, speech, tmp_path):
    soundfile.write(tmp_path / "x.ogg", speech[:160_000], 16_000, format="OGG", subtype=codec)
    data = (tmp_path / "x.ogg").read_bytes()
    last = data.rfind(b"OggS")
    for size in (last + 10, last + 27, len(data) - 1, len(data) // 2):
        (tmp_path / "cut.ogg").write_bytes(data[:size])
        assert inspect(str(tmp_path / "cut.ogg"))["reason"] == "truncated (its last page is not whole)"
    unmarked = bytearray(data)
    unmarked[last + 5] &= ~4  # the mark; the checksum of the page is then wrong, so the page is lost
    (tmp_path / "stream.ogg").write_bytes(bytes(unmarked))
    assert 8.9 < inspect(str(tmp_path / "stream.ogg"))["seconds"] <= 10


@pytest.mark.parametrize(
    "container, codec, rate", [("WAV", "GSM610", 8_000), ("AU", "G721_32", 16_000), ("WAV", "NMS_ADPCM_32", 16_000)]
)
def test_codecs_that_cannot_seek_are_read_from_their_beginning(container, codec, rate, speech, tmp_path):
    wave_S = speech[: 16_000 * 25]
    soundfile.write(tmp_path / "x", soxr.resample(wave_S, 16_000, rate), rate, format=container, subtype=codec)
    all_agree(tmp_path / "x", 25.0, 25.1)
    with open(tmp_path / "x", "rb") as file:
        assert np.array_equal(audio.load(file), audio.load(file))


def test_content_decides_and_not_the_ending(clip, tmp_path):
    (tmp_path / "x.m4a").write_bytes(wav(clip))
    np.testing.assert_allclose(audio.load(tmp_path / "x.m4a"), clip, atol=1e-4)
    encode(tmp_path / "y.m4a", clip, "aac").rename(tmp_path / "y.wav")
    all_agree(tmp_path / "y.wav", len(clip) / 16_000)
    np.testing.assert_array_equal(audio.load((tmp_path / "y.wav").read_bytes()), audio.load(tmp_path / "y.wav"))


def test_tags_in_another_encoding_do_no_harm(clip, tmp_path):
    encode(tmp_path / "x.m4a", clip, "aac", title="Cafe")
    data = (tmp_path / "x.m4a").read_bytes()
    assert b"Cafe" in data
    (tmp_path / "x.m4a").write_bytes(data.replace(b"Cafe", b"Caf\xe9"))
    all_agree(tmp_path / "x.m4a", len(clip) / 16_000)


def test_a_video_gives_its_first_audio_and_one_without_sound_is_told(clip, tmp_path):
    encode(tmp_path / "x.mp4", clip, "aac", video=True)
    all_agree(tmp_path / "x.mp4", len(clip) / 16_000)
    import av

    with av.open(str(tmp_path / "silent.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        file.mux(stream.encode())
    with pytest.raises(InputError, match=r"silent\.mp4 holds no audio track"):
        audio.load(tmp_path / "silent.mp4")


def test_a_playlist_opens_no_other_file(clip, tmp_path):
    soundfile.write(tmp_path / "x.wav", clip, 16_000)
    for name, text in (
        ("x.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nx.wav\n#EXT-X-ENDLIST\n"),
        ("x.m4a", f"ffconcat version 1.0\nfile '{tmp_path / 'x.wav'}'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="cannot be decoded"):
            audio.load(tmp_path / name)


@pytest.mark.parametrize("name", ["12:30 call.m4a", "pipe:0", "ż ó.m4a", os.fsdecode(b"caf\xe9.m4a")], ids=ascii)
def test_a_name_is_a_name_and_no_address(name, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "x.m4a", clip, "aac").rename(name)
    if "\udce9" in name:
        with pytest.raises(InputError, match="rename the file"):
            audio.load(name)
    else:
        assert len(audio.load(name)) == len(clip)


def test_nine_minutes_take_no_more_memory_than_one(speech, tmp_path):
    """Read in windows through FFmpeg; held as a whole the file would take 31 MB more."""
    peaks = []
    for minutes in (1, 9):
        path = encode(tmp_path / f"{minutes}.mka", np.resize(speech, 960_000 * minutes), "flac")
        code = (
            "from speechssl.sound.windows import windows; from speechssl.models.wav2vec2.config import Wav2Vec2Config; "
            f"print(sum(len(w.wave_S) for w in windows({str(path)!r}, Wav2Vec2Config().geometry)), "
            "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        samples, kilobytes = map(int, done.stdout.split())
        assert samples >= 960_000 * minutes
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 15_000
