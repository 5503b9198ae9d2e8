"""`speechssl prepare --dry-run`: what would be read as what."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from speechssl.core.errors import InputError
from speechssl.data.columns import Reading, parse_columns
from speechssl.data.corpora import find
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.search import Part


def preview(
    src: Path,
    out: Path | None,
    *,
    corpus: str = "auto",
    pattern: str = "",
    tier: str = "",
    where: str | Sequence[str] = "",
    columns: Sequence[str] = (),
    encoding: str = "",
) -> str:
    """What `prepare` would read as what: each part with its evidence and its first rows. Nothing is decoded or written."""
    reading = Reading(columns=parse_columns(columns), encoding=encoding)
    source = find(Path(src), corpus, pattern, reading, tier=tier, skip=out)
    count = len(source.rows.where(where))
    lines = [f"{src}: {count} rows as {source.corpus}; nothing is decoded or written"]
    for part in source.parts:
        lines.append(f"  {part.described()}")
        for row in chosen(source.rows, part, where)[:3]:
            cells = (
                ("speaker", row.speaker),
                ("label", row.label),
                ("split", row.split),
                ("text", shorten(row.text, 60)),
            )
            times = f" {row.start:g}+{row.duration:g} s" if not math.isnan(row.duration) else ""
            path = os.path.relpath(row.path, src if src.is_dir() else src.parent)
            lines.append(f"    {path}{times}: " + ", ".join(f"{name} {cell}" for name, cell in cells if cell))
    lines += [f"  {note}" for note in source.notes]
    if source.left_out:
        lines.append(f"  {len(source.left_out)} left out, such as {': '.join(source.left_out[0])}")
    if source.ignored:
        lines.append(f"  {source.ignored} other files ignored")
    return "\n".join(lines)


def chosen(rows: Manifest, part: Part, where: str | Sequence[str]) -> list[Utterance]:
    """The rows of a part that meet the conditions."""
    try:
        return list(rows.select(range(part.first, part.first + part.count)).where(where))
    except InputError:  # of this part none
        return []
