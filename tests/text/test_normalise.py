"""Normalisers on every script: what a reader of the language takes for the same words."""

import builtins
import re
import unicodedata

import pytest

from speechssl.core.errors import InputError
from speechssl.text.normalise import BLOCKS, PATTERNS, RULES, Normaliser, basic, folded, normalise, short_code, whisper

LINES = [  # language, what is typed, the words of it
    ("en", "Don't — “stop”, it's 5 o’clock!", "don't stop it's 5 o'clock"),
    ("en", "\u2018tis the dogs\u2019 \u2018n\u2019 all ’", "tis the dogs n all"),
    ("de", "Die Straße: GROẞE Füße; Donau\u00addampf\ufeffschiff", "die straße große füße donaudampfschiff"),
    ("fr", "L’œuf de NOËL… aujourd´hui", "l'œuf de noël aujourd'hui"),
    ("es", "¿Qué año? ¡Mañana!", "qué año mañana"),
    ("ca", "La col·lecció INTEL·LIGENT és bona·", "la col·lecció intel·ligent és bona"),
    ("ca", "La co\u0140lecció, xarxa pa\u2022la, til•la", "la col·lecció xarxa pa la til·la"),
    ("ca", "una col.lecció", "una col·lecció"),
    ("oc", "ua n·hèra e s·hèr", "ua n·hèra e s·hèr"),
    ("nl", "Een ĳsje, zo’n Ĳ", "een ijsje zo'n ij"),
    ("hr", "ǈubav i ǆep", "ljubav i džep"),
    ("ro", "Oraşul și ţara", "orașul și țara"),
    ("vi", "Tiê\u0301ng Việt", "tiếng việt"),
    ("tr", "IŞIK İstanbul’da DIŞARI", "ışık istanbul'da dışarı"),
    ("az", "Azərbaycanın İQLİMİ, QIZIL", "azərbaycanın iqlimi qızıl"),
    ("uz", "O‘zbekiston g`alaba, ma’no va Oʻzbek", "o'zbekiston g'alaba ma'no va o'zbek"),
    ("uz", "‘salom’ dedi u, ‘bog’ togʻ tog‘da bog’.", "salom dedi u bog tog' tog'da bog'"),
    ("yua", "K’áat úuch ajk’, to’on", "k'áat úuch ajk' to'on"),
    ("haw", "ʻŌlelo Hawaiʻi", "'ōlelo hawai'i"),
    ("ha", "’Yan Najeriya sun ce ‘yar Ƙano", "'yan najeriya sun ce 'yar ƙano"),
    ("mt", "ta’ Malta, x’għandek?", "ta' malta x'għandek"),
    ("yo", "Ẹ kú àárọ̀, ọmọ Yorùbá", "ẹ kú àárọ̀ ọmọ yorùbá"),
    ("ee", "Ŋdi, Ʋɔ na ɖevi", "ŋdi ʋɔ na ɖevi"),
    ("am", "ሰላም፡ዓለም። እንዴት ነህ፧", "ሰላም ዓለም እንዴት ነህ"),
    ("uk", "Ім\u02bcя, п\u2019ять «Ґанок»", "ім'я п'ять ґанок"),
    ("ru", "Привет, мир! ЁЛКА — е\u0308ж", "привет мир ёлка ёж"),
    ("el", "Ο ΟΔΥΣΣΕΑΣ, ο σοφός· Σ’ ΑΓΑΠΩ", "ο οδυσσεας ο σοφός σ αγαπω"),
    ("ka", "ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ და თბილისი.", "საქართველო და თბილისი"),
    ("hy", "Ինչպե՞ս ես։ Ո՛չ, Հայաստա՜ն և տարի", "ինչպես ես ոչ հայաստան և տարի"),
    ("he", "צה\"ל וארה״ב, ג'ירפה צ׳ק", "צה״ל וארה״ב ג׳ירפה צ׳ק"),
    ("he", "״שלום״", "שלום"),
    ("he", "\u200fג\u200f׳ירפה צה\u200f״ל", "ג׳ירפה צה״ל"),
    ("he", 'ב"הארץ" מנכ"לית', "ב הארץ מנכ״לית"),
    ("kab", "Σer εli, aγrum", "ɛer ɛli aɣrum"),
    ("he", 'סנדוויץ\' "שלום" ׳טוב׳ בֵּית־סֵפֶר', "סנדוויץ׳ שלום טוב׳ בֵּית סֵפֶר"),
    ("ar", "مرحبـــا\u200f، بالعالَم؟ ﻣﺮﺣﺒﺎ ﷲ", "مرحبا بالعالَم مرحبا الله"),
    ("fa", "می\u200cخواهم كتاب يك", "میخواهم کتاب یک"),
    ("hi", "नमस्ते, दुनिया! ज़रा क्\u200dया।", "नमस्ते दुनिया ज़रा क्या"),
    ("mr", "दर्\u200dया", "दर्\u200dया"),
    ("bn", "র\u200d\u09cdযাব, হঠাত্\u200d ।", "র\u200d\u09cdযাব হঠাৎ"),
    ("ta", "வணக்கம், தமிழ்!", "வணக்கம் தமிழ்"),
    ("ml", "അവന്\u200d, അവൻ സോഫ്\u200cറ്റ്", "അവൻ അവൻ സോഫ്റ്റ്"),
    ("si", "ශ්\u200dරී ලංකාව.", "ශ්\u200dරී ලංකාව"),
    ("th", "ท\u0e4d\u0e32งาน น\u0e49\u0e4d\u0e32 น\u0e4d\u0e49\u0e32 น\u0e33\u0e49 เเละ", "ทำงาน น้ำ น้ำ น้ำ และ"),
    ("lo", "ນ\u0ec9\u0ecd\u0eb2 ນ\u0ecd\u0ec9\u0eb2 ນ\u0eb3\u0ec9 ເເລະ", "ນ້ຳ ນ້ຳ ນ້ຳ ແລະ"),
    ("km", "ភាសា\u200bខ្មែរ។", "ភាសាខ្មែរ"),
    ("my", "မြန်မာစာ၊ ၎င်း၏ အိမ်၌။", "မြန်မာစာ ၎င်း၏ အိမ်၌"),
    ("bo", "བོད་ཡིག་།", "བོད ཡིག"),
    ("mn", "ᠪᠢᠴᠢᠭ\u180c᠃ ᠬᠠᠭᠠᠨ\u180eᠠ", "ᠪᠢᠴᠢᠭ ᠬᠠᠭᠠᠨ\u180eᠠ"),
    ("zh", "你好,世界。ＡＢＣ　１２３ ⼀", "你好 世界 abc 123 一"),
    ("ja", "ｶﾞｷﾞ、ラーメン。５㌔", "ガギ ラーメン 5キロ"),
    ("ko", "\u1112\u1161\u11ab\u1100\u1173\u11af, 한국어! ㅋㅋ", "한글 한국어 ㅋㅋ"),
    ("chr", "ᏣᎳᎩ ꭳꮒ", "ᏣᎳᎩ ᎣᏂ"),
    ("phones", "tʰ ɔɪ˥˩ ˈt͡ʃaː kʲ", "tʰ ɔɪ˥˩ ˈt͡ʃaː kʲ"),
    ("", "İstanbul, 10² ½ file ﬁle 1\ufe0f\u20e3", "istanbul 10² ½ file file 1"),
    ("", " … — ! ' ", ""),
]


