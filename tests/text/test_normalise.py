"""Normalisers on every script."""

import unicodedata

import pytest

from speechssl.core.errors import InputError
from speechssl.text.normalise import basic, normalise

SENTENCES = {
    "english": ("Don't — “stop”, it's 5 o’clock!", "don't stop it's 5 o'clock"),
    "decomposed": ("cafe\u0301 NAI\u0308VE", "café naïve"),
    "cyrillic": ("Привет, мир! Ёлка.", "привет мир ёлка"),
    "ukrainian": ("Ім\u02bcя п\u2019ять", "ім'я п'ять"),
    "chinese": ("你好,世界。", "你好 世界"),
    "hindi": ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
    "persian": ("می\u200cخواهم", "میخواهم"),
    "arabic": ("مرحبا\u200f، بالعالم؟", "مرحبا بالعالم"),
    "soft hyphen": ("Donau\u00addampf\ufeff", "donaudampf"),
    "full width": ("ＡＢＣ　１２３", "abc 123"),
    "quotes": ("'tis the dogs' 'n' all '", "tis the dogs n all"),
    "nothing": (" … — ! ", ""),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_every_script_keeps_its_words(name):
    text, expected = SENTENCES[name]
    assert basic(text) == unicodedata.normalize("NFC", expected)


@pytest.mark.parametrize("name", SENTENCES)
def test_normalising_twice_changes_nothing_and_composition_does_not_matter(name):
    text = SENTENCES[name][0]
    for normaliser in ("basic", "upper"):
        once = normalise(text, normaliser)
        assert normalise(once, normaliser) == once
        for form in ("NFC", "NFD"):
            assert normalise(unicodedata.normalize(form, text), normaliser) == once


def test_combining_marks_stay_with_their_letters():
    word = "हिन्दी"
    assert [c for c in basic(word) if unicodedata.category(c).startswith("M")] == [
        c for c in word if unicodedata.category(c).startswith("M")
    ]


def test_an_unknown_normaliser_names_those_there_are():
    with pytest.raises(InputError, match="no normaliser 'bsic'; choose one of none, basic, upper"):
        normalise("x", "bsic")
