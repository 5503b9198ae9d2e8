"""A Parquet file of vectors in the making: finished runs of rows in files of their own, so that nothing is computed twice."""

import contextlib
import glob
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.manifest import Utterance, rejected_path, write_rejected
from speechssl.use.stream import SHARE, Outcome, reason

GROUP = 2**22  # numbers that are gathered before they are written
SECONDS = 600.0  # of audio whose results are gathered at most


class Merged(NamedTuple):
    """What a finished file holds. rejected: (path, reason) of the rows that have no vector."""

    rows: int
    width: int
    rejected: list[tuple[str, str]]


class Parts:
    """The folder of parts beside `out`. key: whatever the vectors depend on; parts of another key lie in another folder.

    A part is named after its first row and the one after its last. Where parts end is a function of the rows, so the merged file
    is the same however often the work was stopped and by however many processes it was done.
    """

    def __init__(self, out: Path, meta: dict[str, str], key: str) -> None:
        self.out, self.meta = out, {f"speechssl.{name}": value for name, value in meta.items()}
        self.several, self.framed = meta["layer"] in ("all", "weighted"), meta["pool"] == "none"
        self.folder = output_folder(out.with_name(f"{out.name}.{key}.parts"))
        self.waiting: list[Outcome] = []
        self.seconds = 0.0  # of audio in the parts that this process has written

    def files(self) -> list[Path]:
        """The finished parts in the order of their rows."""
        return sorted(self.folder.glob("*.parquet"))

    def finished(self) -> list[tuple[int, int]]:
        """Their ranges of rows."""
        ranges = [file.stem.split("-") for file in self.files()]
        return [(int(first), int(stop)) for first, stop in ranges]

    def add(self, batch: list[Outcome]) -> None:
        """Some results more. A part holds whole batches, and ends with its share at the latest."""
        self.waiting += batch
        good = [result for result in self.waiting if not isinstance(result.value, InputError)]
        large = sum(result.row.duration for result in good) > SECONDS or sum(np.size(r.value) for r in good) > GROUP
        if large or (batch[-1].index + 1) % SHARE == 0:
            self.write()

    def write(self) -> None:
        """Write the results that wait as one part."""
        import pyarrow.parquet as pq

        if not self.waiting:
            return
        good = [result for result in self.waiting if not isinstance(result.value, InputError)]
        rejected = [(r.row.path, reason(r)) for r in self.waiting if isinstance(r.value, InputError)]
        table = self.table([result.row for result in good], [result.value for result in good])
        name = f"{self.waiting[0].index:09d}-{self.waiting[-1].index + 1:09d}.parquet"
        with replacing(self.folder / name) as draft:
            pq.write_table(table.replace_schema_metadata({"rejected": json.dumps(rejected)}), draft)
        self.seconds += sum(result.row.duration for result in good)
        self.waiting = []

    def merge(self) -> Merged:
        """Make the file of all parts, list what has no vector, and remove the parts. InputError when nothing has one."""
        import pyarrow.parquet as pq

        rows, width, rejected = 0, 0, []
        with replacing(self.out) as draft, contextlib.ExitStack() as stack:
            writer: Any = None
            for table in self.groups(rejected):
                writer = writer or stack.enter_context(pq.ParquetWriter(draft, table.schema))
                writer.write_table(table)
                rows += table.num_rows
                width = len(table[table.column_names[-1]][0]) // (table["frames"][0].as_py() if self.framed else 1)
            write_rejected(rejected, self.out)
            if writer is None:
                first = f"the first: {' '.join(rejected[0])}; all are listed in {rejected_path(self.out)}"
                self.remove()
                raise InputError(f"none of the {len(rejected)} clips could be embedded; {first}")
        self.remove()
        return Merged(rows, width, rejected)

    def groups(self, rejected: list[tuple[str, str]]) -> Iterator[Any]:
        """The parts as tables of some size; what they say of rows without a vector is added to `rejected`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables: list[Any] = []
        for file in self.files():
            table = pq.read_table(file)
            rejected += map(tuple, json.loads(table.schema.metadata[b"rejected"]))
            tables += [table.replace_schema_metadata(self.meta)] if table.num_rows else []
            if sum(table.nbytes for table in tables) > 4 * GROUP:
                yield pa.concat_tables(tables)
                tables = []
        if tables:
            yield pa.concat_tables(tables)

    def remove(self) -> None:
        """Remove the parts, and those of other models, options and clips that were once begun for the same file."""
        for folder in self.out.parent.glob(f"{glob.escape(self.out.name)}.*.parts"):
            shutil.rmtree(folder)

    def table(self, rows: list[Utterance], vectors: list[np.ndarray]) -> Any:
        """Rows as columns."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            name: pa.array([getattr(row, name) for row in rows], pa.string())
            for name in ("id", "path", "speaker", "label", "text", "split")
        }
        columns["duration"] = pa.array([row.duration for row in rows], pa.float64())
        if self.framed:
            columns["frames"] = pa.array([int(vector.shape[-2]) for vector in vectors], pa.int32())
        named = {"vector": vectors}
        if self.several:
            layers = len(vectors[0]) if vectors else 0
            named = {f"vector_{i:02d}": [vector[i] for vector in vectors] for i in range(layers)}
        for name, column in named.items():
            columns[name] = pa.array([np.ravel(v).astype(np.float32) for v in column], pa.list_(pa.float32()))
        return pa.table(columns)