def language(name: str) -> Normaliser:
    """`basic` for a line of LINES."""
    return Normaliser(language=name if len(name) in (2, 3) else "")


@pytest.mark.parametrize("name, text, expected", LINES)
def test_every_script_keeps_its_words(name, text, expected):
    assert language(name)(text) == unicodedata.normalize("NFC", expected)


@pytest.mark.parametrize("name, text, expected", LINES)
def test_normalising_twice_changes_nothing_and_composition_does_not_matter(name, text, expected):
    for normaliser in (language(name), Normaliser(name="upper", language=language(name).language)):
        once = normaliser(text)
        assert normaliser(once) == once
        for form in ("NFC", "NFD"):
            assert normaliser(unicodedata.normalize(form, text)) == once


@pytest.mark.parametrize("name, text, expected", LINES)
def test_no_letter_of_the_words_is_lost(name, text, expected):
    """The language only chooses between letters: without it, as many are there."""
    assert len(re.sub(r"[\W_]", "", basic(text))) >= len(re.sub(r"[\W_]", "", expected)) - 2 * (name == "ca")


def test_no_letter_or_mark_of_unicode_splits_or_leaves_a_word():
    """All of the first plane but ideographs and syllables; what goes is invisible or encloses, and the tatweel."""
    gone, unstable = [], []
    for code in (*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0xFFF0)):
        if unicodedata.category(chr(code))[0] not in "LM":
            continue
        word = basic(f"a{chr(code)}b")
        if word == "ab" or " " in word:
            gone.append(code)
        if basic(word) != word:
            unstable.append(code)
    assert not unstable
    selectors = {0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE10)}
    invisible = {0x34F, 0x115F, 0x1160, 0x3164, 0xFFA0, 0x640} | selectors
    enclosing = {code for code in gone if unicodedata.category(chr(code)) == "Me"}
    two_words = {0xFDFA, 0xFDFB}  # of blessings, written as one character
    dotted = {0x13F, 0x140}  # the dot of Catalan before another letter than l
    assert set(gone) - enclosing == invisible | two_words | dotted


