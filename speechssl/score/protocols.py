"""Evaluation protocols by name: who is trained on, chosen on and tested on; each with the flaws of its published form.

CREMA-D alone has four incompatible "accuracies". A protocol here names its splits, its classifier and what is wrong with it,
and a score is always printed under the protocol's name.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.data.cremad import LEFT_OUT

EVAR_VALID = tuple(map(str, (1009, 1011, 1022, 1034, 1039, 1047, 1066, 1070, 1082)))
EVAR_TEST = (
    *("1001", "1004", "1017", "1019", "1020", "1025", "1026", "1029", "1033", "1035"),
    *("1042", "1044", "1050", "1053", "1056", "1058", "1060", "1069", "1083"),
)
FOLDS = 6


class Split(NamedTuple):
    """Indices of the clips to train on, to choose on and to test on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """splits: (ids, labels, speakers, task, seed) -> Splits. seeds: how often all of it is repeated. seconds: clips are
    cut or padded to this length (0: whole clips). head: "logistic", or how the published form classifies (probe/heads.py).
    speaker_norm: standardise each speaker inside each split. frames: classify all frames of a clip, normalised together,
    instead of its one vector."""

    name: str
    summary: str
    flaws: tuple[str, ...]
    splits: Callable[[Sequence[str], np.ndarray, np.ndarray, str, int], list[Split]]
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    seconds: float = 0.0
    head: str = "logistic"
    speaker_norm: bool = False
    frames: bool = False
    leave_out: tuple[str, ...] = ()


def where(groups: np.ndarray, chosen: Sequence[str]) -> np.ndarray:
    """Indices of the clips of some speakers."""
    return np.flatnonzero(np.isin(groups, list(chosen)))


def by_speakers(groups: np.ndarray, valid: Sequence[str], test: Sequence[str]) -> Split:
    """Test and validation speakers as given, everyone else for training."""
    rest = sorted(set(groups.tolist()) - set(valid) - set(test))
    return Split(where(groups, rest), where(groups, valid), where(groups, test))


def known_speakers(speakers: np.ndarray, least: int) -> list[str]:
    """The speakers, sorted; InputError when they are unknown or too few to train, choose and test on different ones."""
    names = sorted(set(speakers.tolist()))
    if "" in names:
        raise InputError(
            f"{int((speakers == '').sum())} clips have no speaker, so a leak cannot be excluded; fill the column `speaker`, say "
            "with --pattern how names tell it, or take --protocol hear or emobox, which test on speakers that were trained on"
        )
    if len(names) < least:
        raise InputError(
            f"{len(names)} speakers are too few for this protocol of unseen speakers, which needs {least}; take --protocol "
            f"{'unseen, ' if len(names) == 2 else ''}hear or emobox"
        )
    return names


def speaker_folds(ids, labels, speakers, task, seed) -> list[Split]:
    """Six folds of unseen speakers (fewer with fewer speakers); one more fold of unseen speakers chooses."""
    names, rng = known_speakers(speakers, 2), np.random.default_rng(seed)
    if len(names) == 2:
        return pair(names, speakers, rng)
    rng.shuffle(names)
    return rotations([list(fold) for fold in np.array_split(names, min(FOLDS, len(names)))], speakers)


def pair(names: list[str], speakers: np.ndarray, rng: np.random.Generator) -> list[Split]:
    """Each of two speakers tested by a classifier that heard the other one, a random fifth of whose clips chooses."""
    return [fifth(where(speakers, [a]), where(speakers, [b]), rng) for a, b in (names, names[::-1])]


def fifth(known: np.ndarray, test: np.ndarray, rng: np.random.Generator) -> Split:
    """A random fifth of the known clips chooses, the others train."""
    known, size = rng.permutation(known), len(known) // 5
    return Split(known[size:], known[:size], test)


def rotations(folds: list[list[str]], speakers: np.ndarray) -> list[Split]:
    """Test on each fold of speakers, choose on the next one."""
    return [by_speakers(speakers, folds[(i + 1) % len(folds)], fold) for i, fold in enumerate(folds)]


