"""Decoding against soundfile, librosa and soxr; segments against the whole; what is refused and how."""

import io
import os
import threading

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch

from speechssl.core.errors import InputError
from speechssl.sound import audio
from tests.conftest import CLIP, DATA


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """The clip as soundfile reads it."""
    return soundfile.read(CLIP, dtype="float32")[0]


class Decoder:
    """What torchcodec's AudioDecoder and the library datasets hand out: two channels, at 8 kHz."""

    def __init__(self, wave_S: np.ndarray) -> None:
        self.data, self.sample_rate = torch.from_numpy(np.stack([wave_S, wave_S])), 8_000

    def get_all_samples(self) -> "Decoder":
        return self


def piped() -> io.RawIOBase:
    """A file that cannot seek."""
    reading, writing = os.pipe()
    threading.Thread(target=lambda: os.fdopen(writing, "wb").write(CLIP.read_bytes())).start()
    return os.fdopen(reading, "rb")


FILES = {
    "path": lambda: CLIP,
    "text": lambda: str(CLIP),
    "file": lambda: io.BytesIO(CLIP.read_bytes()),
    "bytes": CLIP.read_bytes,
    "pipe": piped,
    "bytes of datasets": lambda: {"bytes": CLIP.read_bytes(), "path": None},
    "path of datasets": lambda: {"bytes": None, "path": str(CLIP)},
}


@pytest.mark.parametrize("name", FILES)
def test_any_source_gives_soundfile_s_samples(name, sentence):
    np.testing.assert_array_equal(audio.load(FILES[name]()), sentence)


def test_the_arrays_of_datasets_have_their_own_rate_and_channels_first(sentence):
    slow_S = soxr.resample(sentence, 16_000, 8_000)
    expected = audio.load(slow_S, sample_rate=8_000)
    for source in (
        {"array": slow_S, "sampling_rate": 8_000, "path": "x.wav"},
        {"array": slow_S.tolist(), "sampling_rate": 8_000},
        {"array": np.stack([slow_S, slow_S]), "sampling_rate": 8_000},
        Decoder(slow_S),
    ):
        np.testing.assert_allclose(audio.load(source, sample_rate=16_000), expected, atol=1e-6)
    part = audio.load({"array": slow_S, "sampling_rate": 8_000}, start=0.5, duration=0.5)
    assert len(part) == 8_000


def test_text_is_told_from_bytes():
    class Page:
        def read(self) -> str:
            return "<html>"

    with pytest.raises(InputError, match="text, not bytes"):
        audio.load(Page())


def test_channels_are_chosen_by_name_or_number(sentence, tmp_path):
    right_S = sentence[::-1].copy()
    stereo_S2 = np.stack([sentence, right_S], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo_S2, 16_000, subtype="FLOAT")
    for source in (tmp_path / "x.wav", stereo_S2):
        for channel, expected in (("left", sentence), ("0", sentence), ("right", right_S), ("1", right_S)):
            np.testing.assert_array_equal(audio.load(source, channel=channel), expected)
        np.testing.assert_allclose(audio.load(source, channel="mix"), (sentence + right_S) / 2, atol=1e-7)
        with pytest.raises(InputError, match="has no channel '2', only left, right; choose"):
            audio.load(source, channel="2")
    with pytest.raises(InputError, match="channel = 'middle' is not left, right, mix or a number from 0"):
        audio.load(tmp_path / "x.wav", channel="middle")
    with pytest.raises(InputError, match="flac has no channel 'right', only left; choose"):
        audio.load(CLIP, channel="right")


def test_of_channels_that_cancel_each_other_out_the_louder_one_is_taken(sentence, tmp_path):
    """In the whole and in any part, also after silence; two people on two channels do not cancel each other out."""
    quiet_S = np.zeros(16_000 * 11, np.float32)
    wave_S = np.concatenate([quiet_S, sentence])
    soundfile.write(tmp_path / "x.wav", np.stack([-0.8 * wave_S, wave_S], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "x.wav"), wave_S, atol=1e-4)
    np.testing.assert_array_equal(audio.load(tmp_path / "x.wav", start=12.0, duration=0.5), wave_S[192_000:200_000])
    with open(tmp_path / "x.wav", "rb") as file:
        np.testing.assert_array_equal(audio.load(file, start=12.0, duration=0.5), wave_S[192_000:200_000])
    np.testing.assert_allclose(np.concatenate(list(audio.stream(tmp_path / "x.wav"))), wave_S, atol=1e-4)
    np.testing.assert_allclose(audio.load(np.stack([sentence, -sentence], 1)), sentence, atol=1e-7)
    for other_S in (sentence[::-1], 0 * sentence, sentence):
        expected = (sentence + other_S) / 2
        np.testing.assert_allclose(audio.load(np.stack([sentence, other_S], 1)), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_stream_is_the_whole_in_pieces(rate, speech, tmp_path):
    soundfile.write(tmp_path / "x.wav", soxr.resample(speech, 16_000, rate), rate, subtype="FLOAT")
    pieces = list(audio.stream(tmp_path / "x.wav"))
    assert len(pieces) > 4
    np.testing.assert_allclose(np.concatenate(pieces), audio.load(tmp_path / "x.wav"), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_equal_librosa_s(rate, sentence, tmp_path):
    soundfile.write(tmp_path / "x.wav", soxr.resample(sentence, 16_000, rate), rate, subtype="FLOAT")
    expected = librosa.load(tmp_path / "x.wav", sr=16_000, res_type="soxr_hq")[0]
    found = audio.load(tmp_path / "x.wav")
    assert abs(len(found) - len(expected)) <= 1
    size = min(len(found), len(expected))
    np.testing.assert_allclose(found[:size], expected[:size], atol=1e-5)


@pytest.mark.parametrize(
    "ending, subtype, tolerance",
    [
        ("wav", "PCM_24", 1e-6),
        ("wav", "PCM_U8", 1e-2),
        ("wav", "FLOAT", 0),
        ("flac", "PCM_24", 1e-6),
        ("aiff", "PCM_16", 0),
    ],
)
def test_sample_formats(ending, subtype, tolerance, sentence, tmp_path):
    soundfile.write(tmp_path / f"x.{ending}", sentence, 16_000, subtype=subtype)
    np.testing.assert_allclose(audio.load(tmp_path / f"x.{ending}"), sentence, atol=tolerance)


def test_channels_are_averaged(sentence, tmp_path):
    stereo_S2 = np.stack([sentence, 0.5 * sentence], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo_S2, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "x.wav"), 0.75 * sentence, atol=1e-7)
    np.testing.assert_allclose(audio.load(stereo_S2), 0.75 * sentence, atol=1e-7)


def test_the_ending_of_a_name_decides_nothing(sentence, tmp_path):
    (tmp_path / "x.wav").write_bytes(CLIP.read_bytes())
    np.testing.assert_array_equal(audio.load(tmp_path / "x.wav"), sentence)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_segment_is_that_part_of_the_whole(rate, sentence, tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, soxr.resample(sentence, 16_000, rate), rate, subtype="FLOAT")
    whole = audio.load(path)
    for start, duration in ((0.0, 0.5), (0.25, 1.0), (1.5, 100.0), (0.7, None)):
        part, first = audio.load(path, start=start, duration=duration), round(start * 16_000)
        expected = whole[first:][: None if duration is None else round(duration * 16_000)]
        size = min(len(part), len(expected))
        assert abs(len(part) - len(expected)) <= 2
        np.testing.assert_allclose(part[40 : size - 40], expected[40 : size - 40], atol=1e-4)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float64])