def test_the_rules_have_reasons_and_are_all_used():
    """A rule that changes none of the lines would be untested."""
    unused = {rule.pattern: rule.why for rule in RULES}
    for name, text, _ in LINES:
        how = language(name)
        composed = unicodedata.normalize("NFC", text)
        for pattern, rule in PATTERNS:
            if not rule.languages or short_code(how.language) in rule.languages:
                changed = pattern.sub(rule.replacement, composed)
                if changed != composed:
                    unused.pop(rule.pattern, None)
                composed = changed
    assert not unused
    assert all(rule.why for rule in RULES) and all(block.why for block in BLOCKS)


def test_latin_text_is_what_nfkc_made_of_it():
    """Runs of before keep their alphabets: on plain Latin text the tables change nothing."""
    text = "Well, what a Spiteful thing; naïve café — don't!"
    old = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in old)
    assert basic(text) == " ".join(kept.split())


def test_folding_keeps_letters_that_only_look_like_variants():
    for letter in "ำຳևໜʰʲªㅋ²":
        assert folded(letter) == letter
    assert folded("ﬅ") == "st"


def test_upper_case_follows_the_language():
    assert Normaliser(name="upper", language="tr")("ışık ilk") == "IŞIK İLK"
    assert Normaliser(name="upper")("თბილისი i") == "თბილისი I"
    assert Normaliser(language="tur")("I") == Normaliser(language="tr-TR")("I") == "ı"
    assert basic("I") == "i" and basic("I", language="tr") == normalise("I", language="az") == "ı"


def test_points_are_a_policy():
    text = "بِسْمِ اللَّهِ שָׁלוֹם हिन्दी"
    assert Normaliser(points="drop")(text) == "بسم الله שלום हिन्दी"
    assert unicodedata.normalize("NFC", basic(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "code, text, expected",
    [
        ("en", "In 2 days, 1,205 of 3.5!", "in two days one thousand two hundred and five of three point five"),
        ("en", "the 2nd of 21", "the second of twenty one"),
        ("en-GB", "007 and 1.2.3", "zero zero seven and one two three"),
        ("de", "1.000,5 km oder 21", "eintausend komma fünf km oder einundzwanzig"),
        ("fr", "80 000 ou 3,5", "quatre vingt mille ou trois virgule cinq"),
        ("th", "๓๐", "สามสิบ"),
        ("kk", "21", "жиырма бір"),
    ],
)
def test_numbers_are_spelled(code, text, expected):
    assert Normaliser(language=code, digits="spell")(text) == expected
    assert [c for c in basic(text) if c.isdigit()] == [c for c in text if c.isdigit()]


def test_a_language_without_number_words_is_told():
    """Swahili is in num2words' list neither as sw nor, by its first letters, as another language."""
    with pytest.raises(InputError, match=r"num2words does not know the language 'swa', only am, ar"):
        Normaliser(language="swa", digits="spell")("3")


def test_a_missing_package_is_told_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] in ("num2words", "whisper_normalizer"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs the package num2words; pip install 'speechssl\[numbers\]'"):
        Normaliser(language="en", digits="spell")("2")
    whisper.cache_clear()
    with pytest.raises(InputError, match=r"needs the package whisper-normalizer; pip install 'speechssl\[whisper\]'"):
        Normaliser(name="whisper-basic")("a")


def test_whisper_s_normalisers_are_those_of_its_paper():
    """Radford et al. 2022, appendix C: fillers and brackets go, contractions, titles, numbers and spellings become one form."""
    english = Normaliser(name="whisper-english")
    assert english("Mr. Smith [laughs] won't, um, apologise for twenty-one colours") == (
        "mister smith will not apologize for 21 colors"
    )
    assert Normaliser(name="whisper-basic")("¿Qué TAL, (risas) señor?") == "qué tal señor"
    assert str(english) == "whisper-english"
    with pytest.raises(InputError, match=r"'whisper-english' has rules of its own; spell digits"):
        Normaliser(name="whisper-english", points="drop")


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"name": "bsic"}, "no normaliser 'bsic'; choose one of none, basic, upper"),
        ({"language": "Turkish!"}, "language = 'Turkish!' is not a code"),
        ({"digits": "words"}, "digits = 'words' is not known; choose keep or spell"),
        ({"points": "remove"}, "points = 'remove' is not known; choose keep or drop"),
        ({"digits": "spell"}, r"needs a language \(text.language"),
        ({"name": "none", "points": "drop"}, "'none' changes nothing"),
    ],
)
def test_what_is_not_known_is_told(values, complaint):
    with pytest.raises(InputError, match=complaint):
        Normaliser(**values)
