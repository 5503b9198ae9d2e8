"""Text normalisers by name: what is done to a transcript before it is learned or compared.

`basic` keeps every script whole. What it changes stands in three tables, with the reason for each line: BLOCKS (characters that
are another way to write the same letters), RULES (what a single character cannot decide), KEPT (letters that Unicode calls
symbols). After that a text is lower-cased; of what is left, letters, marks and digits stay, the rest becomes single spaces.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from speechssl.core.errors import InputError
from speechssl.text.numbers import spell_numbers

CODES = {  # three-letter codes of the languages that have rules of their own
    "tur": "tr", "aze": "az", "azj": "az", "azb": "az", "cat": "ca", "ron": "ro", "rum": "ro", "fas": "fa", "per": "fa",
    "urd": "ur", "ckb": "ku", "hau": "ha", "mlt": "mt", "som": "so", "ful": "ff", "fuc": "ff", "aka": "ak", "twi": "tw",
    "ewe": "ee", "nav": "nv", "ton": "to", "smo": "sm", "tah": "ty", "uzb": "uz", "uzn": "uz",
}  # fmt: skip
DOTLESS = ("tr", "az", "crh", "gag", "tt")
EDGES = (  # languages whose words begin or end with an apostrophe: 'yan, 'okina, ta', bizaad', lo', kek'
    "cak", "ff", "ha", "haw", "kek", "mam", "mt", "nv", "quc", "rap", "rar", "sm", "so", "to", "ty", "tzh", "tzo", "wls", "yua",
)  # fmt: skip
FINAL = {"uz": "og"}  # letters after which one stays at the end: tog', mo'
APOSTROPHES = "'‘’‛ʻʼ´`′՚᾽"
HEBREW = "א-ת\u05b0-\u05bd\u05bf\u05c1\u05c2\u05c7\u05f0-\u05f2"  # letters and points


class Block(NamedTuple):
    """Characters that are replaced by what Unicode says they stand for, one level deep."""

    first: int
    last: int
    why: str


BLOCKS = (
    Block(0xFF01, 0xFFEE, "full- and half-width forms of East Asian fonts: ＡＢＣ, ｶﾞ"),
    Block(0xFB00, 0xFB17, "Latin and Armenian ligatures of typesetters: ﬁ, ﬓ"),
    Block(0xFB20, 0xFB29, "wide Hebrew letters"),
    Block(0xFB4F, 0xFB4F, "a Hebrew ligature"),
    Block(
        0xFB50,
        0xFDFC,
        "Arabic letters in the shape of their place in the word, from PDFs: ﻣ; words in one character: ﷲ",
    ),
    Block(0xFE70, 0xFEFC, "the same, second block"),
    Block(0x0132, 0x0133, "Dutch ĳ, typed i j"),
    Block(0x013F, 0x0140, "Catalan ŀ, typed l ·"),
    Block(0x0149, 0x0149, "Afrikaans ŉ, typed ' n"),
    Block(0x017F, 0x017F, "the long s of Fraktur"),
    Block(0x01C4, 0x01CC, "Croatian ǆ ǉ ǌ, typed as two letters"),
    Block(0x01F1, 0x01F3, "the same, dz"),
    Block(0x2160, 0x217F, "Roman numerals, typed as letters"),
    Block(0x2460, 0x24EA, "numbers and letters in circles"),
    Block(0x2E9F, 0x2FD5, "radicals that are taken for ideographs by PDFs: ⼀"),
    Block(0x32C0, 0x33FF, "words and units in one square: ㌔, ㎞"),
    Block(0x1D400, 0x1D7FF, "mathematical alphabets, used as fonts in social media"),
)
# Not folded, though NFKC does: Thai ำ and Lao ຳ (fall apart into what no keyboard types), Armenian և and Lao ໜ (letters),
# modifier letters such as ʰ and ʲ (become h and j), compatibility jamo (no longer compose), ² and ½ (10² would read 102).


def folded(character: str) -> str:
    """What a character of BLOCKS stands for, and what that stands for; other characters as they are."""
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    if not any(block.first <= ord(character) <= block.last for block in BLOCKS) or not tag.startswith("<"):
        return character
    return "".join(folded(chr(int(code, 16))) for code in codes)


KEPT = frozenset(
    "·׳״"  # where RULES left them they are letters
    "\u200d\u180e"  # joiner, likewise; the Mongolian vowel separator
    "၌၍၎၏"  # Burmese words of one character, punctuation to Unicode
    "˙˥˦˧˨˩˪˫꜈꜉꜊꜋꜌꜍꜎꜏꜐꜑꜒꜓꜔꜕꜖꞉꞊"  # tone letters of phoneticians, Bopomofo and Grebo, symbols to Unicode
)
FOLDED = {code: folded(chr(code)).lstrip() for block in BLOCKS for code in range(block.first, block.last + 1)}
FOLDED |= dict.fromkeys(map(ord, "\u034f\u115f\u1160\u3164\uffa0"), "")  # joiners and fillers that nothing shows
FOLDED |= dict.fromkeys([*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)], "")  # selectors of a glyph
FOLDED |= dict.fromkeys([0x180B, 0x180C, 0x180D, 0x180F], "")  # the same, of Mongolian
INVISIBLE = {chr(code) for code in range(0xAD, 0x10000) if unicodedata.category(chr(code)) == "Cf"} - KEPT
# Soft hyphens, non-joiners and marks of direction go first, so that RULES see the letters on both sides.
FOLDED |= dict.fromkeys(map(ord, INVISIBLE), "")
SEQUENCES = {  # letters that older texts write with a joiner
    "ണ്\u200d": "ൺ", "ന്\u200d": "ൻ", "ര്\u200d": "ർ", "ല്\u200d": "ൽ", "ള്\u200d": "ൾ", "ക്\u200d": "ൿ", "ত্\u200d": "ৎ",
}  # fmt: skip


class Rule(NamedTuple):
    """A pattern, what it becomes, and why. languages: those it is for (none: all)."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    why: str
    languages: tuple[str, ...] = ()


