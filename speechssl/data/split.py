"""`speechssl split`: divide the rows of a manifest into train, dev and test so that no speaker is on two sides."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.tables import read_manifest

PARTS = ("train", "dev", "test")


def split(
    manifests: Sequence[Path],
    out: Path | None = None,
    *,
    by: str = "speaker",
    dev: str = "10%",
    test: str = "10%",
    stratify: str = "",
    seed: int = 1,
    again: bool = False,
) -> str:
    """Write the rows of `manifests` with the column split into `out`, and say in lines what became of them.

    The arguments are those of the verb (verbs.py). InputError for rows without a value of `by`, for fewer values than parts,
    for rows that have a split already, and for shares that leave nothing to train on.
    """
    out, shares = output_file(out or default_out(manifests[0]), "split.tsv"), shares_of(dev, test)
    rows = read_manifest(*manifests)
    source = ", ".join(map(str, manifests))
    refuse_divided(rows, source, again)
    groups, strata = column_of(rows, by, source), column_of(rows, stratify, source) if stratify else [""] * len(rows)
    names = sorted(set(groups))
    wanted = [part for part in PARTS if shares[part]]
    if len(names) < len(wanted):
        raise InputError(
            f"{source} has {len(names)} {by}{'s' * (len(names) != 1)}, too few for {', '.join(wanted)} without one on two sides; "
            f"{'add rows' if by == 'id' else 'divide row by row with --by id, or use --test 0%'}"
        )
    timed = not np.isnan(rows.durations).any()
    weights = rows.durations if timed else np.ones(len(rows))
    weights_GS = sums_of(groups, names, strata, sorted(set(strata)), weights)
    places = dict(zip(names, divide(weights_GS, np.array([shares[part] for part in wanted]), seed)))
    done = [replace(row, split=wanted[places[group]]) for row, group in zip(rows, groups)]
    write_manifest(done, out)
    unit = "seconds" if timed else "rows, because not all durations are known"
    lines = [f"{out}: {len(done)} rows divided by {by}, shares of {unit}, seed {seed}"]
    lines += [line_of(part, [row for row in done if row.split == part], timed) for part in wanted]
    return "\n".join(lines + warnings_of(done, groups, strata, by, stratify, shares, weights))


def default_out(manifest: Path) -> Path:
    """all.tsv -> all.split.tsv, in the working folder. InputError if that exists: replacing it needs --out."""
    out = Path(f"{Path(manifest).stem}.split.tsv")
    if out.exists():
        raise InputError(f"{out} exists; name the file to write with --out ({out} too: it is then replaced)")
    return out


def shares_of(dev: str, test: str) -> dict[str, float]:
    """Part -> its share, from "10%" or "0.1". InputError for anything else, and where too little is left for train."""
    shares = {}
    for name, text in (("dev", dev), ("test", test)):
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise InputError(f"--{name} {text} is not a share; write 10% or 0.1")
        shares[name] = share
    if sum(shares.values()) >= 1:
        raise InputError(f"--dev {dev} and --test {test} leave nothing for train; lower one")
    return {"train": 1 - sum(shares.values()), **shares}


def refuse_divided(rows: Manifest, source: str, again: bool) -> None:
    """InputError if rows have a split already."""
    found = Counter(rows.cells("split"))
    del found[""]
    if found and not again:
        counts = ", ".join(f"{count} {name}" for name, count in found.most_common(6))
        raise InputError(
            f"{source} has rows with a split already ({counts}); use it as it is, or --again divides all rows anew"
        )


def column_of(rows: Manifest, name: str, source: str) -> list[str]:
    """The cells of a column. InputError if it is missing, or empty in some rows."""
    cells = rows.column(name)
    empty = sum(cell == "" for cell in cells)
    if empty:
        which = f"{empty} of {len(rows)} rows" if empty < len(rows) else "no row"
        verb = f"have no {name}" if empty < len(rows) else f"has a {name}"
        raise InputError(
            f"{source}: {which} {verb}; fill in the column, or take another one (--by id divides row by row)"
        )
    return cells


def sums_of(
    groups: Sequence[str], names: Sequence[str], strata: Sequence[str], labels: Sequence[str], weights: np.ndarray
) -> np.ndarray:
    """The weight of each label in each group, (G, S)."""
    group_of, label_of = ({name: place for place, name in enumerate(values)} for values in (names, labels))
    weights_GS = np.zeros((len(names), len(labels)))
    places = ([group_of[group] for group in groups], [label_of[label] for label in strata])
    np.add.at(weights_GS, places, weights)
    return weights_GS


def divide(weights_GS: np.ndarray, shares_P: np.ndarray, seed: int) -> list[int]:
    """The part of each group, such that every label comes near its share in every part; each part has a group at least.

    Groups too large to fit everywhere come first, the others in the order of the seed. Each goes where it lowers the chi-square
    distance between the weights found and wanted most; then single groups move for as long as that lowers it.
    """
    sizes_G, random = weights_GS.sum(axis=1), np.random.default_rng(seed)
    order = random.permutation(len(sizes_G))
    large = sizes_G[order] > shares_P.min() * sizes_G.sum() / 4
    order = [*sorted(order[large], key=lambda group: -sizes_G[group]), *order[~large]]
    cells_GC = np.hstack([weights_GS, sizes_G[:, None]]) / np.maximum([*weights_GS.sum(axis=0), sizes_G.sum()], 1e-9)
    found_PC, part_G = np.zeros((len(shares_P), cells_GC.shape[1])), np.full(len(sizes_G), -1)

    def cost_P(group: int) -> np.ndarray:
        """How much the distance grows if the group joins each part."""
        cell_C = cells_GC[group]
        return ((cell_C**2 + 2 * cell_C * (found_PC - shares_P[:, None])) / shares_P[:, None]).sum(axis=1)

    def move(group: int, part: int) -> None:
        if part_G[group] >= 0:
            found_PC[part_G[group]] -= cells_GC[group]
        found_PC[part] += cells_GC[group]
        part_G[group] = part

    for group in order:
        move(group, int(cost_P(group).argmin()))
    for part in np.flatnonzero(np.bincount(part_G, minlength=len(shares_P)) == 0):
        rich = [group for group in order if (part_G == part_G[group]).sum() > 1]
        move(min(rich, key=lambda group: sizes_G[group]), int(part))
    for _ in range(20 if len(order) <= 5000 else 0):
        moved = False
        for group in order:
            mine = part_G[group]
            if (part_G == mine).sum() < 2:
                continue
            found_PC[mine] -= cells_GC[group]
            costs_P = cost_P(group)
            best = int(costs_P.argmin()) if costs_P.min() < costs_P[mine] - 1e-9 else int(mine)
            found_PC[mine] += cells_GC[group]
            moved |= best != mine
            move(group, best)
        if not moved:
            break
    return part_G.tolist()


def line_of(part: str, rows: Sequence[Utterance], timed: bool) -> str:
    """train: rows, seconds, speakers and labels in a line."""
    seconds = f", {sum(row.duration for row in rows):.0f} s" if timed else ""
    labels = Counter(row.label for row in rows if row.label)
    shown = ", ".join(f"{label} {count}" for label, count in sorted(labels.items())[:12]) + " ..." * (len(labels) > 12)
    speakers = len({row.speaker for row in rows} - {""})
    return f"  {part}: {len(rows)} rows{seconds}, {speakers} speaker{'s' * (speakers != 1)}" + (
        f", labels: {shown}" if labels else ""
    )


def warnings_of(
    rows: Sequence[Utterance],
    groups: Sequence[str],
    strata: Sequence[str],
    by: str,
    stratify: str,
    shares: dict[str, float],
    weights: np.ndarray,
) -> list[str]:
    """Where the division is not what was asked for: shares that no group fits, and labels that a part lacks."""
    lines, total = [], weights.sum()
    for part, share in shares.items():
        found = sum(weight for row, weight in zip(rows, weights) if row.split == part) / total
        if share and abs(found - share) > 0.25 * share:
            lines.append(
                f"  {part} is {found:.1%} instead of {share:.1%}: a {by} is never divided, and there are {len(set(groups))}"
            )
    of_label: dict[str, set[str]] = defaultdict(set)
    parts_of: dict[str, set[str]] = defaultdict(set)
    for row, group, label in zip(rows, groups, strata):
        of_label[label].add(group)
        parts_of[label].add(row.split)
    for label in sorted(of_label) if stratify else ():
        if lacking := [part for part, share in shares.items() if share and part not in parts_of[label]]:
            lines.append(
                f"  {stratify} {label} is not in {' or '.join(lacking)}: only {len(of_label[label])} {by}s have it"
            )
    return lines
