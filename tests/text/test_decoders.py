"""What lexicons, hot words, models and posteriors of every kind do in both searches; flashlight's own KenLM as a witness."""

import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechssl.core.errors import InputError
from speechssl.text.build_lm import build, estimate
from speechssl.text.decode import best_path
from speechssl.text.decoders import decode
from speechssl.text.lexicon import ROOT, Lexicon, parse_hot
from speechssl.text.ngram import Ngram, open_lm
from speechssl.text.search import Search
from speechssl.text.tokenizer import CharTokenizer, Writing

ENGLISH = CharTokenizer.build(["abcdefghijklmnopqrstuvwxyz '"])
CHINESE = CharTokenizer.build(["你好世界"])
GENESIS = Path(__file__).parent / "genesis.arpa"


@pytest.fixture(params=["beam", "flashlight"])
def decoder(request) -> str:
    """The name of each search."""
    if request.param == "flashlight":
        pytest.importorskip("flashlight.lib.text.decoder")
    return request.param


def of(text: str, tokenizer: CharTokenizer, p: float = 0.9) -> torch.Tensor:
    """Log-posteriors that spell a text: blank, symbol, blank, symbol ... with probability `p`, the others alike."""
    ids = [i for symbol in tokenizer.encode(text) for i in (tokenizer.blank, symbol)]
    frames_TV = np.full((len(ids), len(tokenizer)), (1 - p) / (len(tokenizer) - 1))
    frames_TV[np.arange(len(ids)), ids] = p
    return torch.from_numpy(frames_TV).log().float()


def best(text: str, tokenizer: CharTokenizer, p: float = 0.9, **how) -> str:
    """What is found where `text` was said."""
    return decode(of(text, tokenizer, p), tokenizer, Search(**how))[0].text


def test_a_lexicon_is_spelled_as_the_model_prints(decoder, capsys):
    words = Lexicon(["the", "the", "cat", "ça", "Öl"])
    assert best("the cat", ENGLISH, decoder=decoder, lexicon=words) == "the cat"
    arabic = CharTokenizer.build(["مرحبا بالعالم"])
    assert best("مرحبا بالعالم", arabic, decoder=decoder, lexicon=Lexicon(["بالعالم", "مرحبا"])) == "مرحبا بالعالم"
    capitals = CharTokenizer(CharTokenizer.build(["ABC"]).vocab, Writing(lower=True))
    assert best("abc a", capitals, decoder=decoder, lexicon=Lexicon(["ABC", "a"])) == "abc a"
    turkish = CharTokenizer.build(["çağrı"])
    apart = "c\u0327ag\u0306rı"
    assert best("çağrı", turkish, decoder=decoder, lexicon=Lexicon([apart])) == "çağrı"
    assert best("çağrı", turkish, 0.6, decoder=decoder, hot=parse_hot([apart])) == "çağrı"
    assert "2 of 4 words, which the vocabulary cannot write, are left out: 'Öl' has Ö" in capsys.readouterr().err


def test_a_word_that_is_begun_is_worth_the_best_that_it_can_become():
    """So a narrow beam keeps what the model prefers: 'b' is likelier in every frame, 'ab' in the model."""
    worths = {"a": -1.0, "ab": -3.0, "abc": -2.0, "b": -5.0}
    words = Lexicon(worths)
    ahead = words.best_ahead(worths.__getitem__)
    for text, expected in (("a", -1.0), ("ab", -2.0), ("abc", -2.0), ("b", -5.0)):
        (place,) = words.after(ROOT, text)
        assert ahead[place] == expected and words.ends(frozenset([place]))
    tokenizer = CharTokenizer({"<pad>": 0, "|": 1, "a": 2, "b": 3})
    frames_TV = torch.tensor([[1e-6, 1e-6, 0.46, 0.54], [0.05, 0.02, 0.03, 0.9]]).log()
    model = Ngram(*estimate([["ab"]] * 9 + [["b"]], 1))
    how: dict[str, Any] = {"lm": model, "lexicon": Lexicon(["ab", "b"]), "lm_weight": 2.0}
    wide, narrow = (decode(frames_TV, tokenizer, Search(beam=beam, **how))[0] for beam in (100, 1))
    assert narrow.text == wide.text == "ab"