RULES = (
    Rule(
        f'(?<=[{HEBREW}])["“”„״](?=[{HEBREW}])(?![{HEBREW}]*["“”„״](?![{HEBREW}]))',
        "״",
        "gershayim, in Hebrew acronyms before the last letter and mostly typed as a quotation mark, belong to the word",
    ),
    Rule(f"(?<![{HEBREW}])״|״(?![{HEBREW}])", " ", "at the edge of a word they are quotation marks"),
    Rule(
        f"(?<=[{HEBREW}])[{APOSTROPHES}](?=[{HEBREW}])",
        "׳",
        "geresh makes Hebrew ג׳ צ׳ ז׳ from ג צ ז; it is mostly typed as an apostrophe",
    ),
    Rule(
        f"(?<![{HEBREW}{APOSTROPHES}])([{HEBREW}]+)(?<=[גזצץ])[{APOSTROPHES}](?![{HEBREW}])",
        r"\1׳",
        "these letters have it at the end of a word too, where no quotation began",
    ),
    Rule(f"(?<![{HEBREW}])׳", "'", "elsewhere it is a quotation mark"),
    Rule(
        f"[{APOSTROPHES}]",
        "'",
        "one letter, typed in ten ways: Uzbek oʻ gʻ, Ukrainian м’я, French l’, glottal stops. At the edges of a word it goes, "
        "for quotation marks look the same, except in languages whose words begin or end with it",
    ),
    Rule("(?<=[lL])[•‧∙⋅](?=[lL])", "·", "the dot of Catalan l·l, typed in other ways"),
    Rule(r"(?<=[lL])\.(?=[lL])", "·", "and on keyboards without it", ("ca",)),
    Rule("·(?!(?<=[lL]·)[lL]|(?<=[nsNS]·)[hH])", " ", "outside of Catalan l·l and Gascon n·h, s·h it parts words"),
    Rule(
        "[\u055b\u055c\u055e\u055f]", "", "Armenian stress, exclamation, question and abbreviation stand inside a word"
    ),
    Rule("\u0640", "", "the Arabic tatweel only stretches a line"),
    Rule(
        "\u0e4d([\u0e48-\u0e4b]?)\u0e32", "\\1\u0e33", "Thai sara am, written in two: one letter, after the tone mark"
    ),
    Rule("\u0e33([\u0e48-\u0e4b])", "\\1\u0e33", "a tone mark typed after sara am looks the same before it"),
    Rule("\u0e40\u0e40", "\u0e41", "Thai sara ae, typed as two sara e"),
    Rule("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2", "\\1\u0eb3", "Lao am, as in Thai"),
    Rule("\u0eb3([\u0ec8-\u0ecb])", "\\1\u0eb3", "the same, tone mark last"),
    Rule("\u0ec0\u0ec0", "\u0ec1", "Lao sara ae, as in Thai"),
    Rule(
        "|".join(SEQUENCES),
        lambda match: SEQUENCES[match[0]],
        "Malayalam chillus and Bengali khanda ta have characters now",
    ),
    Rule(
        "(\u0dca\u200d|\u0930\u094d\u200d|\u09b0\u200d\u09cd)|\u200d",
        r"\1",
        "the joiner shapes letters, and tells words apart only in Sinhala conjuncts, Marathi eyelash ra and Bengali ra + ya",
    ),
    Rule(
        "İ\u0307*|i\u0307+",
        "i",
        "dotted capital I; lower-casing without knowing the language leaves a stray dot above the i",
    ),
    Rule("I", "ı", "Turkish and Azeri I is dotless", DOTLESS),
    Rule("[şŞ]", "ș", "Romanian s and t have a comma below; old fonts had only the cedilla", ("ro",)),
    Rule("[ţŢ]", "ț", "the same", ("ro",)),
    Rule(
        "ε",
        "ɛ",
        "the open e of Kabyle, Akan, Ewe and Ga, typed as a Greek letter",
        ("kab", "ak", "tw", "fat", "ee", "gaa"),
    ),
    Rule("Σ", "Ɛ", "its capital in Kabyle", ("kab",)),
    Rule("γ", "ɣ", "Kabyle gamma, the same", ("kab",)),
    Rule("[يى]", "ی", "Persian yeh, typed on Arabic keyboards", ("fa", "ur", "ku")),
    Rule("ك", "ک", "Persian kaf, the same", ("fa", "ur", "ku")),
)
PATTERNS = [(re.compile(rule.pattern), rule) for rule in RULES]
POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8"
    "\u06ea-\u06ed\u08d3-\u08e1\u08e3-\u08ff]"
)
CHEROKEE = {
    code: unicodedata.lookup(unicodedata.name(chr(code)).replace("SMALL ", "")) for code in range(0xAB70, 0xABC0)
}
MTAVRULI = {code: chr(code - 0x1C90 + 0x10D0) for code in (*range(0x1C90, 0x1CBB), *range(0x1CBD, 0x1CC0))}


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """A normaliser of NORMALISERS with its settings; called with a text, it returns the normalised one.

    language: a code such as "tr", for rules that only hold in one. digits: keep, or spell (needs a language). points: of Hebrew
    and Arabic vowels, keep or drop. InputError for other values.
    """

    name: str = "basic"
    language: str = ""
    digits: str = "keep"
    points: str = "keep"

    def __post_init__(self) -> None:
        if self.name not in NORMALISERS:
            raise InputError(f"there is no normaliser {self.name!r}; choose one of {', '.join(NORMALISERS)}")
        if self.language and not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", self.language):
            raise InputError(f"language = {self.language!r} is not a code of two or three letters, such as tr or tr-TR")
        for key, choices in (("digits", ("keep", "spell")), ("points", ("keep", "drop"))):
            if getattr(self, key) not in choices:
                raise InputError(f"{key} = {getattr(self, key)!r} is not known; choose {' or '.join(choices)}")
        if self.digits == "spell" and not self.language:
            raise InputError("digits = 'spell' needs a language (text.language, or --language of evaluate), such as en")
        if self.name in FIXED and (self.digits, self.points) != ("keep", "keep"):
            raise InputError(
                f"the normaliser {self.name!r} {FIXED[self.name]}; spell digits and drop points with basic or upper"
            )

    def __call__(self, text: str) -> str:
        return NORMALISERS[self.name](text, language=self.language, digits=self.digits, points=self.points)

    def __str__(self) -> str:
        notes = (f"language {self.language}", "digits spelled", "points dropped")
        given = (self.language, self.digits == "spell", self.points == "drop")
        return ", ".join([self.name, *(words for words, yes in zip(notes, given, strict=True) if yes)])


