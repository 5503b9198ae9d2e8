"""From the paths that a table holds to the files on this machine."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from speechssl.core.errors import InputError
from speechssl.sound.audio import EXTENSIONS, FOREIGN

BESIDE = (
    "clips",
    "wavs",
    "wav",
    "audio",
)  # where corpora keep the audio of the tables that lie beside: clips is Common Voice's
PLAIN = re.compile(r"[\w./ ()#,+@=&'-]*", re.ASCII)
ENDINGS = (*EXTENSIONS, *FOREIGN)
PATIENCE = 100  # rows of which none is found before the search for a place ends


class Places:
    """Where the files of a table lie: in the first of some folders in which one of its first paths is found.

    folders: where relative paths may start; the first is taken where no file is found anywhere.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self.folders = [str(folder) for folder in folders]
        self.root, self.ending = self.folders[0], ""
        self.tries = PATIENCE
        self.listed: dict[str, dict[str, str]] = {}

    @classmethod
    def of(cls, table: Path) -> "Places":
        """The folder of a table, those in it that corpora use, and the working folder."""
        return cls([table.parent, *(table.parent / name for name in BESIDE), "."])

    def find(self, name: str, where: str) -> str:
        """The file that a path stands for. InputError for addresses and drives; `where` names the row."""
        if not PLAIN.fullmatch(name):
            name = self.cleaned(name, where)
        if not os.path.isabs(name):
            if self.tries:
                self.look(name)
            if self.ending and not name.lower().endswith(ENDINGS):
                name += self.ending
            name = os.path.join(self.root, name)
        return name if name.isascii() else self.spelled(name)

    def look(self, name: str) -> bool:
        """Search the folders for a relative path, without its ending too; whether it is found, which settles the place."""
        endings = ("",) if name.lower().endswith(ENDINGS) else ("", *ENDINGS)
        for folder in self.folders:
            for ending in endings:
                if os.path.isfile(self.spelled(os.path.join(folder, name + ending))):
                    self.root, self.ending, self.tries = folder, ending, 0
                    return True
        self.tries -= 1
        return False

    def cleaned(self, name: str, where: str) -> str:
        """A path without what other programs write into it: file://, ~, SpeechBrain's {data_root}, backslashes."""
        if re.match(r"file:/", name):
            name = unquote(urlsplit(name).path)
        if re.match(r"[A-Za-z][\w+.-]+://", name):
            raise InputError(f"{where}: {name} is an address, not a file; download it, and name the file in the table")
        if re.match(r"[A-Za-z]:[\\/]", name) and sys.platform != "win32":
            raise InputError(
                f"{where}: {name} is a path of a Windows machine; make the paths of the table relative to its folder"
            )
        name = re.sub(r"^(\{data_root\}|\$data_root)[\\/]", "", name)
        if name.startswith("~") and not os.path.exists(os.path.join(self.root, name)):
            name = os.path.expanduser(name)
        if "\\" in name and not os.path.exists(os.path.join(self.root, name)):
            name = name.replace("\\", "/")
        return name

    def spelled(self, path: str) -> str:
        """An absolute or relative path as it is spelled on the disk, where accents may be letters of their own (NFD, as macOS
        writes them) or not (NFC); unchanged if there is no such file."""
        if path.isascii() or os.path.lexists(path):
            return path
        folder, name = os.path.split(path)
        folder = self.spelled(folder)
        if folder not in self.listed:
            names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
            self.listed[folder] = {normalize("NFC", own): own for own in names}
        return os.path.join(folder, self.listed[folder].get(normalize("NFC", name), name))
