"""An unfinished Parquet file of vectors: finished rows lie in part files, so that nothing is computed twice after a kill."""

import contextlib
import glob
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.manifest import Utterance, rejected_path, write_rejected
from speechssl.use.stream import SHARE, Outcome, reason

GROUP = 2**22  # numbers that are collected before they are written
SECONDS = 600.0  # of audio whose results are collected at most
TEXTS = ("id", "path", "channel", "speaker", "label", "text", "split")
# floats do not repeat: a dictionary of them costs memory and space
ENCODING: dict[str, Any] = {"use_dictionary": list(TEXTS)}


class Parts:
    """The folder of parts beside `out`. key: a hash of all that the vectors depend on; another key means another folder.

    The name of a part is its first row and the row after its last. Where parts end depends on the rows only, so the merged file
    is the same however often the work was stopped and however many processes shared it.
    """

    def __init__(self, out: Path, meta: dict[str, str], key: str) -> None:
        self.out, self.meta = out, {f"speechssl.{name}": value for name, value in meta.items()}
        self.several, self.framed = meta["layer"] in ("all", "weighted"), meta["pool"] == "none"
        self.folder = output_folder(out.with_name(f"{out.name}.{key}.parts"))
        self.waiting: list[Outcome] = []
        self.seconds = 0.0  # of audio in the parts written by this process

    def files(self) -> list[Path]:
        """The finished parts in the order of their rows."""
        return sorted(self.folder.glob("*.parquet"))

    def remove_damaged(self) -> None:
        """Remove and report the parts that cannot be read, as after a power cut; their rows count as not done."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        damaged = 0
        for file in self.files():
            try:
                pq.read_table(file, page_checksum_verification=True)
            except (pa.ArrowException, OSError):
                file.unlink()
                damaged += 1
        if damaged:
            print(f"{self.out}: {damaged} damaged parts are removed; their clips are embedded again", file=sys.stderr)

    def finished(self) -> list[tuple[int, int]]:
        """The ranges of rows of the finished parts."""
        ranges = [file.stem.split("-") for file in self.files()]
        return [(int(first), int(stop)) for first, stop in ranges]

    def add(self, batch: list[Outcome]) -> None:
        """Add results; write a part when it is large, or when its share of SHARE rows ends."""
        self.waiting += batch
        good = [result for result in self.waiting if not isinstance(result.value, InputError)]
        large = sum(result.row.duration for result in good) > SECONDS or sum(np.size(r.value) for r in good) > GROUP
        if large or (batch[-1].index + 1) % SHARE == 0:
            self.write()

    def write(self) -> None:
        """Write the waiting results as one part."""
        import pyarrow.parquet as pq

        if not self.waiting:
            return
        good = [result for result in self.waiting if not isinstance(result.value, InputError)]
        rejected = [(r.row.path, reason(r)) for r in self.waiting if isinstance(r.value, InputError)]
        table = self.table([result.row for result in good], [result.value for result in good])
        name = f"{self.waiting[0].index:09d}-{self.waiting[-1].index + 1:09d}.parquet"
        with replacing(self.folder / name) as draft:
            table = table.replace_schema_metadata({"rejected": json.dumps(rejected)})
            pq.write_table(table, draft, write_page_checksum=True, **ENCODING)
        self.seconds += sum(result.row.duration for result in good)
        self.waiting = []

    def merge(self) -> tuple[int, int, list[tuple[str, str]]]:
        """Join the parts in `out`, list the rows without a vector, remove the parts. InputError if no row has a vector.

        Returns the number of rows, that of numbers in a vector, and (path, reason) of the rows without one."""
        import pyarrow.parquet as pq

        rows, width, rejected = 0, 0, []
        with replacing(self.out) as draft, contextlib.ExitStack() as stack:
            writer: Any = None
            for table in self.groups(rejected):
                writer = writer or stack.enter_context(pq.ParquetWriter(draft, table.schema, **ENCODING))
                writer.write_table(table)
                rows += table.num_rows
                width = len(table[table.column_names[-1]][0]) // (table["frames"][0].as_py() if self.framed else 1)
            write_rejected(rejected, self.out)
            if writer is None:
                first = f"the first: {' '.join(rejected[0])}; all are listed in {rejected_path(self.out)}"
                self.remove()
                raise InputError(f"none of the {len(rejected)} clips could be embedded; {first}")
        self.remove()
        return rows, width, rejected

    def groups(self, rejected: list[tuple[str, str]]) -> Iterator[Any]:
        """The parts, joined to tables of some size; adds their rows without a vector to `rejected`."""
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
        """Remove the parts, and those of other models, options or clips that were begun for the same file."""
        for folder in self.out.parent.glob(f"{glob.escape(self.out.name)}.*.parts"):
            shutil.rmtree(folder)

    def table(self, rows: list[Utterance], vectors: list[np.ndarray]) -> Any:
        """Rows and their vectors as columns."""
        import pyarrow as pa

        columns: dict[str, Any] = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in TEXTS}
        columns["duration"] = pa.array([row.duration for row in rows], pa.float64())
        if self.framed:
            columns["frames"] = pa.array([int(vector.shape[-2]) for vector in vectors], pa.int32())
        named = {"vector": vectors}
        if self.several:
            layers = len(vectors[0]) if vectors else 0
            named = {f"vector_{i:02d}": [vector[i] for vector in vectors] for i in range(layers)}
        for name, column in named.items():
            columns[name] = lists([np.ravel(vector).astype(np.float32, copy=False) for vector in column])
        return pa.table(columns)


def lists(vectors: list[np.ndarray]) -> Any:
    """Float vectors as a column of lists; a single one is not copied."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, vectors)])
    values = vectors[0] if len(vectors) == 1 else np.concatenate([np.zeros(0, np.float32), *vectors])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.float32()))
