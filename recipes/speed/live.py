"""What streaming costs: errors against the transcripts of the clips themselves, how late final words are, and time.

    python recipes/speed/live.py MODEL table.tsv [--settings 5/1/0.5 10/1/0.5 ...] [--gap 0.5] [--minutes 5]

The rows of the table are joined to one recording, with silence after each. A setting is context/look-ahead/step in seconds. One
core is used, and time is that of the processor, of which other programs take nothing.
"""

import argparse
import time
from pathlib import Path

import jiwer
import numpy as np
import torch

import speechssl
from speechssl.data.channels import segment_of
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.use.language import normaliser_of

HEAD = """\
| context / look-ahead / step | CER to the clips | to the reference | final after (median, 95 %) | core-seconds a second |
|---|---|---|---|---|"""


def main() -> None:
    """Print a line for the whole recording and one for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--settings", nargs="+", default=["5/1/0.5", "10/1/0.5", "3/1/0.5", "5/0.5/0.5", "5/2/1"])
    parser.add_argument("--gap", type=float, default=0.5, help="seconds of silence after each row")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the recording, about")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, clips, texts = speechssl.load(args.model), [], []
    for row in read_manifest(args.table):
        if sum(map(len, clips)) < args.minutes * 60 * audio.SAMPLE_RATE:
            clips.append(audio.load(row.path, **segment_of(row)))
            texts.append(row.text)
    gap_S, normal = np.zeros(int(args.gap * audio.SAMPLE_RATE), np.float32), normaliser_of(model, "auto", {})
    wave_S = np.concatenate([piece for clip in clips for piece in (clip, gap_S)])
    seconds, reference = len(wave_S) / audio.SAMPLE_RATE, normal(" ".join(texts))
    print(f"{len(texts)} rows, {seconds:.0f} s\n{HEAD}")
    began = time.process_time()
    alone = normal(" ".join(model.transcribe(clip).text for clip in clips))
    spent = (time.process_time() - began) / seconds
    print(f"| each clip by itself | | {100 * jiwer.cer(reference, alone):.1f} % | | {spent:.3f} |")
    for setting in args.settings:
        options = dict(zip(("context", "look_ahead", "step"), map(float, setting.split("/")), strict=True))
        began = time.process_time()
        final = [event for event in model.stream([wave_S], **options) if event.kind == "final"]
        spent = (time.process_time() - began) / seconds
        text = normal(" ".join("".join(event.text + "\n" * event.pause for event in final).split()))
        late = [event.seconds - word.end for event in final[:-1] for word in event.words]
        errors = [f"{100 * jiwer.cer(of, text):.1f} %" for of in (alone, reference)]
        times = ", ".join(f"{value:.2f} s" for value in np.percentile(late, [50, 95]))
        print(f"| {setting.replace('/', ' / ')} | {' | '.join(errors)} | {times} | {spent:.3f} |", flush=True)


if __name__ == "__main__":
    main()
