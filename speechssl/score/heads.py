"""Classifiers of the protocols: fit on train, choose on validation, predict the test clips.

A head gets the folds of one seed, one after the other, and yields the predicted classes of each fold's test clips. No head is
given the test labels.
"""

import contextlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PROBE_STRENGTHS = STRENGTHS[:-1]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The data of one split. x_known, x_test: (N, D), (N, L, D) for a mixture of layers, or the frames (T, D) of N clips.
    y_known: classes. choices: (train, valid) positions in the known clips, on which settings are chosen."""

    x_known: np.ndarray
    y_known: np.ndarray
    x_test: np.ndarray
    choices: Sequence[tuple[np.ndarray, np.ndarray]]

    def first_choice(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(vectors, classes) that the first choice trains on, then those that make it."""
        return [(self.x_known[part], self.y_known[part]) for part in self.choices[0]]


@dataclass(frozen=True)
class Prediction:
    """Classes of a fold's test clips. chosen: by the classifier that is best on validation. families: by the best classifier of
    each family, where the published protocol reports the family that is best on the test clips."""

    chosen: np.ndarray
    families: dict[str, np.ndarray] = field(default_factory=dict)


def logistic(
    folds: Iterable[Fold], seed: int, strengths: Sequence[float] = STRENGTHS, warm_start: bool = True
) -> Iterator[Prediction]:
    """Logistic regression on standardised vectors, trained on all known clips with the strength (and for (N, L, D) the mixture
    of layers) that has the best mean UAR over the choices. warm_start: try a strength from the solution of the one before."""
    for fold in folds:
        options = list(product(mixtures(fold.x_known), strengths))
        if fold.choices:
            uars = [
                [
                    uar_of_strengths(fold, train, valid, weights, strengths, warm_start)
                    for weights in mixtures(fold.x_known)
                ]
                for train, valid in fold.choices
            ]
            weights, strength = options[int(np.argmax(np.mean(uars, axis=0)))]
        else:
            weights, strength = options[len(strengths) - 1]  # all layers alike, the weakest penalty
        scaler, model = scaler_and_regression(strength)
        model.fit(scaler.fit_transform(mix(fold.x_known, weights)), fold.y_known)
        yield Prediction(model.predict(scaler.transform(mix(fold.x_test, weights))))


def uar_of_strengths(
    fold: Fold,
    train: np.ndarray,
    valid: np.ndarray,
    weights: np.ndarray | None,
    strengths: Sequence[float],
    warm_start: bool,
) -> list[float]:
    """UAR on the clips `valid` after training on the clips `train` with each strength."""
    scaler, model = scaler_and_regression(strengths[0], warm_start)
    x_train = scaler.fit_transform(mix(fold.x_known[train], weights))
    x_valid = scaler.transform(mix(fold.x_known[valid], weights))
    uars = []
    for strength in strengths:
        guess = model.set_params(C=strength).fit(x_train, fold.y_known[train]).predict(x_valid)
        uars.append(mean_recall(fold.y_known[valid], guess))
    return uars


def scaler_and_regression(strength: float, warm_start: bool = False) -> tuple[Any, Any]:
    """The two steps of a linear probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    return StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3, warm_start=warm_start)


def mixtures(x: np.ndarray) -> list[np.ndarray | None]:
    """Weights of layers to choose from: all alike, or a bump around one of the layers; None for plain vectors."""
    if x.ndim < 3:
        return [None]
    layers = np.arange(x.shape[1])
    bumps = [np.exp(-0.5 * (layers - centre) ** 2) for centre in layers]
    return [np.full(len(layers), 1 / len(layers)), *(bump / bump.sum() for bump in bumps)]


def mix(x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(N, L, D) -> (N, D)."""
    return x if weights is None else np.einsum("nld,l->nd", x, weights)


def mean_recall(truth: np.ndarray, guess: np.ndarray) -> float:
    """UAR of one set of predictions."""
    return float(np.mean([(guess[truth == k] == k).mean() for k in np.unique(truth)]))


