"""`speechssl prepare --dry-run`: what would be read as what."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from speechssl.core.english import count
from speechssl.core.errors import InputError
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.prepare import ignored_note, looked_at
from speechssl.data.search import Part


def preview(src: Path, out: Path | None, *, where: str | Sequence[str] = "", **how: Any) -> str:
    """What `prepare` would read as what: each part with its evidence and its first rows. Nothing is decoded or written.

    how: see looked_at.
    """
    source = looked_at(src, out, **how)
    rows = count(len(source.rows.where(where)), "row")
    lines = [f"{src}: {rows} as {source.corpus}; nothing is decoded or written"]
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
    lines += [f"  {note}" for note in (*source.notes, *ignored_note(source.ignored))]
    if source.left_out:
        lines.append(f"  {len(source.left_out)} left out, such as {': '.join(source.left_out[0])}")
    return "\n".join(lines)


def chosen(rows: Manifest, part: Part, where: str | Sequence[str]) -> list[Utterance]:
    """The rows of a part that meet the conditions."""
    try:
        return list(rows.select(range(part.first, part.first + part.count)).where(where))
    except InputError:  # of this part none
        return []