def test_words_of_another_spelling_are_refused(decoder):
    capitals = CharTokenizer.build(["ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    model = Ngram(*estimate([["the", "cat", "sat"]], 2))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"lm": model}, "no word of the language model is spelled as this model prints it: 'cat' has a c t"),
        ({"lexicon": Lexicon(["cat"])}, "can write no word of the lexicon: 'cat' has a c t"),
        ({"hot": parse_hot(["THE cat"])}, "cannot write a hot word: 'THE cat' has a c t"),
    ]
    for how, message in refused:
        with pytest.raises(InputError, match=message):
            best("THE CAT", capitals, decoder=decoder, **how)


def test_phrases_are_hot_as_a_whole(decoder):
    """'new' alone gets nothing, a word that only begins like a hot one neither, and each occurrence counts."""
    hot = parse_hot(["new york=6", "ann=2"])
    tokenizer = CharTokenizer.build(["new york ann"])
    found = decode(of("new york new ann anna new york", tokenizer), tokenizer, Search(decoder=decoder, hot=hot))[0]
    assert found.text == "new york new ann anna new york"
    assert found.score - found.acoustic == pytest.approx(6 + 2 + 6)
    assert best("new oork", tokenizer, 0.5, decoder=decoder) == "new oork"
    assert best("new oork", tokenizer, 0.5, decoder=decoder, hot=parse_hot(["new york=9"])) == "new york"


def test_where_no_spaces_are_written_hot_words_stand_anywhere(decoder):
    for tokenizer in (CHINESE, CharTokenizer({"<pad>": 0, "你": 1, "好": 2, "世": 3, "界": 4})):
        hot = parse_hot(["世界=3"])
        found = decode(of("你好世界世界", tokenizer), tokenizer, Search(decoder=decoder, hot=hot))[0]
        assert found.text == "你好世界世界" and found.score - found.acoustic == pytest.approx(6)


def test_where_no_spaces_are_written_words_of_a_lexicon_follow_each_other():
    words = Lexicon(["你好", "世界", "好世"])
    for tokenizer in (CHINESE, CharTokenizer({"<pad>": 0, "你": 1, "好": 2, "世": 3, "界": 4})):
        assert best("你好世界你好", tokenizer, lexicon=words) == "你好世界你好"
        assert best("界世", tokenizer, lexicon=words) not in ("界世", "界", "世")
    letters = CharTokenizer({"<pad>": 0, "o": 1, "n": 2, "e": 3, "t": 4, "w": 5})
    assert best("twoone", letters, lexicon=Lexicon(["one", "two"])) == "twoone"
    pytest.importorskip("flashlight.lib.text.decoder")
    with pytest.raises(InputError, match="use the decoder beam"):
        best("你好", CHINESE, lexicon=words, decoder="flashlight")


def test_phones_are_the_words_of_their_model_and_have_no_lexicon(decoder):
    phones = CharTokenizer.build(["tʃ aɪ n ə"], phones=True)
    model = Ngram(*estimate([["tʃ", "aɪ", "n", "ə"]], 2))
    found = decode(of("tʃ aɪ n ə", phones), phones, Search(decoder=decoder, lm=model, word_score=0.0))[0]
    state, lm = model.start(), 0.0
    for unit in ("tʃ", "aɪ", "n", "ə", "</s>"):
        state, score = model.score(state, unit)
        lm += score
    assert found.text == "tʃ aɪ n ə" and found.lm == pytest.approx(lm)
    with pytest.raises(InputError, match="writes phones, and a lexicon holds words"):
        best("tʃ aɪ", phones, decoder=decoder, lexicon=Lexicon(["tʃ"]))


def test_odd_posteriors(decoder):
    model = Ngram(*estimate([["the", "cat"], ["a", "cat"]], 2))
    search = Search(decoder=decoder, lm=model, n_best=3)
    other = CharTokenizer({"a": 0, "|": 1, "<pad>": 2, "b": 3})
    assert best("ab ba", other, decoder=decoder) == "ab ba"
    assert decode(of("a", ENGLISH)[1:], ENGLISH, search)[0].text == "a"
    silent_TV = torch.full((50, len(ENGLISH)), -math.inf)
    silent_TV[:, 0] = 0.0
    for frames_TV in (silent_TV, silent_TV[:0]):
        found = decode(frames_TV, ENGLISH, search)
        assert found[0].text == "" and found[0].acoustic == pytest.approx(0) and np.isfinite(found[0].score)
    assert best("the cat", ENGLISH, decoder=decoder, lm=model, beam=1) == "the cat"
    nothing_TV = of("the", ENGLISH)
    nothing_TV[2] = -math.inf  # a frame that no symbol fits is passed over
    found = decode(nothing_TV.numpy(), ENGLISH, Search(decoder=decoder))[0]
    assert found.text == "the" and found.score > -10


def test_what_are_no_log_posteriors_is_refused():
    frames_TV = of("the", ENGLISH)
    wrong_TV = frames_TV.clone()
    wrong_TV[1, 3] = math.nan
    for given, message in (
        (wrong_TV, "frame 1, symbol 3 is nan"),
        (frames_TV.exp(), "is no logarithm of a probability"),
        (frames_TV + 5, "is no logarithm of a probability"),
        (frames_TV[:, :5], r"give \(frames, 30\)"),
        (frames_TV[None], r"give \(frames, 30\)"),
    ):
        with pytest.raises(InputError, match=message):
            decode(given, ENGLISH)


def test_greedy_is_the_text_of_the_best_path():
    for seed in range(5):
        frames_TV = torch.from_numpy(np.random.default_rng(seed).normal(size=(80, 30)) * 3).log_softmax(dim=1)
        found = decode(frames_TV, ENGLISH)[0]
        assert found.text == best_path(frames_TV.argmax(dim=1), ENGLISH)
        assert found.score == found.acoustic == pytest.approx(float(frames_TV.max(dim=1).values.sum()))
    with pytest.raises(InputError, match="choose the decoder beam"):
        Search(decoder="greedy", lexicon=Lexicon(["a"]))
    with pytest.raises(InputError, match="the decoders: greedy, beam, flashlight"):
        Search(decoder="viterbi")


@pytest.mark.parametrize("units", ["words", "chars"])
def test_the_scores_of_flashlight_with_its_own_kenlm(units, tmp_path):
    """Its LexiconDecoder and its LexiconFreeDecoder, set up as torchaudio does it. Its KenLM counts in powers of ten, so that its
    weight is ln 10 times ours."""
    lib = pytest.importorskip("flashlight.lib.text.decoder")
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from flashlight.lib.text.dictionary import Dictionary

    tokenizer, words = CharTokenizer({"<pad>": 0, "|": 1, "a": 2, "b": 3}), ["a", "ab", "ba", "bab"]
    build(["ab a bab", "a ab", "ba bab ab"], tmp_path / "lm.arpa", order=3, units=units)
    model, weight = open_lm(tmp_path / "lm.arpa"), 0.7
    how = {"beam_size": 5000, "beam_size_token": 4, "beam_threshold": 1e6, "lm_weight": weight * math.log(10)}
    how |= {"sil_score": 0.0, "log_add": True, "criterion_type": lib.CriterionType.CTC}
    trie = lib.Trie(4, 1)
    if units == "words":
        theirs = kenlm.KenLM(str(tmp_path / "lm.arpa"), Dictionary(words))
        start = theirs.start(False)
        for number, word in enumerate(words):
            trie.insert([*tokenizer.encode(word), 1], number, theirs.score(start, number)[1])
        trie.smear(lib.SmearingMode.MAX)
        options = lib.LexiconDecoderOptions(word_score=0.4, unk_score=-math.inf, **how)
        searcher = lib.LexiconDecoder(options, trie, theirs, 1, 0, -1, [], False)
    else:
        theirs = kenlm.KenLM(str(tmp_path / "lm.arpa"), Dictionary(["<unk>", "|", "a", "b"]))
        searcher = lib.LexiconFreeDecoder(lib.LexiconFreeDecoderOptions(**how), theirs, 1, 0, [])
    for seed, own in itertools.product(range(4), ("beam", "flashlight")):
        frames_TV = torch.from_numpy(np.random.default_rng(seed).normal(size=(9, 4)) * 1.5).log_softmax(dim=1).float()
        if units == "words":
            frames_TV[-1] = torch.tensor([-60.0, 0.0, -60.0, -60.0])  # a delimiter, which its words end with
        else:
            frames_TV[:, 1] = -60.0  # it would count every delimiter of several
            frames_TV = frames_TV.log_softmax(dim=1)
        result = searcher.decode(frames_TV.contiguous().data_ptr(), *frames_TV.shape)[0]
        lexicon = Lexicon(words) if units == "words" else None
        search = Search(
            decoder=own, beam=5000, lm=model, lm_weight=weight, word_score=0.4 * (units == "words"), lexicon=lexicon
        )
        found = decode(frames_TV, tokenizer, search)[0]
        path = [token for token, _ in itertools.groupby(result.tokens[1:-1]) if token]
        expected = " ".join(words[i] for i in result.words if i >= 0) if lexicon else tokenizer.decode(path)
        assert found.text == expected
        assert found.lm == pytest.approx(result.lmScore * math.log(10), abs=1e-4)
        if units == "words":  # of characters, states of equal contexts are one to KenLM: texts are summed
            assert found.score == pytest.approx(result.score, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\t", " ").encode(),
        lambda text: text.replace("<unk>", "<UNK>").encode(),
        lambda text: text.replace("day", "d\xa0y").encode(),  # a space that parts no cells
        lambda text: text.encode("utf-16"),
    ],
)
def test_arpa_files_of_every_hand(change, tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_bytes(change(GENESIS.read_text()))
    ours, plain = open_lm(path), open_lm(GENESIS)
    for word in ("god", "nobody"):
        assert ours.score(ours.start(), word) == plain.score(plain.start(), word)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ngram 2=", "ngram 2=x", "is not as in"),
        ("ngram 2=", "ngram two=", "is not as in"),
        ("\n-0.", "\n0.", "is none of the"),
        ("\n-0.547392", "\nnan", "is none of the"),
    ],
)
def test_numbers_that_are_none_are_refused(before, after, message, tmp_path):
    (tmp_path / "lm.arpa").write_text(GENESIS.read_text().replace(before, after, 1))
    with pytest.raises(InputError, match=message):
        open_lm(tmp_path / "lm.arpa")


