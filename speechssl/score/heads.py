"""Classifiers of the published protocols: fit on train, choose on validation, predict the test clips.

A head gets three matrices and two label vectors and returns {name of the choice: predictions}. Every choice but SERAB's
published one is made without a look at the test labels.
"""

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from speechssl.score.probe import recall

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Parts(NamedTuple):
    """x_train, x_valid, x_test: (N, D), or N times the frames (T, D) of a clip. y_train, y_valid: labels."""

    x_train: np.ndarray
    x_valid: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    y_valid: np.ndarray

    @property
    def x_known(self) -> np.ndarray:
        """Training and validation clips together."""
        return np.concatenate([self.x_train, self.x_valid])

    @property
    def y_known(self) -> np.ndarray:
        """Their labels."""
        return np.concatenate([self.y_train, self.y_valid])


def logistic(parts: Parts, seed: int) -> dict[str, np.ndarray]:
    """Standardise, logistic regression, strength by UAR on validation, refit on both."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(parts.x_train)
    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)  # each strength starts from the last one's
    x_train, x_valid, scores = scaler.transform(parts.x_train), scaler.transform(parts.x_valid), []
    for strength in STRENGTHS:
        guess = model.set_params(C=strength).fit(x_train, parts.y_train).predict(x_valid)
        scores.append(recall(parts.y_valid, guess))
    scaler = StandardScaler().fit(parts.x_known)
    final = LogisticRegression(C=STRENGTHS[int(np.argmax(scores))], max_iter=300, tol=1e-3)
    return {"": final.fit(scaler.transform(parts.x_known), parts.y_known).predict(scaler.transform(parts.x_test))}


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


def serab(parts: Parts, seed: int) -> dict[str, np.ndarray]:
    """Per family the member with the best validation accuracy, refit on both; the caller sees every family's predictions,
    and "" is the family that is best on validation."""
    best: dict[str, tuple[float, Any]] = {}
    guesses: dict[str, np.ndarray] = {}
    unfit = contextlib.suppress(np.linalg.LinAlgError, ValueError)  # too few clips of a class for that family
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family, model in serab_models():
            with unfit:
                guess = model.fit(parts.x_train, parts.y_train).predict(parts.x_valid)
                score = float((guess == parts.y_valid).mean())
                best[family] = max(best.get(family, (-1.0, None)), (score, model), key=lambda pair: pair[0])
        for family, (_, model) in best.items():
            with unfit:
                guesses[family] = model.fit(parts.x_known, parts.y_known).predict(parts.x_test)
    return {"": guesses[max(guesses, key=lambda family: best[family][0])]} | guesses


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


def packed(x: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """A matrix (N, D) as a tensor, or the frames of N clips end to end with their numbers."""
    if x.dtype != object:
        return torch.from_numpy(np.asarray(x, dtype=np.float32)), None
    return torch.from_numpy(np.concatenate(x)).float(), torch.tensor([len(frames_TD) for frames_TD in x])


def network(setting: Setting, inputs: int, classes: int) -> Network:
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


def train(parts: Parts, setting: Setting, seed: int) -> tuple[float, np.ndarray]:
    """Adam with early stopping on validation accuracy: (that accuracy, test predictions)."""
    classes, y = np.unique(parts.y_train, return_inverse=True)
    x_train, x_valid, x_test = parts.x_train, parts.x_valid, parts.x_test
    if setting.standardise:
        mean, std = x_train.mean(axis=0), x_train.std(axis=0) + 1e-8
        x_train, x_valid, x_test = ((x - mean) / std for x in (x_train, x_valid, x_test))
    valid, test = packed(x_valid), packed(x_test)
    target = torch.from_numpy(y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(setting, valid[0].shape[1], len(classes))
        optimizer = torch.optim.Adam(net.parameters(), lr=setting.lr)
        best, guess, waited = -1.0, np.zeros(len(x_test), dtype=int), 0
        for epoch in range(1, setting.epochs + 1):
            net.train()
            order = torch.randperm(len(x_train)) if setting.shuffle else torch.arange(len(x_train))
            for rows in order.split(setting.batch):
                if len(rows) > 1:  # batch norm needs two
                    nn.functional.cross_entropy(net(*packed(x_train[rows.numpy()])), target[rows]).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch % setting.check:
                continue
            net.eval()
            with torch.no_grad():
                score = float((classes[net(*valid).argmax(1).numpy()] == parts.y_valid).mean())
                waited += 1
                if score > best:
                    best, guess, waited = score, net(*test).argmax(1).numpy(), 0
            if waited >= setting.patience:
                break
    return best, classes[guess]


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


class Hear:
    """HEAR's MLP: the settings are tried on the first fold, the best one is used for all."""

    def __init__(self) -> None:
        self.setting: Setting | None = None

    def __call__(self, parts: Parts, seed: int) -> dict[str, np.ndarray]:
        """Predictions for one fold."""
        if self.setting is None:
            found = [(train(parts, setting, seed), setting) for setting in hear_settings()]
            (_, guess), self.setting = max(found, key=lambda pair: pair[0][0])
            return {"": guess}
        return {"": train(parts, self.setting, seed)[1]}


def fixed(setting: Setting) -> Callable[[], Callable[[Parts, int], dict[str, np.ndarray]]]:
    """A head with one setting."""
    return lambda: lambda parts, seed: {"": train(parts, setting, seed)[1]}


HEADS: dict[str, Callable[[], Callable[[Parts, int], dict[str, np.ndarray]]]] = {
    "logistic": lambda: logistic,
    "serab": lambda: serab,
    "hear": Hear,
    "evar": fixed(Setting(lr=3e-4, batch=256, standardise=True)),
    "emobox": fixed(Setting(hidden=(128,), lr=1e-4, batch=32, epochs=100, patience=100)),
}
