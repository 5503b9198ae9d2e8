"""Evaluation protocols by name: splits, classifier, and the flaws of the published form.

Four incompatible "accuracies" are published for CREMA-D, so a score is always printed under the name of its protocol.
"""

import random
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from speechssl.core.errors import InputError
from speechssl.data.cremad import LEFT_OUT

EVAR_VALID = tuple(map(str, (1009, 1011, 1022, 1034, 1039, 1047, 1066, 1070, 1082)))
EVAR_TEST = (
    *("1001", "1004", "1017", "1019", "1020", "1025", "1026", "1029", "1033", "1035"),
    *("1042", "1044", "1050", "1053", "1056", "1058", "1060", "1069", "1083"),
)
FOLDS = 6


@dataclass(frozen=True)
class Split:
    """Indices of clips. known: to train on. test. choices: (train, valid) pairs of positions in `known`, on which the settings
    of the classifier are chosen before it is trained on all of them."""

    known: np.ndarray
    test: np.ndarray
    choices: Sequence[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def three_way(cls, train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> "Split":
        """Choose on `valid` after training on `train`."""
        positions = np.arange(len(train) + len(valid))
        return cls(np.concatenate([train, valid]), test, [(positions[: len(train)], positions[len(train) :])])

    @property
    def train(self) -> np.ndarray:
        """The clips that the first choice trains on."""
        return self.known[self.choices[0][0]]

    @property
    def valid(self) -> np.ndarray:
        """The clips that make the first choice."""
        return self.known[self.choices[0][1]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """splits: (ids, labels, speakers, task, seed) -> Splits. seeds: how often all of it is repeated. bootstrap_seed: of the
    intervals. seconds: clips are cut or padded to this length (0: whole clips). head: a classifier of heads.py. speaker_norm:
    standardise each speaker inside each split. frames: classify all frames of a clip, standardised together, not its one vector.
    leave_out: clips that the published form does not use."""

    name: str
    summary: str
    flaws: tuple[str, ...] = ()
    splits: Callable[[Sequence[str], np.ndarray, np.ndarray, str, int], list[Split]]
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    bootstrap_seed: int = 1
    seconds: float = 0.0
    head: str = "logistic"
    speaker_norm: bool = False
    frames: bool = False
    leave_out: tuple[str, ...] = ()


def clips_of(speakers: np.ndarray, chosen: Sequence[str]) -> np.ndarray:
    """Indices of the clips of some speakers."""
    return np.flatnonzero(np.isin(speakers, list(chosen)))


def split_by_speakers(speakers: np.ndarray, valid: Sequence[str], test: Sequence[str]) -> Split:
    """Test and validation speakers as given, everyone else for training."""
    rest = sorted(set(speakers.tolist()) - set(valid) - set(test))
    return Split.three_way(clips_of(speakers, rest), clips_of(speakers, valid), clips_of(speakers, test))


def known_speakers(speakers: np.ndarray, least: int) -> list[str]:
    """The speakers, sorted; InputError if they are unknown or too few to train, choose and test on different ones."""
    names = sorted(set(speakers.tolist()))
    if "" in names:
        raise InputError(
            f"{int((speakers == '').sum())} clips have no speaker, so a leak cannot be excluded; fill the column `speaker`, say "
            "with --pattern where names hold it, or take --protocol hear or emobox, which test on speakers of the training set"
        )
    if len(names) < least:
        raise InputError(
            f"{len(names)} speakers are too few for this protocol of unseen speakers, which needs {least}; take --protocol "
            f"{'unseen, ' if len(names) == 2 else ''}hear or emobox"
        )
    return names


def unseen_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """Six folds of unseen speakers (fewer with fewer speakers); another fold of unseen speakers chooses."""
    names, rng = known_speakers(speakers, 2), np.random.default_rng(seed)
    if len(names) == 2:
        return two_speaker_splits(names, speakers, rng)
    rng.shuffle(names)
    folds = [list(fold) for fold in np.array_split(names, min(FOLDS, len(names)))]
    return [split_by_speakers(speakers, folds[(i + 1) % len(folds)], fold) for i, fold in enumerate(folds)]


def two_speaker_splits(names: list[str], speakers: np.ndarray, rng: np.random.Generator) -> list[Split]:
    """Two speakers: train and validate (80/20) on one, test on the other, then swap."""
    return [choose_on_fifth(clips_of(speakers, [a]), clips_of(speakers, [b]), rng) for a, b in (names, names[::-1])]


def choose_on_fifth(known: np.ndarray, test: np.ndarray, rng: np.random.Generator) -> Split:
    """A random fifth of the known clips for validation, the others for training."""
    known, size = rng.permutation(known), len(known) // 5
    return Split.three_way(known[size:], known[:size], test)


def leave_one_out_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """Test on one speaker at a time; a fifth of the others, drawn by the seed, chooses."""
    names, rng = known_speakers(speakers, 2), np.random.default_rng(seed)
    if len(names) == 2:
        return two_speaker_splits(names, speakers, rng)
    splits = []
    for name in names:
        others = [other for other in names if other != name]
        chosen = rng.choice(others, size=max(1, len(others) // 5), replace=False).tolist()
        splits.append(split_by_speakers(speakers, chosen, [name]))
    return splits


def serab_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """TFDS's and SERAB's one split: sorted speakers, shuffled by RandomState(0); 70/10/20 for CREMA-D, else 60/20/20."""
    names = known_speakers(speakers, 3)
    np.random.RandomState(0).shuffle(names)
    first, second = (0.7, 0.8) if task == "crema-d" else (0.6, 0.8)
    a, b = int(first * len(names)), int(second * len(names))
    return [split_by_speakers(speakers, names[a:b], names[b:])]


def hear_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """hear-preprocess's five folds of files: sorted stems shuffled by Random("split_k_folds"), in five equal parts."""
    stems = sorted(range(len(ids)), key=lambda i: ids[i])
    random.Random("split_k_folds").shuffle(stems)
    folds = np.array_split(np.array(stems), 5)
    return [
        Split.three_way(np.concatenate([folds[(i + k) % 5] for k in (2, 3, 4)]), folds[(i + 1) % 5], folds[i])
        for i in range(5)
    ]


def evar_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """EVAR's own 63/9/19 speakers of CREMA-D."""
    if task != "crema-d":
        raise InputError(f"the protocol evar is published for crema-d only, not for {task}; take the default or loso")
    return [split_by_speakers(speakers, EVAR_VALID, EVAR_TEST)]


def emobox_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """RAVDESS: 6 folds of 4 unseen actors; SAVEE: each speaker unseen; others: random clips. A random fifth of train chooses."""
    rng = np.random.default_rng(seed)
    if task == "ravdess":
        tests = [clips_of(speakers, list(fold)) for fold in np.array_split(known_speakers(speakers, 6), 6)]
    elif task == "savee":
        tests = [clips_of(speakers, [name]) for name in known_speakers(speakers, 2)]
    elif task == "crema-d":
        tests = [rng.permutation(len(ids))[: round(len(ids) * 1856 / 7442)]]
    else:
        tests = list(np.array_split(rng.permutation(len(ids)), 5))
    return [choose_on_fifth(np.setdiff1d(np.arange(len(ids)), test), test, rng) for test in tests]


def maeb_splits(ids, labels, speakers, task, seed) -> list[Split]:
    """MTEB's few shots: 8 random clips of each class to train on. The test is FSDD's takes 0 to 4, elsewhere all other clips."""
    rng, takes = np.random.default_rng(seed), [re.fullmatch(r"(?:.*/)?\d_[a-z]+_(\d+)", name) for name in ids]
    held_out = np.array([take is not None and int(take[1]) < 5 for take in takes]) & all(takes)
    shots = [rng.permutation(np.flatnonzero((labels == label) & ~held_out))[:8] for label in np.unique(labels)]
    known = np.concatenate(shots)
    return [Split(known, np.flatnonzero(held_out) if all(takes) else np.setdiff1d(np.arange(len(ids)), known), [])]


def group_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) indices of folds that share no group, with the classes spread as evenly as groups allow.

    No more folds than the largest class has clips. Folds that test a class which they do not train on are left out.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    _, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    group_count = len(np.unique(groups))
    if counts.max() < 2 or group_count < 2:
        return []
    count = max(2, min(folds, group_count, int(counts.max())))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about small classes: their intervals show it
        splits = list(splitter.split(np.zeros(len(y)), y, groups))
    return [(a, b) for a, b in splits if len(b) and len(set(y[a])) > 1 and set(y[b]) <= set(y[a])]


def nested_splits(folds: int, ids, labels, groups, task, seed) -> list[Split]:
    """Folds of unseen groups; the settings are chosen on three folds of unseen groups inside the known clips."""
    splits = []
    for known, test in group_folds(labels, groups, folds, seed):
        choices = group_folds(labels[known], groups[known], 3, seed)
        chosen_on = {label for _, valid in choices for label in labels[known][valid].tolist()}
        if chosen_on != set(labels[known].tolist()):
            choices = []  # choosing by some of the classes would favour those
        splits.append(Split(known, test, choices))
    return splits


def probe_protocol(folds: int, seed: int) -> Protocol:
    """The protocol of `speechssl probe`."""
    return Protocol(
        name="probe",
        summary="linear probe on frozen embeddings, group-disjoint folds, regularisation chosen on training groups",
        splits=partial(nested_splits, folds),
        seeds=(seed,),
        bootstrap_seed=seed,
        head="probe",
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="unseen",
            summary="ours: folds of unseen speakers, logistic regression whose strength is chosen on other unseen speakers",
            splits=unseen_splits,
        ),
        Protocol(
            name="loso",
            summary="test on one unseen speaker at a time; strength chosen on a fifth of the others",
            splits=leave_one_out_splits,
            seeds=(1,),
        ),
        Protocol(
            name="serab",
            summary="SERAB/NOSS: one split of unseen speakers, five families of classifiers, embeddings standardised per speaker",
            flaws=(
                "the published number is that of the classifier with the best TEST accuracy; here the one "
                "chosen on validation is reported too",
                "standardising per speaker uses all unlabeled clips of the test speakers",
                "one split, no repetition",
                "published with the log-mels normalised by statistics of the corpus, here by those of the model",
            ),
            splits=serab_splits,
            seeds=(1,),
            head="serab",
            speaker_norm=True,
            leave_out=LEFT_OUT,
        ),
        Protocol(
            name="hear",
            summary="HEAR 2021: five folds of files cut or padded to 5 s, an MLP of 8 settings tried on the first fold",
            flaws=(
                "folds are of files: every test speaker is also in the training set, which inflates the score",
                "settings are chosen on the first fold only",
            ),
            splits=hear_splits,
            seeds=(42,),
            seconds=5.0,
            head="hear",
            leave_out=LEFT_OUT,
        ),
        Protocol(
            name="evar",
            summary="EVAR: one split of unseen CREMA-D speakers, clips of 2.5 s, one linear layer, three seeds",
            flaws=(
                "one split; clips are cut to their first 2.5 s here; EVAR cuts training and validation clips at random positions",
            ),
            splits=evar_splits,
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
                "except for RAVDESS and SAVEE the test speakers are also in the training set, which inflates the score; "
                "the file lists of EmoBox are not reproduced: four consecutive actors for RAVDESS, random clips for others",
                "the learning rate stays constant here; EmoBox decays it",
            ),
            frames=True,
            splits=emobox_splits,
            seeds=(1,),
            head="emobox",
        ),
        Protocol(
            name="maeb",
            summary="MAEB: logistic regression on 8 clips of each class, ten draws",
            flaws=(
                "test speakers are also in the training set, which inflates the score",
                "few clips, so the ten draws differ a lot; those of MTEB are not reproduced",
            ),
            splits=maeb_splits,
            seeds=tuple(range(1, 11)),
            head="maeb",
        ),
    )
}


def leaks(splits: Sequence[Split], speakers: np.ndarray) -> int:
    """How many test speakers, summed over the splits, also have clips in training or validation."""
    return sum(len(set(speakers[split.test]) & set(speakers[split.known])) for split in splits)


def standardise_speakers(x_ND: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Bring the vectors of each speaker to zero mean and unit variance."""
    y_ND = x_ND.copy()
    for name in np.unique(speakers):
        rows = speakers == name
        y_ND[rows] = (y_ND[rows] - y_ND[rows].mean(axis=0)) / (y_ND[rows].std(axis=0) + 1e-9)
    return y_ND
