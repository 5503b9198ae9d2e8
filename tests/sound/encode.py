"""Files that PyAV writes, for tests."""

from pathlib import Path

import av
import numpy as np
import soxr


def encode(
    path: Path,
    wave_S: np.ndarray,
    codec: str,
    *,
    rate: int = 16_000,
    kbit: int = 0,
    video: bool = False,
    title: str = "",
    **options: str,
) -> Path:
    """Write a wave at 16 kHz through a codec at its rate; the ending of `path` names the container. options: of the container."""
    samples = np.clip(soxr.resample(wave_S, 16_000, rate) * 32767, -32768, 32767).astype(np.int16)
    whole = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    whole.sample_rate = rate
    with av.open(str(path), "w", options=options) as file:
        file.metadata["title"] = title
        if video:
            picture = file.add_stream("mpeg4", rate=25)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        stream = file.add_stream(codec, rate=rate, layout="mono")
        if kbit:
            stream.bit_rate = 1000 * kbit
        for number in range(25 if video else 0):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8))
            frame.pts = number
            file.mux(picture.encode(frame))
        if video:
            file.mux(picture.encode())
        held, resampler, at = av.AudioFifo(), av.AudioResampler(format=stream.format, layout="mono", rate=rate), 0
        for frame in [*resampler.resample(whole), *resampler.resample(None)]:
            held.write(frame)
        while (frame := held.read(stream.frame_size or 1024)) or (frame := held.read()):
            frame.pts, at = at, at + frame.samples
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
