"""Wrote the files in this folder, with datasets 5.2.0 and lhotse 1.33.0, which are too large for the tests' own environment:

cp data/fsdd/7_theo_0.flac a.flac; cp data/fsdd/3_george_1.flac b.flac; python tests/data/tables/write.py tests/data/tables
"""

import sys
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, Features, Value
from datasets.table import InMemoryTable
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

OUT = Path(sys.argv[1])
TEXTS = ['"SEVEN", she said; well', "three"]
features = Features(
    {
        **dict.fromkeys(("id", "sentence", "client_id"), Value("string")),
        "audio": Audio(decode=False),
        "emotion": ClassLabel(names=["calm", "angry"]),
    }
)
columns = {"id": ["a", "b"], "sentence": TEXTS, "client_id": ["theo", "george"], "emotion": [1, 0]}
columns["audio"] = [{"bytes": Path(name).read_bytes(), "path": name} for name in ("a.flac", "b.flac")]
data = Dataset(InMemoryTable.from_pydict(columns, schema=features.arrow_schema), fingerprint="digits")
data.to_parquet(OUT / "embedded.parquet")  # the bytes of the audio lie in it, as on the hub
data.save_to_disk(OUT / "saved")

recordings = RecordingSet.from_recordings(
    Recording.from_file(name, recording_id=name[0]) for name in ("a.flac", "b.flac")
)
supervisions = SupervisionSet.from_segments(
    SupervisionSegment(
        id=one.id,
        recording_id=one.id,
        start=0.0,
        duration=one.duration,
        text=text,
        speaker=speaker,
        custom={"emotion": label},
    )
    for one, text, speaker, label in zip(recordings, TEXTS, ("theo", "george"), ("angry", "calm"))
)
recordings.to_file(OUT / "digits_recordings_train.jsonl.gz")
supervisions.to_file(OUT / "digits_supervisions_train.jsonl.gz")
recordings.to_file(OUT / "recordings.json")
cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
cuts.to_file(OUT / "cuts.jsonl.gz")
CutSet.from_cuts([cuts[0].perturb_speed(1.1)]).to_file(OUT / "faster.jsonl")
CutSet.from_cuts([cuts[0].append(cuts[1])]).to_file(OUT / "mixed.jsonl")
