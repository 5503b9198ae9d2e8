"""ABX against a plain count of all triples, and on features whose answer is known."""

import itertools

import numpy as np
import pytest

import speechssl
from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.score.abx import Caps, Frames, Token, abx, distances, draw, read_items, speaker_pairs
from tests.conftest import CLIP, refused

SPEAKERS, PHONES = ("ann", "ben", "cat"), ("AA", "IY", "S")
CAPS = Caps(least=2)


def made(seed: int = 0, contexts: int = 2, noise: float = 1.0) -> tuple[list[Token], dict[str, Frames]]:
    """Tokens of three phones by three speakers, and frames of 10 ms in which each phone has a direction of its own."""
    rng, tokens, features = np.random.default_rng(seed), [], {}
    directions = rng.standard_normal((len(PHONES), 6))
    for speaker in SPEAKERS:
        values, at = [], 0
        for phone, context, _ in itertools.product(range(len(PHONES)), range(contexts), range(3)):
            length = int(rng.integers(4, 9))
            values.append(directions[phone] + noise * rng.standard_normal((length, 6)))
            tokens.append(Token(speaker, at / 100, (at + length) / 100, PHONES[phone], f"c{context} d", speaker))
            at += length
        features[speaker] = Frames(np.concatenate(values), 100.0, 0.005)
    return tokens, features


def warped(x_MD: np.ndarray, y_ND: np.ndarray) -> float:
    """Mean angle along the cheapest path, by the textbook's recursion."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x_MD, y_ND)]
    cost = np.arccos((unit[0] @ unit[1].T).clip(-1, 1)) / np.pi
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for m, n in np.ndindex(*cost.shape):
        before = [best[p] for p in ((m - 1, n - 1), (m - 1, n), (m, n - 1)) if p in best] or [(0.0, 0)]
        total, steps = min(before, key=lambda found: found[0])
        best[m, n] = (total + cost[m, n], steps + 1)
    total, steps = best[cost.shape[0] - 1, cost.shape[1] - 1]
    return total / steps


def counted(tokens: list[Token], features: dict[str, Frames], speaker: str, other: str, in_context: bool) -> float:
    """The error with A and B by `speaker` and X by `other`, triple by triple."""

    def piece(token: Token) -> np.ndarray:
        return features[token.file].values_TD[round(token.onset * 100) : round(token.offset * 100)]

    errors = []
    for context in sorted({token.context for token in tokens}) if in_context else [""]:
        own = [t for t in tokens if not in_context or t.context == context]
        for a_phone, b_phone in itertools.permutations(PHONES, 2):
            wrong = []
            for a, b, x in itertools.product(own, own, own):
                kinds = (a.phone, b.phone, x.phone) == (a_phone, b_phone, a_phone)
                if kinds and a.speaker == b.speaker == speaker and x.speaker == other and a is not x:
                    to_a, to_b = warped(piece(a), piece(x)), warped(piece(b), piece(x))
                    wrong.append(float(to_a > to_b) + 0.5 * (to_a == to_b))
            errors += [np.mean(wrong)] if wrong else []
    return float(np.mean(errors))


@pytest.mark.parametrize("in_context", [False, True])
def test_the_error_is_the_share_of_wrong_triples(in_context):
    (tokens, features), caps = made(), Caps(least=2, in_context=in_context)
    score = abx(features, draw(tokens, caps), caps)
    for speaker in SPEAKERS:
        assert score.within_S[speaker] == pytest.approx(
            counted(tokens, features, speaker, speaker, in_context), abs=1e-6
        )
    for pair in itertools.permutations(SPEAKERS, 2):
        assert score.across_P[pair] == pytest.approx(counted(tokens, features, *pair, in_context), abs=1e-6)
    assert 0.02 < score.within < 0.45


def test_distances_are_those_of_dynamic_time_warping():
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal((length, 4)) for length in (1, 2, 5, 13, 40)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in pieces]
    expected = [[warped(x, y) for y in pieces] for x in pieces]
    np.testing.assert_allclose(distances(unit, unit), expected, atol=1e-4)


def test_answers_that_are_known():
    """Phones apart: no error. The same features everywhere: chance."""
    tokens, features = made(noise=0.0)
    assert abx(features, draw(tokens, CAPS), CAPS).within == pytest.approx(0)
    flat = {file: frames._replace(values_TD=np.ones_like(frames.values_TD)) for file, frames in features.items()}
    score = abx(flat, draw(tokens, CAPS), CAPS)
    assert (score.within, score.across) == (pytest.approx(0.5), pytest.approx(0.5))


def test_caps():
    tokens, _ = made()
    drawn = draw(tokens, Caps(least=2, most=4))
    assert all(len([t for t in own if t.phone == phone]) == 4 for own in drawn.values() for phone in PHONES)
    assert drawn == draw(tokens, Caps(least=2, most=4)) and drawn != draw(tokens, Caps(least=2, most=4, seed=1))
    assert len(speaker_pairs([str(i) for i in range(20)], CAPS)) == 120
    with pytest.raises(InputError, match="two speakers with 9 tokens of two phones; the items have 0"):
        draw(tokens, Caps(least=9))


@pytest.fixture
def items(tmp_path):
    """An item file on one clip, under two names, so that it has two speakers."""
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for name in ("one", "two"):
        (tmp_path / f"{name}.flac").write_bytes(CLIP.read_bytes())
        for number in range(12):
            phone = ("AA", "IY")[number % 2]
            lines.append(f"{name} {0.1 + 0.14 * number:.2f} {0.22 + 0.14 * number:.2f} {phone} SIL T {name}")
    (tmp_path / "x.item").write_text("\n".join(lines) + "\n")
    return tmp_path / "x.item"


def test_the_verb_ranks_layers_beside_the_baselines(items, pretrained_folder, tmp_path, capsys):
    cli.main(["abx", str(pretrained_folder), str(items), "--out", str(tmp_path / "abx.json")])
    printed = capsys.readouterr().out
    names = [line.split("  ")[1] for line in printed.splitlines() if "±" in line and line.startswith("  ")]
    assert names == ["MFCC", "log-mels", "random weights", "layer 0", "layer 1", "layer 2"]
    assert "24 tokens, 2 speakers" in printed and "best layer here" in printed
    # the two speakers say the same, so that X always finds itself
    assert (tmp_path / "abx.json").read_text().count('"across": 0.0') == 0


def test_mistakes(items, pretrained_folder, tmp_path, capsys):
    (tmp_path / "bad.item").write_text("#head\none 0.1 0.2 AA SIL T\n")
    with pytest.raises(InputError, match=r"bad.item line 2 is not `file onset offset phone previous next speaker`"):
        read_items(tmp_path / "bad.item")
    (tmp_path / "two.flac").unlink()
    assert "names two, which is not in" in refused(capsys, "abx", pretrained_folder, items)
    assert "layer = 7 does not exist" in refused(capsys, "abx", pretrained_folder, items, "--layer", "7")
    assert "gone.item is no file" in refused(capsys, "abx", pretrained_folder, "gone.item")
    assert speechssl.load(pretrained_folder).model.layers == 3
