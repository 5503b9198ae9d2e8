"""Transcripts of a model, the surest of them, as a manifest to fine-tune on; see the README beside this file.

    python pseudo_labels.py unlabeled.tsv transcripts/ --share 0.5 --out pseudo.tsv

transcripts/ is what `speechssl transcribe MODEL unlabeled.tsv --format json --out transcripts/` wrote. How sure a model is of an
utterance is the mean probability of its characters.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.tables import read_manifest


def confidence(transcript: dict[str, Any]) -> float:
    """The mean probability of the characters; 0 for an empty transcript."""
    sizes = [len(word["text"]) for word in transcript["words"]]
    weighted = sum(size * word["score"] for size, word in zip(sizes, transcript["words"], strict=True))
    return weighted / sum(sizes) if sizes else 0.0


def surest(rows: Manifest, folder: Path, share: float, least: float) -> list[Utterance]:
    """The rows with the model's transcript as their text: the best `share` of all, of those of at least the confidence `least`.
    InputError for a row without a transcript."""
    found = []
    for row in rows:
        file = folder / f"{row.id}.json"
        if not file.exists():
            raise InputError(f"{file} is missing; transcribe these rows with --format json --out {folder}")
        transcript = json.loads(file.read_text(encoding="utf-8"))
        sure = confidence(transcript)
        extra = {**row.extra, "confidence": f"{sure:.4f}"}
        found.append((sure, replace(row, text=transcript["text"], split="train", extra=extra)))
    found.sort(key=lambda pair: (-pair[0], pair[1].id))
    return [row for sure, row in found[: round(share * len(found))] if sure >= least and row.text]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, write the manifest, and report how many rows it has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("manifest", type=Path, help="the table that was transcribed")
    parser.add_argument("transcripts", type=Path, help="the folder of its transcripts")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write")
    parser.add_argument("--where", nargs="+", default=[], help="only these rows, as in `speechssl transcribe`")
    parser.add_argument("--share", type=float, default=1.0, help="the surest part of the rows (default: all)")
    parser.add_argument("--least", type=float, default=0.0, help="the lowest confidence (default: any)")
    given = parser.parse_args(argv)
    rows = read_manifest(given.manifest).where(given.where)
    kept = surest(rows, given.transcripts, given.share, given.least)
    if not kept:
        raise InputError(f"no transcript has a confidence of {given.least:g}; lower --least")
    write_manifest(kept, given.out)
    print(f"{given.out}: {len(kept)} of {len(rows)} utterances, confidence {kept[-1].extra['confidence']} and above")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
