"""`speechssl cluster`: frames to codes, the targets of masked prediction (HuBERT, Hsu et al. 2021, section II.A).

What is clustered is standardised for each utterance, so that codes say little of voice and channel: MFCC in a first round, a
layer of the model so far in later ones. By k-means a frame gets the number of its nearest centre; by a mixture of Gaussians
its posterior, as votes. Posteriors of a mixture tell phones apart better than the MFCC that they are made of (Chen et al. 2015,
Interspeech); centres of k-means do worse.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from speechssl.core.errors import InputError
from speechssl.core.files import output_file
from speechssl.core.memory import one_thread
from speechssl.core.packed import Geometry
from speechssl.data.codes import write_codes
from speechssl.data.manifest import Manifest
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.sound.mfcc import HOP, WINDOW, mfcc, standardised
from speechssl.use.embed import LONGEST, embed_clip, embed_waves
from speechssl.use.pooling import choose_layers
from speechssl.use.stream import BATCH, TooShort, stream_clips

MFCC = "mfcc"
EVERY_20_MS = Geometry(kernels=(WINDOW,), strides=(2 * HOP,))
# Differences over 9 rows, which count less: of the entropy of phones (speechocean762, unseen speakers) 100 such clusters hold
# 27 %, with all 39 numbers alike 26 %, with differences over 5 rows 24 %.
WIDTH, WEIGHTS_F = 9, np.repeat(np.array([1.0, 0.6, 0.4], np.float32), 13)
SAMPLE = 200_000  # frames from which clusters are learned
# A mixture takes differences over 5 rows: over 9 its posteriors have ABX errors of 16.3 / 20.1 % instead of 15.3 / 19.1 (MFCC:
# 15.5 / 22.1). Its dimensions are taken to be less dependent than they are, so posteriors are too sure: their logarithms are
# divided by 3 (by 1: 16.3 / 20.3; by 8: 16.9 / 20.9).
NARROW, FLATTER, VOTES = 5, 3.0, 8
GOLDEN = (5**0.5 - 1) / 2
ENOUGH = 1000  # frames for a Gaussian


class Clustered:
    """What `cluster` wrote into `out`: how often each code is used, and how often a frame keeps the code of the one before."""

    def __init__(self, out: Path, sizes: Sequence[int]) -> None:
        self.out, self.utterances, self.frames, self.short = out, 0, 0, 0
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        self.kept, self.pairs = np.zeros(len(sizes)), 0

    def add(self, codes_TCV: np.ndarray) -> None:
        """Count an utterance."""
        self.utterances += 1
        self.frames += len(codes_TCV)
        self.pairs += len(codes_TCV) - 1
        self.kept += (codes_TCV[1:] == codes_TCV[:-1]).mean(axis=2).sum(axis=0)
        for codebook, counts_K in enumerate(self.counts):
            counts_K += np.bincount(codes_TCV[:, codebook].ravel(), minlength=len(counts_K))

    def used(self) -> list[float]:
        """The perplexity of each codebook: how many of its codes would be used if all were used alike."""
        shares = (counts_K[counts_K > 0] / counts_K.sum() for counts_K in self.counts)
        return [float(np.exp(-(share_K * np.log(share_K)).sum())) for share_K in shares]

    def __str__(self) -> str:
        lines = [f"{self.out}: codes of {self.frames} frames, {self.utterances} utterances"]
        for counts_K, used, kept in zip(self.counts, self.used(), self.kept / max(self.pairs, 1), strict=True):
            lines.append(
                f"  {len(counts_K)} clusters: perplexity {used:.1f}; {kept:.0%} of frames have the code of the one before"
            )
        if self.short:
            lines.append(f"  {self.short} utterances are shorter than one frame and left out")
        return "\n".join(lines)


class Source:
    """What is clustered: MFCC every 20 ms as `method` wants them, or a layer of `model`. name: for the file."""

    def __init__(self, model: Any, layer: str, method: "Method") -> None:
        """model: None for MFCC."""
        self.model, self.layer, self.method = model, layer, method
        self.geometry: Geometry = EVERY_20_MS if model is None else model.config.geometry
        self.name = MFCC if model is None else f"{model.source}, layer {choose_layers(layer, model)[0]}"
        self.batch = BATCH["cpu" if model is None else model.device.type]

    def several(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Standardised frames (T, D) of each wave."""
        if self.model is None:
            width, weights_F = self.method.width, self.method.weights_F
            with one_thread():
                return [weights_F * standardised(mfcc(wave_S, width)[::2]) for wave_S in waves]
        return [standardised(frames_TD) for frames_TD in embed_waves(self.model, waves, layer=self.layer, pool="none")]

    def one(self, path: str, **segment: Any) -> np.ndarray:
        """Those of a long clip. segment: start and duration."""
        if self.model is None:
            return self.several([audio.load(path, **segment)])[0]
        return standardised(embed_clip(self.model, path, layer=self.layer, pool="none", **segment))

    def frames(self, rows: Manifest, what: str, change: Callable[[np.ndarray], Any]) -> Iterator[tuple[str, Any]]:
        """(id, `change` of the frames (T, D)) of the rows, None for one of less than a frame. InputError if audio cannot be
        read: a target must not depend on which files happened to open."""
        results = stream_clips(
            rows,
            range(len(rows)),
            lambda waves: [change(frames_TD) for frames_TD in self.several(waves)],
            lambda *args, **segment: change(self.one(*args, **segment)),
            reach=self.geometry.receptive_field,
            longest=LONGEST,
            batch_seconds=self.batch,
            what=what,
        )
        for result in chain.from_iterable(results):
            if isinstance(result.value, InputError) and not isinstance(result.value, TooShort):
                raise result.value
            yield result.row.id, None if isinstance(result.value, InputError) else result.value


