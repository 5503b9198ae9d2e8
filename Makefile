# make demo: set up, then run the whole journey on the clips in data/. make test: set up, then run every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test notebooks clean

demo: $(VENV)/.installed
	$(BIN)/python recipes/demo/demo.py --out demo

test: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --durations=10
	@if [ -d notebooks ]; then set -x; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 2 --nbmake --nbmake-timeout=600 --timeout=0 notebooks; fi

# Copy changes of notebooks/*.py into the .ipynb, run them, and keep the outputs.
notebooks: $(VENV)/.test-installed
	for script in notebooks/*.py; do $(BIN)/jupytext --quiet --update --to ipynb $$script || exit 1; done
	$(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=600 --timeout=0 notebooks

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) on the PATH; name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "speechssl needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot create virtual environments; install its venv package (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV): a download of about 3 GB the first time, mostly torch"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@$(BIN)/python -c 'import torch, torchaudio' || { echo "torch and torchaudio do not load together: they must come from the same place; run make clean, then make $(MAKECMDGOALS)"; exit 1; }
	@touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) demo
