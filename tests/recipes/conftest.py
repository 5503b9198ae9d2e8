"""The scripts of recipes/ import their neighbours by name, as Python does when it runs them."""

import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path[:0] = [str(RECIPES / "speed"), str(RECIPES / "demo"), str(RECIPES / "long")]
