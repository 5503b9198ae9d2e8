"""A system under test: a process that runs worker.py, seen from the benchmark."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from work import Spec

from speechssl.core.errors import InputError

WORKER = Path(__file__).resolve().with_name("worker.py")


@dataclass(kw_only=True)
class System:
    """A process that runs the steps of one system. seconds: of every step. peak: bytes. batch: the size it found fastest."""

    name: str
    process: Any
    errors: Any
    facts: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0

    def answer(self) -> dict[str, Any]:
        """The next line of the process; InputError when it cannot do the task."""
        line = self.process.stdout.readline()
        found = json.loads(line) if line else {"error": self.last_words()}
        if "error" in found:
            raise InputError(f"{self.name}: {found['error']}")
        return found

    def last_words(self) -> str:
        """The last line that a process printed before it ended without an answer."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else "its process was killed; it may need more memory than there is"

    def run(self, steps: int) -> None:
        """Time some steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        found = self.answer()
        self.seconds += found["seconds"]
        self.peak, self.batch = max(self.peak, found["peak"]), found["batch"]


def start(name: str, spec: Spec) -> System:
    """A system in a process of its own, built and warmed up."""
    command = [sys.executable, str(WORKER), name, json.dumps(asdict(spec))]
    errors = tempfile.TemporaryFile("w+")
    environment = os.environ | {"OMP_NUM_THREADS": str(spec.threads)}
    process = subprocess.Popen(
        command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
    )
    system = System(name=name, process=process, errors=errors)
    system.facts = system.answer()["facts"]
    return system
