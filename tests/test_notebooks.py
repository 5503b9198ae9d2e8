"""Each notebook is a pair that says the same, and is committed as executed: outputs without errors, machine paths or bulk.

`make test` also runs them (nbmake).
"""

import json
import re
from pathlib import Path

import jupytext
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
PLACES = re.compile(r"/(home|root|tmp|work|Users|usr|opt|private)/")


def cells(notebook) -> list[tuple[str, str]]:
    """Kind and source of every cell."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def test_every_notebook_has_its_script():
    assert [path.stem for path in SCRIPTS] == sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_pair_says_the_same(script):
    notebook = jupytext.reads(script.with_suffix(".ipynb").read_text(encoding="utf-8"), fmt="ipynb")
    assert cells(notebook) == cells(jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent"))
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_outputs_are_of_one_clean_run(script):
    text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not PLACES.search(re.sub(r"[A-Za-z0-9+/=\\n]{200,}", "", json.dumps(outputs)))
    assert len(text) < 700_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_results_are_computed_not_typed(script):
    notebook = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    for kind, source in cells(notebook):
        assert kind == "code" or not re.search(r"\d\s*(%|points|nats)|0\.\d", source), source
