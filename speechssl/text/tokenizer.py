"""The character tokenizer, stored in the files of transformers' Wav2Vec2CTCTokenizer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError

PAD, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
SETTINGS = {PAD: "pad_token", UNKNOWN: "unk_token", DELIMITER: "word_delimiter_token"}  # keys of tokenizer_config.json


class CharTokenizer:
    """Characters to ids and back. <pad> is the CTC blank; the space is written "|".

    vocab: token -> id. spelling: how the vocabulary file writes <pad>, <unk> and "|" where it differs ("[PAD]").
    InputError for a vocabulary without <pad>, with equal or with negative ids.
    """

    def __init__(self, vocab: dict[str, int], spelling: dict[str, str] | None = None) -> None:
        if PAD not in vocab:
            raise InputError(f"the vocabulary has no {PAD}, the CTC blank; add it with an id")
        if min(vocab.values()) < 0 or len(set(vocab.values())) < len(vocab):
            raise InputError("the vocabulary gives two characters the same id, or a negative one; number them from 0")
        self.vocab, self.spelling = vocab, spelling or {}
        self.tokens = {index: token for token, index in vocab.items()}

    @property
    def blank(self) -> int:
        """The id of the CTC blank."""
        return self.vocab[PAD]

    @classmethod
    def build(cls, texts: Iterable[str]) -> "CharTokenizer":
        """A vocabulary of the characters in `texts`, sorted, after <pad> (id 0), <unk> and "|"."""
        characters = sorted({character for text in texts for character in text} - {" ", DELIMITER})
        return cls({token: i for i, token in enumerate([PAD, UNKNOWN, DELIMITER, *characters])})

    def __len__(self) -> int:
        return max(self.vocab.values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text. InputError for a character that is not in the vocabulary."""
        try:
            return [self.vocab[DELIMITER if c == " " else c] for c in text]
        except KeyError as error:
            raise InputError(
                f"the character {error.args[0]!r} of the transcript {text!r} is not in the vocabulary; add it to "
                "vocab.json, or choose a text.normaliser that removes it"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, without special tokens such as <unk>; nothing is merged."""
        tokens = (self.tokens.get(i, "") for i in ids)
        text = "".join(token for token in tokens if not (token.startswith("<") and token.endswith(">")))
        return " ".join(text.replace(DELIMITER, " ").split())

    def save(self, folder: Path) -> None:
        """Write vocab.json and tokenizer_config.json as transformers reads them."""
        settings: dict[str, Any] = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "unk_token": self.spelling.get(UNKNOWN, UNKNOWN),
            "pad_token": self.spelling.get(PAD, PAD),
            "word_delimiter_token": self.spelling.get(DELIMITER, DELIMITER),
            "bos_token": None,
            "eos_token": None,
            "do_lower_case": False,
        }
        vocab = {self.spelling.get(token, token): index for token, index in self.vocab.items()}
        for name, content in (("vocab.json", vocab), ("tokenizer_config.json", settings)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, language: str = "") -> "CharTokenizer":
        """Read a vocab.json, or the one in a folder.

        language: which vocabulary of a file that holds one per language, as MMS does ("": the one that
        tokenizer_config.json names as target_lang, else the first). InputError for a file that holds none.
        """
        file = path / "vocab.json" if path.is_dir() else path
        try:
            vocab = json.loads(file.read_text(encoding="utf-8"))
            settings = special_tokens(file.parent)
            if any(isinstance(value, dict) for value in vocab.values()):
                vocab = of_language(vocab, language or settings.get("target_lang") or next(iter(vocab)))
            spelling = other_spelling(vocab, settings)
            ours = {theirs: token for token, theirs in spelling.items()}
            return cls({ours.get(token, token): int(index) for token, index in vocab.items()}, spelling)
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{file} cannot be used as a vocabulary ({problem}); it maps characters to ids") from None


def of_language(vocabs: dict[str, dict[str, int]], language: str) -> dict[str, int]:
    """The vocabulary of one language. InputError if there is none, with those that there are."""
    if language not in vocabs:
        raise InputError(f"it has none for {language!r}, but for {', '.join(list(vocabs)[:9])}")
    return vocabs[language]


def other_spelling(vocab: dict[str, int], settings: dict[str, str]) -> dict[str, str]:
    """Our special token -> the vocabulary's, for each that it writes in another way ("[PAD]" for "<pad>")."""
    spelling = {}
    for token, key in SETTINGS.items():
        theirs = settings.get(key, token)
        if token not in vocab and theirs in vocab:
            spelling[token] = theirs
    return spelling


def special_tokens(folder: Path) -> dict[str, str]:
    """The strings in a folder's special_tokens_map.json and tokenizer_config.json; the latter wins."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        values = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        for key, value in values.items():
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[key] = text
    return found
