"""Scripts that write no spaces between words: where to split such text, and what its errors are counted in."""

import re
import unicodedata
from typing import NamedTuple

BLOCKS = {  # script: where Unicode has its letters, digits and marks
    "Han": [(0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)],
    "Kana": [(0x3041, 0x309F), (0x30A1, 0x30FF), (0x31F0, 0x31FF)],
    "Thai": [(0x0E00, 0x0E7F)],
    "Lao": [(0x0E80, 0x0EFF)],
    "Khmer": [(0x1780, 0x17FF)],
    "Burmese": [(0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)],
    "Tibetan": [(0x0F00, 0x0FFF)],
}
COENG = "\u17d2"  # the next Khmer consonant is written below


def members(script: str, kinds: str) -> str:
    """The characters of a script whose category begins with one of `kinds`, for use in a pattern."""
    if script == "Han":
        return "".join(f"{chr(first)}-{chr(last)}" for first, last in BLOCKS["Han"]) if "L" in kinds else ""
    codes = (code for first, last in BLOCKS[script] for code in range(first, last + 1))
    return "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] in kinds)


LETTERS = {script: members(script, "LN") for script in BLOCKS}
PATTERNS = {script: re.compile(f"[{letters}]") for script, letters in LETTERS.items()}
BASE, MARKS = "".join(LETTERS.values()), "".join(members(script, "M") for script in BLOCKS)
BASES = re.compile(f"[{BASE}]")
LETTER = f"[{BASE}](?:{COENG}[{BASE}]|[{MARKS}])*"  # with its vowel signs and tone marks
UNITS = re.compile(f"{LETTER}|[^\\s{BASE}]+")
BESIDE = re.compile(f"(?<=[{BASE}{MARKS}]) | (?=[{BASE}])")


def units(text: str) -> list[str]:
    """The words of a text; where a script has no spaces between words, its letters, each with its marks."""
    return UNITS.findall(text)


def tightened(text: str) -> str:
    """A text without the spaces beside letters of scripts that have none between words."""
    return BESIDE.sub("", text)


class Counted(NamedTuple):
    """A reference and a hypothesis as error rates compare them: words, and characters as one string."""

    words: tuple[str, str]
    characters: tuple[str, str]


def counted(reference: str, hypothesis: str) -> Counted:
    """What WER and CER of a pair are counted in. The script of the reference decides: letters of a script without spaces are
    words of their own (with words of other scripts this is the mixed error rate), and spaces beside them do not count."""
    if not BASES.search(reference):
        return Counted((reference, hypothesis), (reference, hypothesis))
    words = " ".join(units(reference)), " ".join(units(hypothesis))
    return Counted(words, (tightened(reference), tightened(hypothesis)))


def spaceless(text: str) -> dict[str, int]:
    """How many letters of each script without spaces a text has."""
    found = {name: len(pattern.findall(text)) for name, pattern in PATTERNS.items()}
    return {name: count for name, count in found.items() if count}
