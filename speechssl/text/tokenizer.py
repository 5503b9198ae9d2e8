"""Transcripts: normalisers by name, and the character tokenizer in the files of transformers' Wav2Vec2CTCTokenizer."""

import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from speechssl.core.errors import InputError

PAD, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
APOSTROPHES = "'’ʼ"


def basic(text: str) -> str:
    """Lower case, no punctuation but apostrophes inside words, single spaces; for every script."""
    text = unicodedata.normalize("NFKC", text).lower()
    words = (word.strip("'") for word in "".join(map(plain, text)).split())
    return " ".join(word for word in words if word)


def plain(character: str) -> str:
    """Letters, marks and digits as they are, every apostrophe as "'", invisible joiners as nothing, all else as a space."""
    if character in APOSTROPHES:
        return "'"
    category = unicodedata.category(character)
    return character if category[0] in "LMN" else "" if category == "Cf" else " "


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "basic": basic,
    "upper": lambda text: basic(text).upper(),
}


def normalise(text: str, name: str) -> str:
    """The text as the normaliser `name` writes it; InputError names the normalisers there are."""
    if name not in NORMALISERS:
        raise InputError(f"there is no normaliser {name!r}; choose one of {', '.join(NORMALISERS)}")
    return NORMALISERS[name](text)


class CharTokenizer:
    """Characters to ids. <pad> is the CTC blank, id 0 in vocabularies made here; the space is written "|".

    spelling: these three special tokens as the vocabulary's file writes them, where it does otherwise ("[PAD]").
    """

    def __init__(self, vocab: dict[str, int], spelling: dict[str, str] | None = None) -> None:
        if PAD not in vocab:
            raise InputError(f"the vocabulary must give {PAD} an id, that of the CTC blank; add it")
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
        """The characters of some texts, sorted."""
        characters = sorted({character for text in texts for character in text} - {" ", DELIMITER})
        return cls({token: i for i, token in enumerate([PAD, UNKNOWN, DELIMITER, *characters])})

    def __len__(self) -> int:
        return max(self.vocab.values()) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text; InputError for a character that the vocabulary lacks."""
        try:
            return [self.vocab[DELIMITER if c == " " else c] for c in text]
        except KeyError as error:
            raise InputError(
                f"the character {error.args[0]!r} of the transcript {text!r} is not in the vocabulary; add it to "
                "vocab.json, or choose a text.normaliser that removes it"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are left out."""
        tokens = (self.tokens.get(i, "") for i in ids)
        text = "".join(token for token in tokens if not (token.startswith("<") and token.endswith(">")))
        return " ".join(text.replace(DELIMITER, " ").split())

    def save(self, folder: Path) -> None:
        """vocab.json and tokenizer_config.json, as transformers reads them."""
        pad, unknown, delimiter = (self.spelling.get(token, token) for token in (PAD, UNKNOWN, DELIMITER))
        settings = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "unk_token": unknown,
            "pad_token": pad,
            "word_delimiter_token": delimiter,
            "bos_token": None,
            "eos_token": None,
            "do_lower_case": False,
        }
        vocab = {self.spelling.get(token, token): index for token, index in self.vocab.items()}
        for name, content in (("vocab.json", vocab), ("tokenizer_config.json", settings)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, language: str = "") -> "CharTokenizer":
        """From a vocab.json or the folder that holds one; MMS has one vocabulary per `language` in it."""
        folder, file = (path, path / "vocab.json") if path.is_dir() else (path.parent, path)
        try:
            vocab = json.loads(file.read_text(encoding="utf-8"))
            settings = special_tokens(folder)
            if any(isinstance(value, dict) for value in vocab.values()):
                language = language or settings.get("target_lang") or next(iter(vocab))
                if language not in vocab:
                    raise InputError(f"it has none for {language!r}, but for {', '.join(list(vocab)[:9])}")
                vocab = vocab[language]
            names = {PAD: "pad_token", UNKNOWN: "unk_token", DELIMITER: "word_delimiter_token"}
            spelling = {ours: settings[key] for ours, key in names.items() if settings.get(key, ours) != ours}
            spelling = {ours: name for ours, name in spelling.items() if name in vocab and ours not in vocab}
            back = {name: ours for ours, name in spelling.items()}
            return cls({back.get(str(token), str(token)): int(index) for token, index in vocab.items()}, spelling)
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{file} cannot be used as a vocabulary ({problem}); it maps characters to ids") from None


def special_tokens(folder: Path) -> dict[str, str]:
    """What tokenizer_config.json and special_tokens_map.json of a folder say, where they are."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        values = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        flat = {key: value.get("content") if isinstance(value, dict) else value for key, value in values.items()}
        found |= {key: value for key, value in flat.items() if isinstance(value, str)}
    return found