def serab_models() -> Iterator[tuple[str, Any]]:
    """SERAB's grid: LDA, logistic regression, QDA, random forest, SVC."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    yield "LDA", LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    weights: tuple[Any, ...] = ("balanced", None)
    for strength, weight in product([10.0**k for k in range(5, -6, -1)], weights):  # of equals the first one is taken
        yield "LR", LogisticRegression(C=strength, class_weight=weight, max_iter=10_000)
        for kernel in ("rbf", "linear"):
            yield "SVC", SVC(C=strength, kernel=kernel, class_weight=weight, max_iter=10_000)
    for weight, depth, least in product(weights, range(5, 30, 5), (2, 5, 10)):
        yield (
            "RF",
            RandomForestClassifier(max_depth=depth, min_samples_split=least, class_weight=weight, random_state=42),
        )
    for regularisation in (0.0, 0.1, 0.25):
        yield "QDA", QuadraticDiscriminantAnalysis(reg_param=regularisation)


def serab(folds: Iterable[Fold], seed: int) -> Iterator[Prediction]:
    """Choose the member of each family, and the family, by validation accuracy; train on all known clips."""
    for fold in folds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield serab_fold(fold)


def serab_fold(fold: Fold) -> Prediction:
    """SERAB's prediction for one fold. Families that cannot be fitted, such as QDA with one clip of a class, are left out."""
    best: dict[str, tuple[float, Any]] = {}
    guesses: dict[str, np.ndarray] = {}
    too_few_clips = contextlib.suppress(np.linalg.LinAlgError, ValueError)
    (x_train, y_train), (x_valid, y_valid) = fold.first_choice()
    for family, model in serab_models():
        with too_few_clips:
            accuracy = float((model.fit(x_train, y_train).predict(x_valid) == y_valid).mean())
            if family not in best or accuracy > best[family][0]:
                best[family] = (accuracy, model)
    for family, (_, model) in best.items():
        with too_few_clips:
            guesses[family] = model.fit(fold.x_known, fold.y_known).predict(fold.x_test)
    return Prediction(guesses[max(guesses, key=lambda family: best[family][0])], guesses)


class Setting(NamedTuple):
    """One network of a published protocol and how it is trained."""

    hidden: Sequence[int] = ()
    norm: bool = False
    dropout: float = 0.0
    lr: float = 3e-4
    batch: int = 1024
    epochs: int = 200
    check: int = 1
    patience: int = 20
    xavier_normal: bool = False
    standardise: bool = False
    shuffle: bool = True