# One thread: on a busy machine two of them learn a mixture 10 to 20 times slower.
@threadpool_limits.wrap(limits=1, user_api="blas")
def cluster(
    model: Any,
    manifests: Sequence[Path],
    out: Path,
    *,
    where: str | Sequence[str] = "",
    clusters: Sequence[int] = (100,),
    method: str = "kmeans",
    layer: str = "best",
    seed: int = 1,
) -> Clustered:
    """Learn `clusters` from a sample of the frames, and write the codes of all frames of the manifests into `out`.

    model: whose `layer` is clustered; None for MFCC. method: one of METHODS. InputError for fewer frames than clusters or audio
    that cannot be read.
    """
    if method not in METHODS:
        raise InputError(f"--method {method}: it is one of {', '.join(METHODS)}")
    if min(clusters) < 2 or max(clusters) > 2**16:
        raise InputError(f"--clusters {' '.join(map(str, clusters))}: each must lie between 2 and 65536")
    if layer in ("all", "weighted"):
        raise InputError(f"--layer {layer}: a single layer is clustered; name it")
    out, source = output_file(Path(out), "codes.parquet"), Source(model, layer, METHODS[method])
    rows = read_manifest(*manifests).where(where)
    codebooks, done = learn(source, rows, clusters, seed), Clustered(out, clusters)

    def assign(x_TD: np.ndarray) -> np.ndarray:
        return np.stack([codebook(x_TD) for codebook in codebooks], axis=1)

    def coded() -> Iterator[tuple[str, np.ndarray]]:
        for name, codes_TCV in source.frames(rows, "assign", assign):
            if codes_TCV is None:
                done.short += 1
            else:
                done.add(codes_TCV)
                yield name, codes_TCV

    name = f"{source.name}, {method}"
    write_codes(out, coded(), sizes=clusters, votes=source.method.votes, hop=source.geometry.hop, source=name)
    return done


def learn(source: Source, rows: Manifest, clusters: Sequence[int], seed: int) -> list["Codebook"]:
    """A codebook of each size, learned from a sample of the utterances."""
    order, wanted = np.random.default_rng(seed).permutation(len(rows)), SAMPLE * source.geometry.hop / audio.SAMPLE_RATE
    seconds = np.nan_to_num(rows.durations[order], nan=10.0).cumsum()
    some = rows.select(order[: int(np.searchsorted(seconds, wanted)) + 1])
    pieces = [frames_TD for _, frames_TD in source.frames(some, "sample", lambda x_TD: x_TD) if frames_TD is not None]
    if sum(map(len, pieces)) < max(clusters):
        raise InputError(f"{sum(map(len, pieces))} frames are too few for {max(clusters)} clusters; give more audio")
    sample_ND = np.concatenate(pieces)[:SAMPLE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few distinct points in tiny data; a mixture that could still grow likelier
        return [source.method.learn(sample_ND, size, seed) for size in clusters]


Codebook = Callable[[np.ndarray], np.ndarray]  # frames (T, D) -> the numbers of their clusters (T, V)


class Method(NamedTuple):
    """learn: (frames (N, D), clusters, seed) -> codebook. votes: V. width: rows that a difference of MFCC looks at. weights_F: of
    MFCC's numbers."""

    learn: Callable[[np.ndarray, int, int], Codebook]
    votes: int
    width: int
    weights_F: np.ndarray


def kmeans(sample_ND: np.ndarray, clusters: int, seed: int) -> Codebook:
    """The nearest centre, by mini-batch k-means from k-means++ starts."""
    from sklearn.cluster import MiniBatchKMeans

    options: Any = {"batch_size": 10_240, "n_init": 5, "random_state": seed}
    centres_KD: Any = MiniBatchKMeans(clusters, **options).fit(sample_ND).cluster_centers_
    return lambda x_TD: ((centres_KD**2).sum(axis=1) - 2 * x_TD @ centres_KD.T).argmin(axis=1)[:, None]


def mixture(sample_ND: np.ndarray, clusters: int, seed: int) -> Codebook:
    """The posterior in a mixture of Gaussians with full covariances, over the first 39 principal components where there are
    more dimensions."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture
    from sklearn.pipeline import make_pipeline

    sample_ND = sample_ND[: ENOUGH * clusters]
    gaussians = GaussianMixture(clusters, reg_covar=1e-2, max_iter=10, random_state=seed)
    model = make_pipeline(PCA(min(39, *sample_ND.shape), random_state=seed), gaussians).fit(sample_ND)
    return lambda x_TD: votes(model.predict_proba(x_TD) ** (1 / FLATTER))


def votes(weights_TK: np.ndarray) -> np.ndarray:
    """Each row's distribution (up to a factor) as VOTES numbers (T, V): evenly spaced quantiles, which start elsewhere in each
    row, so that over many rows a cluster gets the votes that are due to it."""
    sums_TK = weights_TK.cumsum(axis=1)
    first_T1 = (np.arange(len(weights_TK)) * GOLDEN % 1)[:, None]
    points_TV = (first_T1 + np.arange(VOTES)) / VOTES * sums_TK[:, -1:]
    chosen_TV = [
        np.searchsorted(sums_K, points_V, side="right") for sums_K, points_V in zip(sums_TK, points_TV, strict=True)
    ]
    return np.minimum(np.reshape(chosen_TV, points_TV.shape), sums_TK.shape[1] - 1)


METHODS = {
    "kmeans": Method(learn=kmeans, votes=1, width=WIDTH, weights_F=WEIGHTS_F),
    "gmm": Method(learn=mixture, votes=VOTES, width=NARROW, weights_F=np.ones(39, np.float32)),
}
