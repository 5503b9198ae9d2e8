"""The house rules that a machine can hold: imports point down, files stay small, importing stays light."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speechssl"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (  # a room may import from the floors below its own, and from itself
    {"core"},
    {"sound", "text"},
    {"data", "models"},
    {"objectives", "interop"},
    {"train", "use"},
    {"score"},
    {"__init__", "__main__", "cli", "verbs", "verbs_make", "verbs_use", "arguments", "demo", "bench"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = tuple(
    [
        "av",
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
        "sentencepiece",
    ]
)


def module_of(path: Path) -> str:
    """speechssl/train/loop.py -> speechssl.train.loop."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room(module: str) -> str:
    """speechssl.train.loop -> train; speechssl itself -> __init__."""
    return [*module.split("."), "__init__"][1]


def imports(path: Path, inside: bool = True) -> set[str]:
    """The modules of speechssl that a file imports, at the top or (`inside`) in functions too."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "speechssl"}
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(
                f"{path}: relative import in line {node.lineno}; write from speechssl.… so that floors are seen"
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "speechssl":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found - {module_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = room(module_of(path))
    assert mine in FLOOR, f"{mine} has no floor yet: add it to FLOORS"
    if FLOOR[mine] == len(FLOORS) - 1:
        return  # the roof: entry points
    for other in {room(module) for module in imports(path)} - {mine}:
        assert FLOOR[other] < FLOOR[mine], f"{mine} imports {other}, which does not lie below it"


def test_no_import_circles():
    """Neither between rooms nor between the files of one."""
    left = {module: imports(path) for module, path in MODULES.items()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these modules import each other in a circle: {', '.join(sorted(left))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_finished(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for mark in ("TODO", "FIXME", "XXX", "NotImplementedError"):
        assert mark not in text


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(json.loads(done.stdout))


def test_import_brings_nothing_heavy_and_no_torch():
    assert not modules_after("import speechssl, speechssl.cli") & {*HEAVY, "torch", "numpy"}


def test_loading_models_and_training_bring_nothing_heavy():
    modules = modules_after("import speechssl; speechssl.load; import speechssl.train.run")
    assert "torch" in modules
    assert not modules & set(HEAVY)
    assert "torch._dynamo" not in modules, "torch's compiler takes a second, and nothing here is compiled"


def test_the_map_in_the_readme_names_every_folder():
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    map_of_the_code = text[text.index("## Map of the code") :]
    folders = {path.parent.relative_to(PACKAGE) for path in FILES if path.parent != PACKAGE}
    for folder in sorted(folders):
        assert f"`{folder.name}/`" in map_of_the_code or f"`{folder}/`" in map_of_the_code, folder


def test_the_readme_says_how_long_the_package_is():
    said = re.search(r"about ([\d,]+) lines", (PACKAGE.parent / "README.md").read_text(encoding="utf-8"))
    assert said
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in FILES)
    assert abs(int(said[1].replace(",", "")) - lines) < 100, lines
