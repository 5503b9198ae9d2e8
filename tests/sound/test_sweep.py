"""Every container and codec: one length and one wave in prepare, load, segments and windows; what is cut is refused."""

import av
import numpy as np
import pytest
import soundfile
import soxr

from speechssl.core.errors import DamagedError, InputError
from speechssl.data.prepare import inspect
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.sound import audio
from speechssl.sound.windows import windows
from tests.sound.encode import encode

GEOMETRY = Wav2Vec2Config().geometry
UNREADABLE = {"DWVW_12", "DWVW_16", "DWVW_24"}  # libsndfile itself cannot read them in parts
DECODED_ONLY = {
    ("MP3", "MPEG_LAYER_I"),
    ("MP3", "MPEG_LAYER_II"),
    ("WAV", "MPEG_LAYER_III"),
}  # it reads and never writes
HEADLESS = {"RAW", "SD2"}  # no header, or in another file
NO_SIZE = {"IRCAM", "MAT5", "MPC2K", "PAF", "PVF", "XI"}  # a header without a length
WRITTEN = [
    (kind, codec)
    for kind in soundfile.available_formats()
    for codec in soundfile.available_subtypes(kind)
    if kind not in HEADLESS and codec not in UNREADABLE and (kind, codec) not in DECODED_ONLY
]
ENCODED = {
    "aac.m4a": ("aac", {}),
    "alac.m4a": ("alac", {}),
    "aac.aac": ("aac", {}),
    "aac.mov": ("aac", {"rate": 44_100, "video": True}),
    "aac.mp4": ("aac", {"rate": 48_000, "video": True}),
    "fast.mp4": ("aac", {"movflags": "faststart"}),
    "fragments.mp4": ("aac", {"movflags": "frag_keyframe+empty_moov"}),
    "amr.3gp": ("amr_nb", {"rate": 8_000}),
    "amr.amr": ("amr_nb", {"rate": 8_000}),
    "opus.webm": ("libopus", {"rate": 48_000}),
    "opus.mkv": ("libopus", {"rate": 48_000, "video": True}),
    "flac.mka": ("flac", {}),
    "flac.oga": ("flac", {}),
    "opus.opus": ("libopus", {"rate": 48_000}),
    "wma.wma": ("wmav2", {"kbit": 32}),
    "mp3.avi": ("libmp3lame", {"video": True}),
    "mp3.mp3": ("libmp3lame", {}),
    "mp2.mp2": ("mp2", {}),
    "aac.flv": ("aac", {"rate": 44_100}),
    "ac3.ac3": ("ac3", {"rate": 48_000}),
    "eac3.eac3": ("eac3", {"rate": 48_000}),
    "aac.ts": ("aac", {}),
    "g726.wav": ("g726", {"rate": 8_000}),
    "adpcm.wav": ("adpcm_ima_wav", {}),
    "mp3.wav": ("libmp3lame", {}),
    "g722.wav": ("g722", {}),
    "opus.mp4": ("libopus", {"rate": 48_000}),
    "pcm.mov": ("pcm_s16be", {"rate": 44_100}),
    "pcm.caf": ("pcm_s16be", {}),
    "wavpack.wv": ("wavpack", {}),
    "tta.tta": ("tta", {}),
}


def write(path, wave_S, kind, codec) -> None:
    """By soundfile, at the first rate that the codec can have."""
    for rate in {"XI": (44_100,), "WVE": (8_000,)}.get(kind, (16_000, 8_000, 48_000, 44_100)):  # two have but one
        try:
            return soundfile.write(path, soxr.resample(wave_S, 16_000, rate), rate, format=kind, subtype=codec)
        except soundfile.LibsndfileError:
            continue
    raise AssertionError(f"soundfile cannot write {kind} {codec}")


def agree(path, wave_S, padding) -> None:
    """All ways of reading a file give the same samples, and they are those of the wave up to its codec's noise."""
    whole, found = audio.load(path), inspect(str(path))
    assert found.get("reason") is None
    assert found["seconds"] == pytest.approx(len(whole) / 16_000, abs=1e-4)
    assert audio.info(path).duration == pytest.approx(found["seconds"], abs=1e-9)
    assert -0.035 <= len(whole) / 16_000 - len(wave_S) / 16_000 <= padding
    for start, duration in ((0.0, 0.3), (0.4, 0.5), (0.9, None)):
        part, first = audio.load(path, start=start, duration=duration), round(start * 16_000)
        expected = whole[first:][: None if duration is None else round(duration * 16_000)]
        assert abs(len(part) - len(expected)) <= 1
        size = min(len(part), len(expected))
        np.testing.assert_allclose(part[:size], expected[:size], atol=1e-3)
    read = list(windows(path, GEOMETRY, window=0.5, context=0.1))
    expected = list(windows(whole, GEOMETRY, window=0.5, context=0.1))
    assert [piece.rows for piece in read] == [piece.rows for piece in expected]
    for piece, other in zip(read, expected, strict=True):
        np.testing.assert_allclose(piece.wave_S, other.wave_S, atol=1e-3)
    spectra = [np.abs(np.fft.rfft(wave, 65_536)) for wave in (whole, wave_S)]
    assert np.corrcoef(*(spectrum[1_000:12_000] for spectrum in spectra))[0, 1] > 0.7


@pytest.mark.parametrize("kind, codec", WRITTEN)
def test_what_soundfile_writes(kind, codec, clip, tmp_path):
    write(tmp_path / "x", clip, kind, codec)
    agree(tmp_path / "x", clip, padding=0.06)


@pytest.fixture(params=ENCODED)
def encoded(request, clip, tmp_path):
    """The clip as PyAV writes it; wheels of PyAV differ in the encoders of their FFmpeg (AMR)."""
    codec, how = ENCODED[request.param]
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    encode(tmp_path / request.param, clip, codec, **how)
    return tmp_path / request.param


def test_what_pyav_writes(encoded, clip):
    agree(encoded, clip, padding=0.13)


def refuse_half(path, half) -> None:
    """Every way of reading the first part of a file says that it is cut."""
    data = path.read_bytes()
    half.write_bytes(data[: len(data) * 6 // 10])
    assert inspect(str(half))["reason"].startswith(("truncated", "cannot be used"))
    with pytest.raises(InputError) as caught:
        audio.load(half)
    assert isinstance(caught.value, DamagedError) or "cannot be decoded" in str(caught.value)
    with pytest.raises(InputError):
        list(windows(half, GEOMETRY, window=0.5))


@pytest.mark.parametrize("kind, codec", [pair for pair in WRITTEN if pair[0] not in NO_SIZE])
def test_what_soundfile_wrote_and_was_cut(kind, codec, clip, tmp_path):
    write(tmp_path / "x", clip, kind, codec)
    refuse_half(tmp_path / "x", tmp_path / "half")


def test_what_pyav_wrote_and_was_cut(encoded, tmp_path):
    refuse_half(encoded, tmp_path / "half")
