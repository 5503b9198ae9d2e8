"""The measurement of the data path runs on the clips that ship and gives plain numbers."""

import json

from data_path import CROPS, FORMATS, measure


def test_every_case_is_measured():
    found = json.loads(json.dumps(measure(0.01, rows=5_000)))
    rates = found["seconds of audio per second of CPU"]
    assert {case: set(row) for case, row in rates.items()} == {case: set(FORMATS) for case in CROPS}
    assert all(value > 1 for row in rates.values() for value in row.values())
    assert found["manifest"]["rows"] == 5_000
    assert all(value >= 0 for value in found["manifest"].values())
