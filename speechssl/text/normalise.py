"""Text normalisers by name: what is done to a transcript before it is learned or compared."""

import unicodedata
from collections.abc import Callable

from speechssl.core.errors import InputError

APOSTROPHES = "'’ʼ"


def basic(text: str) -> str:
    """Lower-case a text of any script, keep apostrophes inside words, turn other punctuation into single spaces."""
    text = unicodedata.normalize("NFKC", text).lower()
    words = "".join(plain(character) for character in text).split()
    stripped = (word.strip("'") for word in words)
    return " ".join(word for word in stripped if word)


def plain(character: str) -> str:
    """Keep letters, marks and digits, write every apostrophe as "'", drop invisible joiners, and return " " for the rest."""
    if character in APOSTROPHES:
        return "'"
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return character
    return "" if category == "Cf" else " "


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "basic": basic,
    "upper": lambda text: basic(text).upper(),
}


def normalise(text: str, name: str) -> str:
    """Apply the normaliser `name` to a text. InputError for an unknown name, with the list of known ones."""
    if name not in NORMALISERS:
        raise InputError(f"there is no normaliser {name!r}; choose one of {', '.join(NORMALISERS)}")
    return NORMALISERS[name](text)
