"""Numbers in figures as words, by num2words."""

import re

from speechssl.core.errors import InputError

POINT = (
    "am",
    "bn",
    "en",
    "he",
    "hi",
    "ja",
    "kn",
    "ko",
    "te",
    "th",
    "zh",
)  # these write 1,000.5; others 1.000,5 or 1 000,5
SPACES = "\u00a0\u202f’'"  # that group thousands anywhere
CODES = {"kk": "kz", "nb": "no", "nn": "no"}  # num2words' own names of languages
LONGEST = 15  # digits; a longer number is read digit by digit


def spell_numbers(text: str, language: str) -> str:
    """A text with its whole and decimal numbers as words of a language, in any script's digits; 007 and long numbers are read
    digit by digit. Years, dates and ordinals other than English 1st are read as plain numbers. InputError without num2words,
    or for a language it lacks."""
    try:
        from num2words import CONVERTER_CLASSES, num2words
    except ImportError:
        raise InputError(
            "digits = 'spell' needs the package num2words; pip install 'speechssl[numbers]', or keep the digits"
        ) from None
    name = language.replace("-", "_")
    short = name.split("_")[0].lower()
    code = next((code for code in (name, short, CODES.get(short)) if code in CONVERTER_CLASSES), None)
    if code is None:
        known = ", ".join(sorted(code for code in CONVERTER_CLASSES if "_" not in code))
        raise InputError(f"num2words does not know the language {language!r}, only {known}; spell the numbers yourself")
    mark, group = (".", ",") if short in POINT else (",", ". ")
    whole = rf"\d{{1,3}}(?:[{group}{SPACES}]\d{{3}})+(?!\d)|\d+"
    number = re.compile(rf"(?<!\d[.,])(?P<whole>{whole})\{mark}(?P<part>\d+)(?![.,]?\d)|{whole}")
    if short == "en":
        text = re.sub(r"(?<![\d.,])(\d+)(?:st|nd|rd|th)\b", lambda match: num2words(int(match[1]), to="ordinal"), text)
    return number.sub(lambda match: f" {in_words(match[0], match['whole'], match['part'], code)} ", text)


def in_words(text: str, whole: str | None, part: str | None, code: str) -> str:
    """A number, given as a whole or by the digits before and after its decimal mark, in words."""
    from num2words import num2words

    digits = "".join(str(int(digit)) for digit in (whole or text) if digit.isdigit())
    if part:
        return num2words(f"{digits}.{''.join(str(int(digit)) for digit in part)}", lang=code)
    if len(digits) > LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(num2words(int(digit), lang=code) for digit in digits)
    return num2words(int(digits), lang=code)
