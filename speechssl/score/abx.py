"""ABX (Schatz et al. 2013): is a token of a phone closer to another token of it than to one of another phone?

X and A are tokens of one phone, B of another; the error is the share of triples in which X is closer to B. Within: all three of
one speaker. Across: X of another speaker than A and B. Distance: the mean angle along the path of dynamic time warping. Tokens
are drawn with a cap, so that rare phones and speakers weigh alike.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines

K = TypeVar("K")
BUCKETS = (2, 3, 4, 5, 7, 9, 12, 17, 24, 36, 10_000)  # lengths up to which tokens are padded alike


class Token(NamedTuple):
    """One line of an item file; times in seconds. context: the phones before and after."""

    file: str
    onset: float
    offset: float
    phone: str
    context: str
    speaker: str


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Which tokens count. shortest, longest: seconds. least, most: tokens of a phone and speaker (and context). pairs: ordered
    pairs of speakers at most. in_context: A, B and X share the phones before and after."""

    shortest: float = 0.03
    longest: float = 0.35
    least: int = 3
    most: int = 12
    pairs: int = 120
    seed: int = 0
    in_context: bool = False


class Frames(NamedTuple):
    """Features of a file. values_TD: one row a frame. rate: frames per second. centre: of frame 0, in seconds."""

    values_TD: np.ndarray
    rate: float
    centre: float


