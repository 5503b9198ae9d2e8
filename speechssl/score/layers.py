"""`speechssl layers`: which layer and pooling of a model tells a user's own labels apart, on unseen speakers."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.data.channels import segment_of
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.sources import rows_of
from speechssl.score.metrics import Result
from speechssl.score.probe import probe_vectors, to_values
from speechssl.sound import audio
from speechssl.sound.features import log_mel_statistics
from speechssl.use.embed import LONGEST, embed_clip, embed_waves
from speechssl.use.stream import BATCH, stream_clips

HOW: dict[str, Any] = {"layer": "all", "pool": "mean+max"}


def rank_layers(
    model: Any,
    manifest: Path,
    *,
    label: str = "label",
    group: str = "speaker",
    where: str | Sequence[str] = "",
    folds: int = 5,
) -> Result:
    """Probe every layer with both poolings, and log-mel statistics; the best layer comes first.

    The rows choose, so they must not be those of a test. InputError: no label or group, audio that cannot be read.
    """
    rows = rows_of([manifest], where)
    labels, groups = (to_values(manifest, name, rows.column(name)) for name in (label, group))
    x_NLD = embed_rows(model, rows)
    width, named = x_NLD.shape[2] // 2, {}
    for layer in range(x_NLD.shape[1]):
        named[f"layer {layer}, mean"] = x_NLD[:, layer, :width]
        named[f"layer {layer}, mean+max"] = x_NLD[:, layer]
    named["log-mel statistics"] = np.stack([log_mel_statistics(wave_of(row)) for row in rows])
    how: dict[str, Any] = {"label": label, "group": group, "folds": folds, "model": str(model.source)}
    result = probe_vectors(named, labels, groups, **how, mixture=False)
    result.scores.sort(key=lambda score: -score.uar)
    return result


def wave_of(row: Utterance) -> np.ndarray:
    """The audio of a row."""
    return audio.load(row.path, **segment_of(row))


def embed_rows(model: Any, rows: Manifest) -> np.ndarray:
    """Mean and maximum over time of every layer of every clip: (N, L, 2 D)."""
    results = stream_clips(
        rows,
        range(len(rows)),
        partial(embed_waves, model, **HOW),
        partial(embed_clip, model, **HOW),
        reach=model.config.geometry.receptive_field,
        longest=LONGEST,
        batch_seconds=BATCH[model.device.type],
        what="embed",
    )
    found = []
    for result in chain.from_iterable(results):
        if isinstance(result.value, InputError):
            raise result.value
        found.append(result.value)
    return np.stack(found)