def test_arrays_of_numbers_scale_as_files_do(kind, sentence):
    limits = np.iinfo(kind) if np.issubdtype(kind, np.integer) else None
    half = (int(limits.max) - int(limits.min) + 1) // 2 if limits else 1
    array = (sentence.astype(np.float64) * half + (int(limits.min) + half if limits else 0)).astype(kind)
    np.testing.assert_allclose(audio.load(array), sentence, atol=2 / half if limits else 1e-7)


def test_tensors_pass(sentence):
    np.testing.assert_array_equal(audio.load(torch.from_numpy(sentence.copy()).requires_grad_()), sentence)


@pytest.mark.parametrize(
    "source, rate, complaint",
    [
        (np.zeros((2, 2, 2)), None, "shape"),
        (np.array(["a"]), None, "is not audio"),
        (np.zeros(0, np.float32), None, "holds no audio"),
        (np.array([0.0, np.nan], np.float32), None, "the array holds NaN"),
        (np.zeros(100, np.float32), 0, "sample_rate = 0"),
        (DATA, None, "is a folder"),
        (DATA / "gone.wav", None, r"gone\.wav is missing.*speechssl prepare"),
        (DATA / "LICENSES.md", None, r"LICENSES\.md cannot be decoded"),
        (io.BytesIO(b"nothing"), None, "cannot be decoded"),
        ((np.zeros(100), 16_000), None, "load\\(wave, sample_rate=rate\\)"),
        (np.zeros((9, 100)), None, "9 utterances, not one"),
        (np.zeros((2, 100)), None, r"2 utterances, not one; channels are columns, \(samples, channels\)"),
        ({"array": [0.0, 0.1]}, None, "needs its rate"),
        ({"file": "x.wav"}, None, "a dict with file is not audio"),
        (np.zeros(100, np.int64), None, "64-bit integers"),
        (np.full(100, 3e4), None, "up to 3e\\+04, but audio lies within"),
    ],
    ids=[
        "3-D",
        "text",
        "empty",
        "NaN",
        "rate",
        "folder",
        "gone",
        "document",
        "file",
        "pair",
        "utterances",
        "channels first",
        "no rate",
        "dict",
        "int64",
        "loud",
    ],
)
def test_what_is_no_audio_is_refused(source, rate, complaint):
    with pytest.raises(InputError, match=complaint):
        audio.load(source, sample_rate=rate)


def test_a_file_object_can_be_read_twice(sentence):
    file = io.BytesIO(CLIP.read_bytes())
    assert np.array_equal(audio.load(file), audio.load(file))


def test_a_path_that_the_system_refuses():
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\)"):
        audio.load("x" * 300)


def test_a_header_that_cannot_be_right(sentence, tmp_path):
    soundfile.write(tmp_path / "slow.wav", sentence, 1_000)
    with pytest.raises(InputError, match=r"slow\.wav has a header that cannot be right .*1000 Hz"):
        audio.load(tmp_path / "slow.wav")


def test_beyond_the_end_of_a_file():
    with pytest.raises(InputError, match=r"0007\.flac holds no audio at 99 s"):
        audio.load(CLIP, start=99)


def test_info_is_the_header_s():
    found, expected = audio.info(CLIP), soundfile.info(CLIP)
    assert found == audio.AudioInfo(
        duration=expected.duration, sample_rate=expected.samplerate, channels=expected.channels
    )


def test_a_wave_that_is_played_faster_sounds_higher():
    tone_S = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    faster_S = audio.played(tone_S, 1.25)
    power_K = np.abs(np.fft.rfft(faster_S))
    assert len(faster_S) == pytest.approx(12_800, abs=1)
    assert power_K.argmax() * 16_000 / len(faster_S) == pytest.approx(250, abs=2)
    assert audio.played(tone_S, 1.0) is tone_S
