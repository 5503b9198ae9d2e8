"""Subword units: the pieces are those of byte-pair encoding, and whatever reads letters reads them too."""

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import speechssl
from speechssl.core.errors import InputError
from speechssl.core.packed import Geometry
from speechssl.data.tables import read_manifest
from speechssl.text.align import Clip, align
from speechssl.text.decode import greedy
from speechssl.text.decoders import transcript_of
from speechssl.text.lexicon import Lexicon
from speechssl.text.search import Search
from speechssl.text.subwords import pieces_of
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import DATA, FEW_DIGITS, desk_with

TEXTS = [text.lower() for text in read_manifest(DATA / "librispeech_test.tsv").column("text")]
GEOMETRY = Geometry(kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2))


def merged_by_hand(texts: list[str], count: int) -> list[tuple[str, int]]:
    """Byte-pair encoding as its paper has it: the most frequent pair becomes a symbol, again and again; with its frequency."""
    words = Counter(tuple(word) for text in texts for word in text.split())
    found = []
    while len(found) < count:
        pairs: Counter = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        (left, right), times = pairs.most_common(1)[0]
        found.append((left + right, times))
        merged: Counter = Counter()
        for word, n in words.items():
            parts, i = [], 0
            while i < len(word):
                both = word[i : i + 2] == (left, right)
                parts.append(left + right if both else word[i])
                i += 1 + both
            merged[tuple(parts)] += n
        words = merged
    return found


def test_pieces_are_those_of_byte_pair_encoding():
    """As many as are found before two pairs are equally frequent."""
    lines = (Path(__file__).parent / "genesis.txt").read_text(encoding="utf-8").lower().splitlines()
    characters = len({letter for line in lines for letter in line} - {" "})
    expected = merged_by_hand(lines, 20)
    assert pieces_of(lines, characters + 1 + 20) == [piece for piece, _ in expected]


def test_texts_become_fewer_symbols_and_come_back(tmp_path):
    tokenizer = CharTokenizer.build(TEXTS, pieces=pieces_of(TEXTS, 80))
    assert 75 <= len(tokenizer) <= 82 and tokenizer.has_pieces
    tokenizer.save(tmp_path)
    again = CharTokenizer.load(tmp_path)
    assert again.vocab == tokenizer.vocab
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert len(ids) < 0.8 * len(text)
        assert again.decode(ids) == text and again.encode(text) == ids
    assert not tokenizer.lacking([TEXTS[0][::-1]]), "every text of known characters can be written"


def posteriors(tokenizer: CharTokenizer, text: str) -> tuple[torch.Tensor, list[int]]:
    """Log-posteriors (T, V) that spell a text, three frames a symbol and a blank after each; where each symbol starts."""
    ids = tokenizer.encode(text)
    path = [index for symbol in ids for index in (symbol,) * 3 + (tokenizer.blank,)]
    scores_TV = np.full((len(path), len(tokenizer)), 0.01 / len(tokenizer))
    scores_TV[np.arange(len(path)), path] += 0.99
    return torch.from_numpy(np.log(scores_TV)).float(), [4 * place for place in range(len(ids))]


def test_greedy_beam_lexicon_and_alignment_read_them():
    """Words and their times; the borders are those of the symbols that spell each word."""
    tokenizer = CharTokenizer.build(TEXTS, pieces=pieces_of(TEXTS, 80))
    text = " ".join(TEXTS[0].split()[:6])
    log_probs_TV, starts = posteriors(tokenizer, text)
    symbols = [tokenizer.tokens[index] for index in tokenizer.encode(text)]
    firsts = [0, *(place + 1 for place, symbol in enumerate(symbols) if symbol == "|")]
    edge = GEOMETRY.receptive_field / 2 / 16_000 - 0.01
    expected = [round(starts[place] * 0.02 + edge, 3) for place in firsts]
    search = Search(beam=20, lexicon=Lexicon(text.split()))
    found = [
        greedy(log_probs_TV, tokenizer, GEOMETRY),
        transcript_of(log_probs_TV, tokenizer, GEOMETRY, Search(beam=20), 0.0),
        transcript_of(log_probs_TV, tokenizer, GEOMETRY, search, 0.0),
        *align([Clip(log_probs_TV, [(word, word) for word in text.split()])], tokenizer, GEOMETRY),
    ]
    for transcript in found:
        assert transcript is not None and transcript.text == text
        assert [word.text for word in transcript.words] == text.split()
        assert [word.start for word in transcript.words] == pytest.approx(expected, abs=1e-3)
    assert [letter.text for letter in found[-1].letters] == [symbol for symbol in symbols if symbol != "|"]


def test_fine_tuning_with_subwords_opens_resumes_and_reads_as_transformers_does(
    pretrained_folder, tmp_path, monkeypatch
):
    from transformers import Wav2Vec2CTCTokenizer

    from speechssl import cli

    desk_with(tmp_path, monkeypatch, r=FEW_DIGITS + '[train]\nsteps = 2\nprecision = "float32"\n')
    call = ["finetune", "r.toml", "--init", str(pretrained_folder), "--train", "x.tsv", "--out", "run"]
    call += ["--text.symbols", "subwords", "--text.vocab_size", "20"]
    cli.main(call)
    cli.main([*call, "--resume", "--train.steps", "3"])
    tokenizer = speechssl.load("run").tokenizer
    assert tokenizer is not None and tokenizer.has_pieces and len(tokenizer) <= 22
    theirs = Wav2Vec2CTCTokenizer.from_pretrained("run/last")
    for text in ("seven", "three eight"):
        ids = [index for symbol in tokenizer.encode(text) for index in (symbol, symbol, tokenizer.blank)]
        assert theirs.decode(ids) == text
    transcript = speechssl.load("run").transcribe(Path(read_manifest(Path("x.tsv"))[0].path))
    assert set(transcript.text) <= set("".join(tokenizer.vocab)) | {" "}


def test_what_sentencepiece_refuses_and_its_absence_are_one_sentence(monkeypatch):
    with pytest.raises(InputError, match=r"text.vocab_size = 5 does not fit these transcripts, .* smaller than"):
        pieces_of(["one two three four"], 5)
    with pytest.raises(InputError, match=r"text.vocab_size = 900 does not fit .* Please set it to a value <= \d+$"):
        pieces_of(["one two three four"], 900)
    with pytest.raises(InputError, match="there are no words"):
        pieces_of([" "], 900)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"needs sentencepiece; pip install 'speechssl\[subwords\]'"):
        pieces_of(TEXTS, 80)