def normalise(text: str, name: str = "basic", **how: str) -> str:
    """A text as the normaliser `name` makes it; how: language, digits and points, as of Normaliser."""
    return Normaliser(name=name, **how)(text)


def short_code(language: str) -> str:
    """A language's code of two letters, if it has one, without region."""
    code = re.split("[-_]", language.lower())[0]
    return CODES.get(code, code)


def basic(text: str, *, language: str = "", digits: str = "keep", points: str = "keep") -> str:
    """Lower-case a text of any script, keep apostrophes inside words, turn other punctuation into single spaces."""
    code = short_code(language)
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(FOLDED))
    for pattern, rule in PATTERNS:
        if not rule.languages or code in rule.languages:
            text = pattern.sub(rule.replacement, text)
    if points == "drop":
        text = POINTS.sub("", text)
    if digits == "spell":
        text = spell_numbers(text, language)
    text = unicodedata.normalize("NFC", "".join(map(plain, text.lower().translate(CHEROKEE))))
    text = " ".join(filter(None, (without_quotes(word, code) for word in text.split())))
    return re.sub(r"ς(?=\w)", "σ", re.sub(r"(?<=\w)σ(?![\w'])", "ς", text))


def without_quotes(word: str, code: str) -> str:
    """A word without the apostrophes at its edges that are quotation marks in a language."""
    bare = word.strip("'")
    if code in EDGES:
        return word if bare else ""
    final = bare and word[0] != "'" and word[-1] == "'" and bare[-1] in FINAL.get(code, "")
    return bare + "'" if final else bare


