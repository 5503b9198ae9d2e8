"""Chunks of a stream: the samples that audio.load gives of the same recording, whatever the chunks, the rate and the wav."""

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
import torch

from speechssl.core.errors import InputError
from speechssl.sound import audio
from speechssl.sound.pipe import live


def heard(chunks, rate: int | None = None) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *live(chunks, rate)])


def cut(data, size: int) -> list:
    return [data[i : i + size] for i in range(0, len(data), size)]


def wav(wave_SC: np.ndarray, rate: int, subtype: str, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave_SC, rate, subtype=subtype, format=format)
    return file.getvalue()


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "subtype, format",
    [("PCM_16", "WAV"), ("PCM_24", "WAVEX"), ("PCM_32", "WAV"), ("PCM_U8", "WAV"), ("FLOAT", "WAV"), ("DOUBLE", "WAV")],
)
def test_a_wav_on_a_pipe_is_the_file(clip, rate, channels, subtype, format):
    sound = soxr.resample(clip, 16_000, rate)
    data = wav(np.stack([sound, sound * 0.3], axis=1)[:, :channels], rate, subtype, format)
    found, expected = heard(cut(data, 4097)), audio.load(data)
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_samples_do_not_depend_on_the_chunks(clip, rate):
    ints = (soxr.resample(clip[8000:13_000], 16_000, rate) * 32_767).astype("<i2")
    data = ints.tobytes()
    whole = heard([data], rate)
    assert len(whole) == pytest.approx(len(ints) * 16_000 / rate, abs=1)
    chunked = [cut(data, 3), cut(data, rate // 50), cut(ints, 1), cut(torch.from_numpy(ints / np.float32(32_768)), 777)]
    chunked += [[b"", data[:5], bytearray(data[5:40]), memoryview(data)[40:]]]
    for chunks in chunked:
        assert np.array_equal(heard(chunks, rate), whole)


def test_columns_are_channels_however_few_samples_come(clip):
    stereo_SC = np.stack([clip, np.roll(clip, 9)], axis=1)[:2000]
    expected = stereo_SC.mean(axis=1)
    for size in (1, 2, 3, 2000):
        assert np.allclose(heard(cut(stereo_SC, size)), expected, atol=1e-7)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_goes_on_until_the_end(clip, size):
    """As sox, ffmpeg and arecord write it into a pipe, with a list of tags before the samples."""
    data, tags = wav(clip, 16_000, "PCM_16"), b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    at = data.index(b"data")
    unknown = data[:at] + tags + data[at : at + 4] + struct.pack("<I", size) + data[at + 8 :]
    assert np.array_equal(heard(cut(unknown, 1000)), audio.load(data))


def test_what_follows_the_samples_of_a_wav_is_no_audio(clip):
    data = wav(clip, 16_000, "PCM_16")
    assert np.array_equal(heard(cut(data + b"LIST" + struct.pack("<I", 400) + b"x" * 400, 333)), audio.load(data))


@pytest.mark.parametrize(
    "chunks, said",
    [
        (np.zeros(9, np.float32), "give an iterable"),
        ("clip.wav", "give an iterable"),
        ([np.float32(1)], "is not audio"),
        ([np.full(900, 9000.0)], "divide 16-bit values"),
        ([np.full(900, np.nan)], "NaN"),
        ([b"\0\0" * 9, np.zeros(9)], "goes on with ndarray"),
        ([b"OggS" + b"\0" * 99], "must be decoded first"),
        ([b"RIFF\0\0\0\0WAVEfmt "], "ends before its samples"),
        ([b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 7, 1, 8000, 8000, 1, 8)], "8-bit samples of kind 7"),
    ],
)
def test_what_is_no_stream_of_audio_is_told(chunks, said):
    with pytest.raises(InputError, match=said):
        heard(chunks)


def test_a_rate_that_cannot_be_is_told(clip):
    for rate in (0, 16):
        with pytest.raises(InputError, match=rf"\b{rate} Hz"):
            heard([b"\0\0"], rate)
    with pytest.raises(InputError, match="says 8000 Hz, not 16000 Hz"):
        heard([wav(clip, 8_000, "PCM_16")], 16_000)