class Score(NamedTuple):
    """Errors from 0 to 1. within_S: by speaker. across_P: by pair of speakers, (speaker of A and B, speaker of X)."""

    within_S: dict[str, float]
    across_P: dict[tuple[str, str], float]

    @property
    def within(self) -> float:
        """Mean over speakers."""
        return float(np.mean(list(self.within_S.values())))

    @property
    def across(self) -> float:
        """Mean over pairs of speakers."""
        return float(np.mean(list(self.across_P.values())))

    def by_speaker(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors within and across of each speaker (across: of X), for standard errors, paired ones too."""
        of_x = defaultdict(list)
        for (_, speaker), error in sorted(self.across_P.items()):
            of_x[speaker].append(error)
        within = [error for _, error in sorted(self.within_S.items())]
        return np.array(within), np.array([np.mean(errors) for _, errors in sorted(of_x.items())])


def standard_error(values: np.ndarray) -> float:
    """Of the mean of some speakers' values; nan for a single one."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def read_items(path: Path) -> list[Token]:
    """The tokens of an item file in Libri-light's format: `#file onset offset #phone prev-phone next-phone speaker`."""
    if not path.is_file():
        raise InputError(
            f"{path} is no file; give an item file: lines of `file onset offset phone previous next speaker`"
        )
    tokens = []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split()
        if not cells or (number == 1 and line.startswith("#")):
            continue
        try:
            file, onset, offset, phone, before, after, speaker = cells
            tokens.append(Token(file, float(onset), float(offset), phone, f"{before} {after}", speaker))
        except ValueError:
            raise InputError(
                f"{path} line {number} is not `file onset offset phone previous next speaker`; write seven cells there"
            ) from None
    return tokens


def draw(tokens: Sequence[Token], caps: Caps) -> dict[str, list[Token]]:
    """The tokens that count, by speaker, sorted by phone; speakers with fewer than two phones are left out.

    InputError for fewer than two speakers.
    """
    groups = defaultdict(list)
    for token in tokens:
        if caps.shortest <= token.offset - token.onset <= caps.longest:
            groups[token.speaker, token.phone, token.context if caps.in_context else ""].append(token)
    rng = np.random.default_rng(caps.seed)
    chosen = defaultdict(list)
    for (speaker, _, _), group in sorted(groups.items()):
        if len(group) >= caps.least:
            picked = rng.choice(len(group), size=min(len(group), caps.most), replace=False)
            chosen[speaker] += [group[i] for i in sorted(picked)]
    found = {speaker: own for speaker, own in chosen.items() if len({token.phone for token in own}) > 1}
    if len(found) < 2:
        raise InputError(
            f"ABX needs two speakers with {caps.least} tokens of two phones{' in one context' if caps.in_context else ''}; "
            f"the items have {len(found)}"
        )
    return found


def speaker_pairs(speakers: Sequence[str], caps: Caps) -> list[tuple[str, str]]:
    """Ordered pairs of different speakers, a random choice when there are more than the cap."""
    pairs = [(a, b) for a in speakers for b in speakers if a != b]
    if len(pairs) <= caps.pairs:
        return pairs
    picked = np.random.default_rng(caps.seed).choice(len(pairs), size=caps.pairs, replace=False)
    return [pairs[i] for i in sorted(picked)]


def cut(frames: Frames, token: Token) -> np.ndarray:
    """The frames whose centres lie in a token, one at least, as unit vectors."""
    first, stop = (int(np.ceil((at - frames.centre) * frames.rate - 1e-6)) for at in (token.onset, token.offset))
    first = min(max(first, 0), len(frames.values_TD) - 1)
    piece_TD = frames.values_TD[first : max(stop, first + 1)]
    return piece_TD / np.maximum(np.linalg.norm(piece_TD, axis=1, keepdims=True), 1e-9)


def in_buckets(pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The numbers of the tokens, grouped by about equal length."""
    lengths = np.array([len(piece) for piece in pieces])
    groups = np.searchsorted(BUCKETS, lengths)
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


def warped(cost_MNIJ: np.ndarray, lengths_I: np.ndarray, lengths_J: np.ndarray) -> np.ndarray:
    """Mean cost along the cheapest path of dynamic time warping (I, J), for pairs of padded tokens at once.

    cost_MNIJ: cost between frame m of token i and frame n of token j. What lies behind a token's own length is never used.
    """
    rows, columns = cost_MNIJ.shape[:2]
    result_IJ = np.empty(cost_MNIJ.shape[2:], np.float32)
    above: list[tuple[np.ndarray, np.ndarray]] = []
    for m in range(rows):
        here: list[tuple[np.ndarray, np.ndarray]] = []
        for n in range(columns):
            if m and n:
                total_IJ, steps_IJ = above[n - 1]
                for other_IJ, other_steps_IJ in (above[n], here[n - 1]):
                    cheaper = other_IJ < total_IJ
                    total_IJ = np.where(cheaper, other_IJ, total_IJ)
                    steps_IJ = np.where(cheaper, other_steps_IJ, steps_IJ)
            elif m or n:
                total_IJ, steps_IJ = above[n] if m else here[n - 1]
            else:
                total_IJ, steps_IJ = np.zeros_like(result_IJ), np.zeros_like(result_IJ)
            here.append((total_IJ + cost_MNIJ[m, n], steps_IJ + 1))
        above = here
        ending_I = lengths_I == m + 1
        if not ending_I.any():
            continue
        for n in range(columns):
            ending_IJ = np.ix_(ending_I, lengths_J == n + 1)
            total_IJ, steps_IJ = here[n]
            result_IJ[ending_IJ] = total_IJ[ending_IJ] / steps_IJ[ending_IJ]
    return result_IJ


def padded(pieces: Sequence[np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some tokens as (M, I, D), the last frame repeated behind shorter ones, and their lengths (I,)."""
    lengths_I = np.array([len(pieces[i]) for i in chosen])
    index_MI = np.minimum(np.arange(lengths_I.max())[:, None], lengths_I - 1)
    return np.stack([pieces[i][index_MI[:, k]] for k, i in enumerate(chosen)], axis=1), lengths_I


def distances(one: Sequence[np.ndarray], two: Sequence[np.ndarray]) -> np.ndarray:
    """The distance (I, J), in half turns, between every token of `one` and every token of `two`."""
    result_IJ = np.empty((len(one), len(two)), np.float32)
    right = [(group, *padded(two, group)) for group in in_buckets(two)]
    for group_I in in_buckets(one):
        x_MID, lengths_I = padded(one, group_I)
        for group_J, y_NJD, lengths_J in right:
            cosine = x_MID.reshape(-1, x_MID.shape[2]) @ y_NJD.reshape(-1, y_NJD.shape[2]).T
            cost = np.arccos(cosine.clip(-1, 1)) / np.pi
            cost_MNIJ = cost.reshape(*x_MID.shape[:2], *y_NJD.shape[:2]).transpose(0, 2, 1, 3)
            result_IJ[np.ix_(group_I, group_J)] = warped(np.ascontiguousarray(cost_MNIJ), lengths_I, lengths_J)
    return result_IJ


def error(distance_IJ: np.ndarray, phones_I: np.ndarray, phones_J: np.ndarray, same: bool) -> list[float]:
    """The share of wrong triples for each pair of phones. Rows: A and B. Columns: X. same: rows are the columns, and X is never
    its own A."""
    names, starts_B = np.unique(phones_I, return_index=True)  # tokens are sorted by phone
    sizes_B = np.bincount(np.searchsorted(names, phones_I))
    if same:
        distance_IJ = distance_IJ.copy()
        np.fill_diagonal(distance_IJ, np.nan)  # neither larger nor equal: no triple
    errors = []
    for k, phone in enumerate(names):
        columns = np.flatnonzero(phones_J == phone)
        rows = slice(starts_B[k], starts_B[k] + sizes_B[k])
        triples = sizes_B[k] * len(columns) - (len(columns) if same else 0)
        if not triples:
            continue
        near, all_IX = distance_IJ[rows, columns], distance_IJ[:, columns]
        wrong_I = np.zeros(len(distance_IJ))
        for near_X in near:
            wrong_I += (near_X > all_IX).sum(axis=1) + 0.5 * (near_X == all_IX).sum(axis=1)
        wrong_B = np.add.reduceat(wrong_I, starts_B) / (sizes_B * triples)
        errors += np.delete(wrong_B, k).tolist()
    return errors


@dataclass(frozen=True)
class Cut:
    """The tokens of one speaker: pieces (T, D) of unit vectors, their phones, and their contexts (all "" in any context)."""

    pieces: list[np.ndarray]
    phones: np.ndarray
    contexts: np.ndarray


def compared(one: Cut, two: Cut) -> tuple[float, float]:
    """Mean errors with A and B from `one` and X from `two`, and with the roles exchanged; nan where there is no triple."""
    errors: tuple[list[float], list[float]] = ([], [])
    for context in np.intersect1d(one.contexts, two.contexts):
        rows_I, rows_J = np.flatnonzero(one.contexts == context), np.flatnonzero(two.contexts == context)
        distance_IJ = distances([one.pieces[i] for i in rows_I], [two.pieces[j] for j in rows_J])
        phones_I, phones_J, same = one.phones[rows_I], two.phones[rows_J], one is two
        errors[0].extend(error(distance_IJ, phones_I, phones_J, same))
        errors[1].extend([] if same else error(distance_IJ.T, phones_J, phones_I, same))
    there, back = (float(np.mean(found)) if found else float("nan") for found in errors)
    return there, back


def abx(features: Mapping[str, Frames], tokens: Mapping[str, Sequence[Token]], caps: Caps) -> Score:
    """The score of features by file. tokens: as `draw` gives them, with the same caps."""
    cuts = {}
    for speaker, own in tokens.items():
        contexts = np.array([token.context if caps.in_context else "" for token in own])
        pieces, phones = [cut(features[token.file], token) for token in own], np.array([token.phone for token in own])
        cuts[speaker] = Cut(pieces, phones, contexts)
    within = {speaker: compared(own, own)[0] for speaker, own in cuts.items()}
    across: dict[tuple[str, str], float] = {}
    pairs = set(speaker_pairs(sorted(tokens), caps))
    for one, two in sorted({tuple(sorted(pair)) for pair in pairs}):
        found = dict(zip(((one, two), (two, one)), compared(cuts[one], cuts[two]), strict=True))
        across |= {pair: value for pair, value in found.items() if pair in pairs}
    return Score(defined(within), defined(across))


def defined(errors: dict[K, float]) -> dict[K, float]:
    """The errors that are not nan, as of a pair of speakers without a phone in common."""
    return {key: error for key, error in errors.items() if error == error}
