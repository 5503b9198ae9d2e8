"""The tokenizer of CTC models, stored in the files of transformers' Wav2Vec2CTCTokenizer and Wav2Vec2PhonemeCTCTokenizer."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from speechssl.core.errors import InputError

PAD, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
SETTINGS = {PAD: "pad_token", UNKNOWN: "unk_token", DELIMITER: "word_delimiter_token"}  # keys of tokenizer_config.json
SPECIALS = ("<s>", "</s>")  # of sentences: never text, whatever tokenizer_config.json says
MOST = 10_000_000  # ids; no output layer has as many
PHONES = "Wav2Vec2PhonemeCTCTokenizer"
EXTRA = ("additional_special_tokens", "extra_special_tokens")  # the older and the newer key
KEPT = (  # keys of tokenizer_config.json that a vocabulary keeps when it is written again
    "do_lower_case", "replace_word_delimiter_char", "phone_delimiter_token", "do_phonemize", "phonemizer_lang",
    "phonemizer_backend", "bos_token", "eos_token", *EXTRA, *SETTINGS.values(),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a vocabulary is written, as tokenizer_config.json tells.

    spelling: how the file writes <pad>, <unk> and "|" where it differs ("[PAD]"). specials: further tokens that are no text.
    lower: it has capitals and is read and printed in lower case (do_lower_case, which says nothing where there are none).
    phones: symbols, of a letter or more, stand between spaces. space: what a word delimiter is printed as. settings: what is
    written back into tokenizer_config.json.
    """

    spelling: dict[str, str] = field(default_factory=dict)
    specials: frozenset[str] = frozenset(SPECIALS)
    lower: bool = False
    phones: bool = False
    space: str = " "
    settings: dict[str, Any] = field(default_factory=dict)