def test_without_back_offs_they_are_one(tmp_path):
    """kenlm says the same: -2.4344 of 'and god said'."""
    text = "\n".join("\t".join(line.split("\t")[:2]) for line in GENESIS.read_text().split("\n"))
    (tmp_path / "lm.arpa").write_text(text)
    model, state, total = open_lm(tmp_path / "lm.arpa"), None, 0.0
    state = model.start()
    for word in ("and", "god", "said", "</s>"):
        state, score = model.score(state, word)
        total += score / math.log(10)
    assert total == pytest.approx(-2.4344, abs=1e-4)


def test_torchaudio_s_decoder_finds_the_same_from_our_labels(tmp_path):
    """Its words end with a delimiter, so one more frame of it; its KenLM counts in powers of ten."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from torchaudio.models.decoder import ctc_decoder

    words = ["god", "said", "light", "let", "there", "be", "and", "was"]
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} {' '.join(word)} |\n" for word in [*words, "<unk>"]))
    how = {"nbest": 1, "beam_size": 500, "word_score": 0.8, "log_add": True, "lm_weight": 0.6 * math.log(10)}
    theirs = ctc_decoder(
        str(tmp_path / "lexicon.txt"),
        ENGLISH.labels,
        str(GENESIS),
        blank_token=ENGLISH.labels[ENGLISH.blank],
        sil_token=ENGLISH.labels[ENGLISH.delimiter or 0],
        **how,
    )
    search = Search(beam=500, lm=open_lm(GENESIS), lm_weight=0.6, word_score=0.8, lexicon=Lexicon(words))
    frames_TV = of("and god said", ENGLISH, 0.6)
    end_1V = torch.full((1, len(ENGLISH)), -1e5)
    end_1V[0, ENGLISH.delimiter or 0] = 0.0
    result = theirs(torch.cat([frames_TV, end_1V])[None])[0][0]
    found = decode(frames_TV, ENGLISH, search)[0]
    assert found.text == " ".join(result.words) == "and god said"
    assert found.score == pytest.approx(result.score, abs=0.05)  # theirs adds the texts of equal contexts