def upper(text: str, *, language: str = "", digits: str = "keep", points: str = "keep") -> str:
    """`basic` in capitals. Georgian has none outside of headlines."""
    text = basic(text, language=language, digits=digits, points=points)
    text = text.replace("i", "İ") if short_code(language) in DOTLESS else text
    return unicodedata.normalize("NFC", text.upper().translate(MTAVRULI))


@cache
def plain(character: str) -> str:
    """Keep letters, marks, digits, apostrophes and KEPT; drop what is invisible or encloses; return " " for the rest."""
    category = unicodedata.category(character)
    if character == "'" or character in KEPT or (category[0] in "LMN" and category != "Me"):
        return character
    return "" if category in ("Cf", "Me") else " "


@cache
def whisper(kind: str) -> Callable[[str], str]:
    """A normaliser of Whisper's authors (Radford et al. 2022, appendix C), for scores to compare with theirs: english, which also
    turns numbers into figures and British spelling into American, or basic, for all other languages, which parts words at vowel
    signs (हिन्दी becomes ह न द). InputError without the package."""
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise InputError(
            f"the normaliser 'whisper-{kind}' needs the package whisper-normalizer; pip install 'speechssl[whisper]', or "
            "choose basic"
        ) from None
    return {"english": EnglishTextNormalizer, "basic": BasicTextNormalizer}[kind]()


NORMALISERS: dict[str, Callable[..., str]] = {
    "none": lambda text, **how: text,
    "basic": basic,
    "upper": upper,
    "whisper-basic": lambda text, **how: whisper("basic")(text).strip(),
    "whisper-english": lambda text, **how: whisper("english")(text).strip(),
}
FIXED = {  # normalisers without settings, and why
    "none": "changes nothing",
    "whisper-basic": "has rules of its own",
    "whisper-english": "has rules of its own",
}
