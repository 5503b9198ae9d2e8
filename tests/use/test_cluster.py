"""Codes of frames: nearest centres, one for each frame of the network, in a file that finds them again."""

from itertools import permutations

import numpy as np
import pytest
import soundfile

import speechssl
from speechssl.core.errors import InputError
from speechssl.data.codes import FrameCodes, write_codes
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from speechssl.sound.mfcc import mfcc, standardised
from speechssl.use.cluster import WEIGHTS_F, cluster, mixture, votes
from tests.conftest import digits, refused, write_table


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "x.tsv", *digits(40))


def test_codes_of_mfcc_are_those_of_the_nearest_centres(table, tmp_path):
    """Frames of one code lie around their own mean, nearer to it than to the mean of any other code."""
    done = cluster(None, [table], tmp_path / "codes.parquet", clusters=[8, 20], seed=1)
    codes, rows = FrameCodes(tmp_path / "codes.parquet"), list(read_manifest(table))
    assert (codes.sizes, codes.hop, codes.source, done.utterances) == ((8, 20), 320, "mfcc, kmeans", len(rows))
    frames = [WEIGHTS_F * standardised(mfcc(audio.load(row.path), 9)[::2]) for row in rows]
    assert [codes[row.id].shape for row in rows] == [(len(x), 2, 1) for x in frames]
    x_ND, codes_NC = np.concatenate(frames), np.concatenate([codes[row.id][:, :, 0] for row in rows])
    for codebook, size in enumerate(codes.sizes):
        code_N = codes_NC[:, codebook]
        means_KD = np.stack([x_ND[code_N == k].mean(axis=0) for k in range(size)])
        nearest_N = ((x_ND[:, None] - means_KD) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest_N == code_N).mean() > 0.9
        share_K = np.bincount(code_N) / len(code_N)
        assert done.used()[codebook] == pytest.approx(np.exp(-(share_K * np.log(share_K)).sum()))


def test_votes_are_the_posteriors_of_the_mixture_that_made_the_frames():
    """Frames drawn from three known Gaussians of different shapes; their true posteriors, flattened, by scipy."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(3, 4, 4)) / 2
    gaussians = [multivariate_normal(rng.normal(size=4), shape @ shape.T + 0.1 * np.eye(4)) for shape in shapes]
    x_ND = rng.permutation([x_D for gaussian in gaussians for x_D in gaussian.rvs(4000, random_state=1)])
    codes_NV = mixture(x_ND, 3, 1)(x_ND)
    shares_NK = np.stack([(codes_NV == k).mean(axis=1) for k in range(3)], axis=1)
    logs_NK = np.stack([gaussian.logpdf(x_ND) for gaussian in gaussians], axis=1)
    true_NK = np.exp((logs_NK - logs_NK.max(axis=1, keepdims=True)) / 3)
    true_NK /= true_NK.sum(axis=1, keepdims=True)
    errors = [np.abs(shares_NK[:, list(order)] - true_NK).mean() for order in permutations(range(3))]
    assert min(errors) < 0.06 < 2 * min(errors) + 0.1 < sorted(errors)[1]


def test_votes_are_due_shares():
    weights_TK = np.random.default_rng(0).dirichlet([0.2] * 9, size=4000) * 7
    counts_TK = np.stack([(votes(weights_TK) == k).sum(axis=1) for k in range(9)], axis=1)
    due_TK = weights_TK / weights_TK.sum(axis=1, keepdims=True) * 8
    assert (np.abs(counts_TK - due_TK) <= 1.0).all() and (counts_TK.sum(axis=1) == 8).all()
    np.testing.assert_allclose(counts_TK.mean(axis=0), due_TK.mean(axis=0), rtol=0.02)


def test_a_mixture_of_mfcc(table, tmp_path):
    cluster(None, [table], tmp_path / "codes.parquet", clusters=[6, 10], method="gmm", seed=1)
    codes, row = FrameCodes(tmp_path / "codes.parquet"), next(iter(read_manifest(table)))
    frames = len(mfcc(audio.load(row.path))[::2])
    assert (codes.votes, codes.source, codes[row.id].shape) == (8, "mfcc, gmm", (frames, 2, 8))


def test_the_same_seed_gives_the_same_codes(table, tmp_path):
    files = [tmp_path / f"{name}.parquet" for name in ("a", "b", "c")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        cluster(None, [table], file, clusters=[10], seed=seed)
    one, same, other = (FrameCodes(file).codes_NCV for file in files)
    assert (one == same).all() and (one != other).any()


def test_a_layer_of_a_model_and_a_long_clip(pretrained_folder, speech, tmp_path):
    """A minute and a half is read in windows; it has as many codes as frames, and a short clip's codes are its own."""
    soundfile.write(tmp_path / "long.wav", np.tile(speech, 2)[: 90 * 16_000], 16_000)
    soundfile.write(tmp_path / "short.wav", speech[:20_000], 16_000)
    soundfile.write(tmp_path / "tiny.wav", speech[:399], 16_000)
    rows = [{"id": name, "path": f"{name}.wav"} for name in ("long", "short", "tiny")]
    table, model = write_table(tmp_path / "x.tsv", *rows), speechssl.load(pretrained_folder)
    done = cluster(model, [table], tmp_path / "codes.parquet", clusters=[12], layer="1")
    codes, frames = FrameCodes(tmp_path / "codes.parquet"), model.config.geometry.frames
    assert [len(codes[name]) for name in ("long", "short")] == [frames(90 * 16_000), frames(20_000)]
    assert "tiny" not in codes and done.short == 1
    assert codes.source.endswith("layer 1, kmeans")


def test_what_was_written_is_found_again(tmp_path):
    rng = np.random.default_rng(0)
    named = {f"id {i}": rng.integers(0, 500, size=(length, 3, 2)) for i, length in enumerate((1, 7, 0, 30))}
    write_codes(tmp_path / "c.parquet", named.items(), sizes=(500, 500, 500), votes=2, hop=640, source="x")
    codes = FrameCodes(tmp_path / "c.parquet")
    for name, codes_TCV in named.items():
        np.testing.assert_array_equal(codes[name], codes_TCV)
    assert codes.hop == 640 and "id 4" not in codes


def test_mistakes(table, tmp_path, capsys):
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(InputError, match="does not hold codes of frames"):
        FrameCodes(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="does not exist; make it: `speechssl cluster mfcc"):
        FrameCodes(tmp_path / "gone.parquet")
    call = ["cluster", "mfcc", table, "--out", tmp_path / "c.parquet", "--clusters"]
    assert "each must lie between 2 and 65536" in refused(capsys, *call, 1)
    assert "--method x: it is one of kmeans, gmm" in refused(capsys, *call, 9, "--method", "x")
    assert "frames are too few for 60000 clusters" in refused(capsys, *call, 60_000)
    assert not (tmp_path / "c.parquet").exists()