class Network(nn.Sequential):
    """Layers; frames, which lie end to end, are averaged per clip after the first ReLU."""

    def forward(self, x: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """(B, D), or (all frames, D) with the number of each clip's, -> (B, classes)."""
        for layer in self:
            x = layer(x)
            if frames_B is not None and isinstance(layer, nn.ReLU):
                clip_N = torch.repeat_interleave(frames_B)
                x = x.new_zeros(len(frames_B), x.shape[1]).index_add(0, clip_N, x) / frames_B[:, None]
                frames_B = None
        return x


def to_tensors(x: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Vectors (N, D) as a tensor; or the frames of N clips end to end, with the number of each clip's frames."""
    if x.dtype != object:
        return torch.from_numpy(np.asarray(x, dtype=np.float32)), None
    return torch.from_numpy(np.concatenate(x)).float(), torch.tensor([len(frames_TD) for frames_TD in x])


def build_network(setting: Setting, inputs: int, classes: int) -> Network:
    """Linear (- BN) - ReLU (- dropout) per hidden layer, then a linear output."""
    layers: list[nn.Module] = []
    for width in setting.hidden:
        layers += [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if setting.norm else []), nn.ReLU()]
        layers += [nn.Dropout(setting.dropout)] if setting.dropout else []
        inputs = width
    layers.append(nn.Linear(inputs, classes))
    maps = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for index, layer in enumerate(maps if setting.norm else []):
        gain = 2**0.5 if index else 1.0  # a ReLU lies before it, or not
        (nn.init.xavier_normal_ if setting.xavier_normal else nn.init.xavier_uniform_)(layer.weight, gain)
    return Network(*layers)


def train_network(fold: Fold, setting: Setting, seed: int) -> tuple[float, np.ndarray]:
    """Adam with early stopping on validation accuracy: (that accuracy, classes of the test clips)."""
    (x_train, y_train), (x_valid, y_valid) = fold.first_choice()
    x_test = fold.x_test
    classes, y = np.unique(y_train, return_inverse=True)
    if setting.standardise:
        mean, std = x_train.mean(axis=0), x_train.std(axis=0) + 1e-8
        x_train, x_valid, x_test = ((x - mean) / std for x in (x_train, x_valid, x_test))
    valid, test, target = to_tensors(x_valid), to_tensors(x_test), torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network(setting, valid[0].shape[1], len(classes))
        optimizer = torch.optim.Adam(net.parameters(), lr=setting.lr)
        best, guess, waited = -1.0, np.zeros(len(x_test), dtype=int), 0
        for epoch in range(1, setting.epochs + 1):
            train_epoch(net, optimizer, x_train, target, setting)
            if epoch % setting.check:
                continue
            net.eval()
            with torch.no_grad():
                accuracy = float((classes[net(*valid).argmax(1).numpy()] == y_valid).mean())
                waited += 1
                if accuracy > best:
                    best, guess, waited = accuracy, net(*test).argmax(1).numpy(), 0
            if waited >= setting.patience:
                break
    return best, classes[guess]


def train_epoch(
    net: Network, optimizer: torch.optim.Optimizer, x_train: np.ndarray, target: Tensor, setting: Setting
) -> None:
    """One pass over the training clips."""
    net.train()
    order = torch.randperm(len(x_train)) if setting.shuffle else torch.arange(len(x_train))
    for rows in order.split(setting.batch):
        if len(rows) > 1:  # batch norm needs two
            nn.functional.cross_entropy(net(*to_tensors(x_train[rows.numpy()])), target[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()


def hear_settings() -> list[Setting]:
    """The eight of HEAR's sixteen settings that its script draws: the grid in scikit-learn's order, shuffled with seed 42. The
    clips are never shuffled there, whose folds are random already."""
    common: dict[str, Any] = {"norm": True, "dropout": 0.1, "epochs": 500, "check": 3, "shuffle": False}
    grid = [
        Setting(hidden=(1024,) * depth, lr=lr, xavier_normal=normal, **common)
        for depth in (1, 2)
        for normal in (False, True)
        for lr in (3.2e-3, 1e-3, 3.2e-4, 1e-4)
    ]
    random.Random(42).shuffle(grid)
    return grid[:8]


def hear(folds: Iterable[Fold], seed: int) -> Iterator[Prediction]:
    """HEAR's MLP: all settings are tried on the first fold, the best one is used for the others."""
    remaining = iter(folds)
    first = next(remaining)
    tried = {setting: train_network(first, setting, seed) for setting in hear_settings()}
    best = max(tried, key=lambda setting: tried[setting][0])
    yield Prediction(tried[best][1])
    for fold in remaining:
        yield Prediction(train_network(fold, best, seed)[1])


def one_setting(folds: Iterable[Fold], seed: int, setting: Setting) -> Iterator[Prediction]:
    """A network of one fixed setting."""
    for fold in folds:
        yield Prediction(train_network(fold, setting, seed)[1])


def maeb(folds: Iterable[Fold], seed: int) -> Iterator[Prediction]:
    """MTEB's classifier: scikit-learn's logistic regression as it is, at most 100 iterations, on vectors as they are."""
    from sklearn.linear_model import LogisticRegression

    for fold in folds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 100 iterations are not enough
            model = LogisticRegression(max_iter=100).fit(mix(fold.x_known, mixtures(fold.x_known)[0]), fold.y_known)
        yield Prediction(model.predict(mix(fold.x_test, mixtures(fold.x_test)[0])))


EVAR = Setting(lr=3e-4, batch=256, standardise=True)
EMOBOX = Setting(hidden=(128,), lr=1e-4, batch=32, epochs=100, patience=100)
Head = Callable[[Iterable[Fold], int], Iterator[Prediction]]
HEADS: dict[str, Head] = {
    "logistic": logistic,
    "probe": partial(logistic, strengths=PROBE_STRENGTHS, warm_start=False),
    "serab": serab,
    "hear": hear,
    "evar": partial(one_setting, setting=EVAR),
    "emobox": partial(one_setting, setting=EMOBOX),
    "maeb": maeb,
}
