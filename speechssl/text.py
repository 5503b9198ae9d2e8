"""Transcripts: normalisers by name, and the character tokenizer in the files of transformers' Wav2Vec2CTCTokenizer."""

import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from speechssl.errors import InputError

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
    """Characters to ids. <pad> is the CTC blank, id 0; the space is written "|"."""

    def __init__(self, vocab: dict[str, int]) -> None:
        if vocab.get(PAD) != 0:
            raise InputError(f"the vocabulary must give {PAD} the id 0 (the CTC blank), it gives {vocab.get(PAD)}")
        if min(vocab.values()) < 0 or len(set(vocab.values())) < len(vocab):
            raise InputError("the vocabulary gives two characters the same id, or a negative one; number them from 0")
        self.vocab = vocab
        self.tokens = {index: token for token, index in vocab.items()}

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
        settings = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "unk_token": UNKNOWN,
            "pad_token": PAD,
            "word_delimiter_token": DELIMITER,
            "bos_token": None,
            "eos_token": None,
            "do_lower_case": False,
        }
        for name, content in (("vocab.json", self.vocab), ("tokenizer_config.json", settings)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "CharTokenizer":
        """From a vocab.json or the folder that holds one."""
        file = path / "vocab.json" if path.is_dir() else path
        try:
            vocab = json.loads(file.read_text(encoding="utf-8"))
            return cls({str(token): int(index) for token, index in vocab.items()})
        except (OSError, ValueError, AttributeError, TypeError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{file} cannot be used as a vocabulary ({problem}); it maps characters to ids") from None