class CharTokenizer:
    """Symbols, mostly characters, to ids and back. <pad> is the CTC blank; the space is written "|", if the vocabulary has it.

    vocab: token -> id. InputError for a vocabulary without <pad>, with equal or with negative ids.
    """

    def __init__(self, vocab: dict[str, int], writing: Writing | None = None) -> None:
        if PAD not in vocab:
            raise InputError(
                f"the vocabulary has no {PAD}, the CTC blank; add it with an id, or name the blank that it has as pad_token in "
                "the tokenizer_config.json beside it"
            )
        if min(vocab.values()) < 0 or max(vocab.values()) >= MOST or len(set(vocab.values())) < len(vocab):
            raise InputError(
                "the vocabulary gives two characters the same id, a negative one or one in the millions; number them from 0"
            )
        self.vocab, self.writing = vocab, writing or Writing()
        self.tokens = {index: token for token, index in vocab.items()}
        names = {self.writing.spelling.get(token, token) for token in (PAD, UNKNOWN)}
        self.specials = {PAD, UNKNOWN} | names | self.writing.specials - {DELIMITER}

    @property
    def blank(self) -> int:
        """The id of the CTC blank."""
        return self.vocab[PAD]

    @property
    def delimiter(self) -> int | None:
        """The id of the word delimiter, if the vocabulary has one."""
        return self.vocab.get(DELIMITER)

    @property
    def has_pieces(self) -> bool:
        """Whether some symbols are several characters long."""
        return any(len(token) > 1 for token in self.vocab.keys() - self.specials)

    @property
    def labels(self) -> list[str]:
        """The symbols in the order of their ids, written as in vocab.json; "" for an id without one."""
        return [written(self.tokens[i], self.writing.spelling) if i in self.tokens else "" for i in range(len(self))]

    @property
    def separator(self) -> str:
        """What is printed between two words, or phones."""
        return " " if self.writing.phones else self.writing.space

    @classmethod
    def build(cls, texts: Iterable[str], phones: bool = False, pieces: Sequence[str] = ()) -> "CharTokenizer":
        """A vocabulary of the characters in `texts`, sorted, after <pad> (id 0), <unk> and "|", and before longer `pieces`;
        phones: of what stands between spaces, after <pad> and <unk>."""
        if phones:
            symbols = sorted({symbol for text in texts for symbol in text.split()} - {PAD, UNKNOWN})
            settings = {"phone_delimiter_token": " ", "word_delimiter_token": None, "do_phonemize": False}
            writing = Writing(phones=True, settings=settings)
            return cls({token: i for i, token in enumerate([PAD, UNKNOWN, *symbols])}, writing)
        characters = sorted({character for text in texts for character in text} - {" ", DELIMITER})
        return cls({token: i for i, token in enumerate([PAD, UNKNOWN, DELIMITER, *characters, *pieces])})

    def __len__(self) -> int:
        return max(self.vocab.values()) + 1

    @cached_property
    def symbols(self) -> re.Pattern[str]:
        """The longest symbol at a place in a text, or else the character there."""
        longer = sorted((token for token in self.vocab if len(token) > 1 and token not in self.specials), key=len)
        return re.compile("|".join(map(re.escape, reversed(longer))) + ("|" if longer else "") + ".", re.DOTALL)

    def split(self, text: str) -> list[str]:
        """The symbols of a text: its phones, which stand between spaces, or the longest that the vocabulary has. The space is
        "|"; it is left out where the vocabulary cannot write it. A character that is in no symbol stays."""
        if self.writing.phones:
            return text.split()
        found = self.symbols.findall(text.upper() if self.writing.lower else text)
        symbols = [part for symbol in found for part in self.parts(symbol)]
        if self.delimiter is None:
            return [symbol for symbol in symbols if symbol != " "]
        return [DELIMITER if symbol == " " else symbol for symbol in symbols]

    def parts(self, symbol: str) -> str | tuple[str]:
        """A symbol, or the letter and marks that it is composed of, if the vocabulary has only these; Thai and Lao sara am, too,
        for NFKC, by which many vocabularies were made, takes it apart."""
        if symbol in self.vocab:
            return (symbol,)
        apart = unicodedata.normalize("NFKD" if symbol in "ำຳ" else "NFD", symbol)
        return apart if all(part in self.vocab for part in apart) else (symbol,)

    def lacking(self, texts: Iterable[str]) -> set[str]:
        """The symbols of some texts that the vocabulary does not have."""
        return {symbol for text in texts for symbol in self.split(text)} - (self.vocab.keys() - self.specials)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. InputError for a symbol that is not in the vocabulary."""
        symbols = self.split(text)
        for symbol in symbols:
            if symbol not in self.vocab or symbol in self.specials:
                kind = "phone" if self.writing.phones else "character"
                raise InputError(
                    f"the {kind} {symbol!r} of the transcript {text!r} is not in the vocabulary; add it to vocab.json, or "
                    "choose a text.normaliser that removes it"
                )
        return [self.vocab[symbol] for symbol in symbols]

    def symbol(self, index: int) -> str:
        """What an id is printed as; nothing for special tokens and the word delimiter."""
        token = self.tokens.get(index, "")
        if token in self.specials or index == self.delimiter:
            return ""
        token = written(token, self.writing.spelling)
        return token.lower() if self.writing.lower else token

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, without special tokens such as <unk>; nothing is merged."""
        if self.writing.phones:
            return " ".join(filter(None, map(self.symbol, ids)))
        words = "".join(" " if index == self.delimiter else self.symbol(index) for index in ids).split()
        return self.separator.join(words)

    def save(self, folder: Path) -> None:
        """Write vocab.json and tokenizer_config.json as transformers reads them."""
        spelling = self.writing.spelling
        settings: dict[str, Any] = {
            "tokenizer_class": PHONES if self.writing.phones else "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "bos_token": None,
            "eos_token": None,
            "do_lower_case": False,
        }
        settings |= {key: spelling.get(token, token) for token, key in SETTINGS.items()}
        vocab = {written(token, spelling): index for token, index in self.vocab.items()}
        for name, content in (("vocab.json", vocab), ("tokenizer_config.json", settings | self.writing.settings)):
            (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, language: str = "", outputs: int | None = None) -> "CharTokenizer":
        """Read a vocab.json, or the one in a folder, with the settings beside it.

        language: which vocabulary of a file that holds one per language, as MMS does ("": the one that
        tokenizer_config.json names as target_lang, else the first). outputs: how many the model has, if known; tokens that were
        added to vocab.json beyond them are not its own. InputError for a file that holds none.
        """
        file = path / "vocab.json" if path.is_dir() else path
        try:
            vocab = json.loads(file.read_text(encoding="utf-8-sig"))
            settings = settings_of(file.parent)
            added = added_tokens(file.parent, settings)
            if any(isinstance(value, dict) for value in vocab.values()):
                added = {}  # those of another language, perhaps
                vocab = of_language(vocab, language or settings.get("target_lang") or next(iter(vocab)))
            vocab = complete(vocab, added, outputs)
            writing = writing_of(vocab, settings)
            return cls({written(token, writing.spelling): index for token, index in vocab.items()}, writing)
        except (OSError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{file} cannot be used as a vocabulary ({problem}); it maps characters to ids") from None


def of_language(vocabs: dict[str, dict[str, int]], language: str) -> dict[str, int]:
    """The vocabulary of one language. InputError if there is none, with those that there are."""
    if language not in vocabs:
        raise InputError(f"it has none for {language!r}, but for {', '.join(list(vocabs)[:9])}")
    return vocabs[language]


def settings_of(folder: Path) -> dict[str, Any]:
    """What special_tokens_map.json and tokenizer_config.json of a folder say; the latter wins. A token is given by its text."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        values = json.loads(file.read_text(encoding="utf-8-sig")) if file.exists() else {}
        for key, value in values.items():
            found[key] = value["content"] if isinstance(value, dict) and "content" in value else value
    return found


def added_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, int]:
    """Tokens with ids that are not in vocab.json: those of added_tokens.json and of tokenizer_config.json."""
    file = folder / "added_tokens.json"
    added = dict(json.loads(file.read_text(encoding="utf-8-sig"))) if file.exists() else {}
    return added | {
        token["content"]: int(index) for index, token in (settings.get("added_tokens_decoder") or {}).items()
    }


def complete(vocab: dict[str, Any], added: dict[str, int], outputs: int | None) -> dict[str, int]:
    """A vocabulary with the added tokens that it lacks, if the model has outputs for them; those of sentences, which transformers
    adds to every vocabulary, are left out too where it has none."""
    ids = {str(token): int(index) for token, index in vocab.items()}
    if outputs is not None:
        ids = {token: index for token, index in ids.items() if index < outputs or token not in SPECIALS}
    free = {token: index for token, index in added.items() if token not in ids and index not in ids.values()}
    return ids | {token: index for token, index in free.items() if outputs is None or index < outputs}


def writing_of(vocab: dict[str, int], settings: dict[str, Any]) -> Writing:
    """How a vocabulary with the settings of its folder is written."""
    spelling = {}
    for token, key in SETTINGS.items():
        theirs = settings.get(key, token)
        if theirs != token and theirs in vocab:
            spelling[token] = theirs
    phones = settings.get("tokenizer_class") == PHONES or "phone_delimiter_token" in settings
    if not phones and DELIMITER not in vocab and DELIMITER not in spelling and " " in vocab:
        spelling[DELIMITER] = " "  # prints as one, whatever the settings call the delimiter
    listed = [settings.get(key) for key in ("bos_token", "eos_token")]
    listed += [token for key in EXTRA for token in settings.get(key) or [] if isinstance(settings[key], list)]
    listed += [
        token["content"] for token in (settings.get("added_tokens_decoder") or {}).values() if token.get("special")
    ]
    texts = (token.get("content") if isinstance(token, dict) else token for token in listed)
    return Writing(
        spelling=spelling,
        specials=frozenset(SPECIALS) | {written(text, spelling) for text in texts if isinstance(text, str)},
        lower=bool(settings.get("do_lower_case", False))
        and any(len(token) == 1 and token.isupper() for token in vocab),
        phones=phones,
        space=space if isinstance(space := settings.get("replace_word_delimiter_char"), str) else " ",
        settings={key: None if settings[key] == "None" else settings[key] for key in KEPT if key in settings},
    )


def written(token: str, spelling: dict[str, str]) -> str:
    """Our name of a vocabulary's token, or its name of ours: the two are exchanged, for it may have both for different things."""
    return {**spelling, **{theirs: ours for ours, theirs in spelling.items()}}.get(token, token)