def leave_one_out(ids, labels, speakers, task, seed) -> list[Split]:
    """Every speaker alone is tested; a fifth of the others, drawn by the seed, chooses."""
    names, rng = known_speakers(speakers, 2), np.random.default_rng(seed)
    if len(names) == 2:
        return pair(names, speakers, rng)
    splits = []
    for name in names:
        others = [other for other in names if other != name]
        chosen = rng.choice(others, size=max(1, len(others) // 5), replace=False).tolist()
        splits.append(by_speakers(speakers, chosen, [name]))
    return splits


def serab(ids, labels, speakers, task, seed) -> list[Split]:
    """TFDS's and SERAB's one split: sorted speakers, shuffled by RandomState(0); 70/10/20 for CREMA-D, else 60/20/20."""
    names = known_speakers(speakers, 3)
    np.random.RandomState(0).shuffle(names)
    first, second = (0.7, 0.8) if task == "crema-d" else (0.6, 0.8)
    a, b = int(first * len(names)), int(second * len(names))
    return [by_speakers(speakers, names[a:b], names[b:])]


def hear(ids, labels, speakers, task, seed) -> list[Split]:
    """hear-preprocess's five folds of files: sorted stems shuffled by Random("split_k_folds"), in five equal parts."""
    stems = sorted(range(len(ids)), key=lambda i: ids[i])
    random.Random("split_k_folds").shuffle(stems)
    folds = np.array_split(np.array(stems), 5)
    return [
        Split(np.concatenate([folds[(i + k) % 5] for k in (2, 3, 4)]), folds[(i + 1) % 5], folds[i]) for i in range(5)
    ]


def evar(ids, labels, speakers, task, seed) -> list[Split]:
    """EVAR's own 63/9/19 speakers of CREMA-D."""
    if task != "crema-d":
        raise InputError(f"the protocol evar is published for crema-d only, not for {task}; take the default or loso")
    return [by_speakers(speakers, EVAR_VALID, EVAR_TEST)]


def emobox(ids, labels, speakers, task, seed) -> list[Split]:
    """RAVDESS: 6 folds of 4 unseen actors; SAVEE: each speaker unseen; others: random clips. A random fifth of train chooses."""
    rng = np.random.default_rng(seed)
    if task == "ravdess":
        tests = [where(speakers, list(fold)) for fold in np.array_split(known_speakers(speakers, 6), 6)]
    elif task == "savee":
        tests = [where(speakers, [name]) for name in known_speakers(speakers, 2)]
    elif task == "crema-d":
        tests = [rng.permutation(len(ids))[: round(len(ids) * 1856 / 7442)]]
    else:
        tests = list(np.array_split(rng.permutation(len(ids)), 5))
    return [fifth(np.setdiff1d(np.arange(len(ids)), test), test, rng) for test in tests]


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="unseen",
            summary="ours: folds of unseen speakers, logistic regression whose strength is chosen on other unseen speakers",
            flaws=(),
            splits=speaker_folds,
        ),
        Protocol(
            name="loso",
            summary="each speaker tested by a classifier that never heard them; strength chosen on a fifth of the others",
            flaws=(),
            splits=leave_one_out,
            seeds=(1,),
        ),
        Protocol(
            name="serab",
            summary="SERAB/NOSS: one split of unseen speakers, five families of classifiers, embeddings standardised per speaker",
            flaws=(
                "the published number is that of the classifier with the best TEST accuracy; here it stands beside the one "
                "chosen on validation",
                "standardising per speaker uses all unlabeled clips of the test speakers",
                "one split, no repetition",
                "published with the log-mels normalised by statistics of the corpus, here by those of the model",
            ),
            splits=serab,
            seeds=(1,),
            head="serab",
            speaker_norm=True,
            leave_out=LEFT_OUT,
        ),
        Protocol(
            name="hear",
            summary="HEAR 2021: five folds of files cut or padded to 5 s, an MLP of 8 settings tried on the first fold",
            flaws=(
                "folds are of files: every test speaker is heard in training, which inflates the score",
                "settings are chosen on the first fold only",
            ),
            splits=hear,
            seeds=(42,),
            seconds=5.0,
            head="hear",
            leave_out=LEFT_OUT,
        ),
        Protocol(
            name="evar",
            summary="EVAR: one split of unseen CREMA-D speakers, clips of 2.5 s, one linear layer, three seeds",
            flaws=(
                "one split; clips are cut to 2.5 s, at their beginning here, where EVAR's script cuts those of training and "
                "validation anywhere",
            ),
            splits=evar,
            seeds=(42, 43, 44),
            seconds=2.5,
            head="evar",
            leave_out=LEFT_OUT,
        ),
        Protocol(
            name="emobox",
            summary="EmoBox: frozen features, linear - ReLU - mean over time - linear, early choice on a random fifth of train",
            flaws=(
                "validation clips come from training speakers",
                "except for RAVDESS and SAVEE the test speakers are heard in training, which inflates the score; EmoBox's file "
                "lists are not reproduced: four actors after the other for RAVDESS, clips drawn by the seed for the others",
                "the learning rate stays constant here, where EmoBox's script lowers it in the course",
            ),
            frames=True,
            splits=emobox,
            seeds=(1,),
            head="emobox",
        ),
    )
}


def leaks(splits: Sequence[Split], speakers: np.ndarray) -> int | None:
    """How many test speakers, over all splits, are also heard in training or choosing; None where speakers are unknown."""
    if "" in speakers:
        return None
    return sum(len(set(speakers[s.test]) & set(speakers[np.r_[s.train, s.valid]])) for s in splits)


def per_speaker(x: np.ndarray, speakers: np.ndarray, splits: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The vectors of each part, each speaker's brought to zero mean and unit variance inside the part."""
    for part in splits:
        y = x[part].copy()
        for name in np.unique(speakers[part]):
            rows = speakers[part] == name
            y[rows] = (y[rows] - y[rows].mean(axis=0)) / (y[rows].std(axis=0) + 1e-9)
        yield y
