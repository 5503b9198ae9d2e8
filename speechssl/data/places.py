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
    "audios",
)  # where corpora keep the audio of the tables that lie beside: clips is Common Voice's
PLAIN = re.compile(r"[\w./ ()#,+@=&'-]*", re.ASCII)
ENDINGS = (*EXTENSIONS, *FOREIGN)
PATIENCE = 100  # rows of which none is found before the search for a place ends


def bare(name: str) -> str:
    """A path without its ending, if that is one of audio."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in ENDINGS else name


class Places:
    """Where the files of a table lie: in the first of some folders in which one of its first paths is found, or the end of one
    that is absolute and of another machine, which is reported on stderr.

    folders: where relative paths may start; the first is taken where no file is found anywhere.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self.folders = [str(folder) for folder in folders]
        self.root, self.ending, self.tries = self.folders[0], "", PATIENCE
        self.gone, self.searches = "", PATIENCE  # how absolute paths begin whose ends are found in the folder `root`
        self.listed: dict[str, dict[str, str]] = {}

    @classmethod
    def of(cls, table: Path) -> "Places":
        """The folder of a table, those in it that corpora use, and the working folder."""
        near = (table.parent, table.parent.parent)  # AISHELL's transcript beside wav, MuST-C's txt
        return cls([table.parent, *(folder / name for folder in near for name in BESIDE), "."])

    def find(self, name: str, where: str) -> str:
        """The file that a path stands for. InputError for addresses and drives; `where` names the row."""
        if not PLAIN.fullmatch(name):
            name = self.cleaned(name, where)
        if os.path.isabs(name):
            if self.searches:
                self.search(name)
            if self.gone and not os.path.exists(self.spelled(name)):
                name = name.removeprefix(self.gone)
        if not os.path.isabs(name):
            if self.tries:
                self.tries = 0 if self.look(name) else self.tries - 1
            if self.ending and not os.path.isfile(self.spelled(os.path.join(self.root, name))):
                name = bare(name) + self.ending
            name = os.path.join(self.root, name)
        return name if name.isascii() else self.spelled(name)

    def look(self, name: str) -> bool:
        """Search the folders for a relative path, then for one with an ending, or with another one, which is reported on stderr;
        whether it is found, which settles the place."""
        for ending in ("", *ENDINGS):
            for folder in self.folders:
                if os.path.isfile(self.spelled(os.path.join(folder, bare(name) + ending if ending else name))):
                    self.root, self.ending = folder, ending
                    if ending and bare(name) != name:
                        print(f"{name} is not here, {bare(name)}{ending} is; so are others taken", file=sys.stderr)
                    return True
        return False

    def search(self, name: str) -> None:
        """Search the folders for the end of an absolute path, as long as possible, if there is no such file."""
        self.searches -= 1
        if os.path.exists(self.spelled(name)):
            self.searches = 0
            return
        for end in (name[i + 1 :] for i, letter in enumerate(name) if letter == "/"):
            if end and self.look(end):
                self.gone, self.searches, self.tries = name.removesuffix(end), 0, 0
                print(f"{self.gone} is not here; the files of the table are those in {self.root}", file=sys.stderr)
                return

    def cleaned(self, name: str, where: str) -> str:
        """A path without what other programs write into it: file://, ~, SpeechBrain's {data_root}, backslashes."""
        if re.match(r"file:/", name):
            name = unquote(urlsplit(name).path)
        if re.match(r"[A-Za-z][\w+.-]+://", name):
            raise InputError(f"{where}: {name} is an address, not a file; download it, and name the file in the table")
        if re.match(r"[A-Za-z]:[\\/]", name) and sys.platform != "win32":
            return self.without_drive(name, where)
        name = re.sub(r"^(\{data_root\}|\$data_root)[\\/]", "", name)
        if name.startswith("~") and not os.path.exists(os.path.join(self.root, name)):
            name = os.path.expanduser(name)
        if "\\" in name and not os.path.exists(os.path.join(self.root, name)):
            name = name.replace("\\", "/")
        return name

    def without_drive(self, name: str, where: str) -> str:
        """The path of a Windows machine as an absolute one of another machine. InputError if no end of it is found here."""
        path = name[2:].replace("\\", "/")
        if self.searches:
            self.search(path)
        if not (self.gone and path.startswith(self.gone)):
            raise InputError(
                f"{where}: {name} is a path of a Windows machine; make the paths of the table relative to its folder"
            )
        return path

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
