"""The house rules that a machine can hold: imports point down, files stay small, importing stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speechssl"
FILES = sorted(PACKAGE.rglob("*.py"))
TOP, MIDDLE, LOW, GROUND = (
    "cli verbs demo report api bench benchmark",
    "train asr probe interop",
    "models data",
    "packed audio text",
)
LAYERS = {
    **dict.fromkeys([*TOP.split(), "__init__", "__main__"], 4),
    **dict.fromkeys(MIDDLE.split(), 3),
    "objectives": 2,
    **dict.fromkeys(LOW.split(), 1),
    **dict.fromkeys(
        [*GROUND.split(), "features", "dist", "config", "errors", "noise", "files", "windows", "memory"], 0
    ),
}
HEAVY = tuple(
    [
        "librosa",
        "sklearn",
        "matplotlib",
        "transformers",
        "pandas",
        "pyarrow",
        "tensorboard",
        "IPython",
        "onnxruntime",
        "huggingface_hub",
    ]
)


def part(module: str) -> str:
    """speechssl.train.loop -> train; speechssl itself -> __init__."""
    return [*module.split("."), "__init__"][1]


def imports(path: Path) -> set[str]:
    """The parts of speechssl that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part(alias.name) for alias in node.names if alias.name.split(".")[0] == "speechssl"}
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(
                f"{path}: relative import in line {node.lineno}; write from speechssl.… so that the layers are seen"
            )
        elif isinstance(node, ast.ImportFrom) and node.module == "speechssl":
            found |= {alias.name if alias.name in LAYERS else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("speechssl."):
            found.add(part(node.module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert mine in LAYERS, f"{mine} has no layer yet: add it to LAYERS"
    for other in imports(path) - {mine}:
        assert LAYERS[other] <= LAYERS[mine], f"{mine} imports {other}, which stands above it"
        assert {mine, other} != set(LOW.split()), "models and data do not know each other"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_finished(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for mark in ("TODO", "FIXME", "XXX", "NotImplementedError"):
        assert mark not in text


def after(*statements: str) -> dict:
    """A fresh interpreter's seconds per statement, and the modules it holds in the end."""
    code = f"""
import json, sys, time
seconds = []
for statement in {statements!r}:
    start = time.perf_counter()
    exec(statement)
    seconds.append(time.perf_counter() - start)
print(json.dumps({{"seconds": seconds, "modules": sorted(sys.modules)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return json.loads(done.stdout)


def test_import_brings_nothing_heavy_and_no_torch():
    modules = after("import speechssl, speechssl.cli")["modules"]
    assert not set(modules) & {*HEAVY, "torch", "numpy"}


def test_loading_models_and_training_bring_nothing_heavy():
    modules = after("import speechssl", "speechssl.load", "import speechssl.train.run")["modules"]
    assert "torch" in modules
    assert not set(modules) & set(HEAVY)


def test_import_takes_less_than_two_seconds_beyond_torch():
    _, seconds = after("import torch", "import speechssl; speechssl.load")["seconds"]
    assert seconds < 2
