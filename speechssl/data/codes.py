"""Codes of frames, a Parquet file: what `speechssl cluster` writes and masked prediction learns.

One row for each utterance: its id, and `codes`, the numbers of its frames (T, C, V) end to end: V votes in each of C
codebooks. One vote is the cluster of a frame; several stand for a distribution over clusters. The metadata of the file name
the codebooks' sizes, the votes, the samples from frame to frame, and what was clustered.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import replacing

MANY = 4096  # utterances in a group of rows; lists are large ones, for 10,000 hours have more codes than 31 bits count


class FrameCodes:
    """The codes in a file. sizes: of the codebooks. votes: codes per frame and codebook. hop: samples from one frame to the next.
    source: what was clustered."""

    def __init__(self, path: Path) -> None:
        """InputError for a file that `write_codes` did not write."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, columns=["id", "codes"])
            known = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
            self.sizes = tuple(int(size) for size in known["speechssl.clusters"].split(","))
            self.hop, self.source = int(known["speechssl.hop"]), known["speechssl.source"]
            self.votes = int(known.get("speechssl.votes", "1"))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; make it: {by_hand(path)}") from None
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} does not hold codes of frames ({error}); make them: {by_hand(path)}") from None
        codes = table["codes"].combine_chunks()
        self.rows = {name: row for row, name in enumerate(table["id"].to_pylist())}
        self.ends = codes.offsets.to_numpy()
        self.codes_NCV = codes.values.to_numpy().reshape(-1, len(self.sizes), self.votes)

    def __contains__(self, name: str) -> bool:
        return name in self.rows

    def __getitem__(self, name: str) -> np.ndarray:
        """The codes (T, C, V) of the utterance with that id."""
        row, count = self.rows[name], len(self.sizes) * self.votes
        return self.codes_NCV[self.ends[row] // count : self.ends[row + 1] // count]


def by_hand(path: Path) -> str:
    """The command that makes codes."""
    return f"`speechssl cluster mfcc TRAIN.tsv VALID.tsv --out {path}`"


def write_codes(
    path: Path, named: Iterable[tuple[str, np.ndarray]], *, sizes: Iterable[int], votes: int = 1, hop: int, source: str
) -> None:
    """Write (id, codes (T, C, V)) of utterances, of which only some thousand exist at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {"clusters": ",".join(map(str, sizes)), "votes": str(votes), "hop": str(hop), "source": source}
    schema = pa.schema([("id", pa.string()), ("codes", pa.large_list(pa.uint16()))])
    schema = schema.with_metadata({f"speechssl.{name}": value for name, value in known.items()})
    with replacing(path) as draft, pq.ParquetWriter(draft, schema) as writer:
        ids: list[str] = []
        codes: list[Any] = []

        def flush() -> None:
            ends = np.cumsum([0, *map(len, codes)])
            values = np.concatenate([np.zeros(0, np.uint16), *codes])
            lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(values, pa.uint16()))
            writer.write_table(pa.table([pa.array(ids, pa.string()), lists], schema))
            ids.clear()
            codes.clear()

        for name, codes_TCV in named:
            ids.append(name)
            codes.append(codes_TCV.astype(np.uint16).ravel())
            if len(ids) == MANY:
                flush()
        flush()
