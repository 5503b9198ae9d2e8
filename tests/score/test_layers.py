"""The layer advisor: what a probe of each layer alone would say, the best first."""

import numpy as np
import pytest

import speechssl
from speechssl import cli
from speechssl.data.tables import read_manifest
from speechssl.score.layers import rank_layers
from speechssl.score.probe import probe_vectors
from tests.conftest import digits, refused, write_table


def test_layers_are_ranked_by_the_probe(tmp_path, capsys):
    table = write_table(tmp_path / "x.tsv", *digits(100))
    model, rows = speechssl.load("small"), read_manifest(table)
    result = rank_layers(model, table)
    assert [score.uar for score in result.scores] == sorted((score.uar for score in result.scores), reverse=True)
    assert len(result.scores) == 2 * model.model.layers + 1
    clips = [model.embed(row.path, layer=2, pool="mean+max") for row in rows]
    labels, speakers = np.array(rows.column("label")), np.array(rows.column("speaker"))
    alone = probe_vectors({"vector": np.stack(clips)}, labels, speakers, label="label").scores[0]
    found = next(score for score in result.scores if score.vectors == "layer 2, mean+max")
    assert found.uar == pytest.approx(alone.uar, abs=0.02)
    cli.main(["layers", "small", str(table), "--folds", "3"])
    assert "log-mel statistics" in capsys.readouterr().out


def test_mistakes(tmp_path, capsys):
    table = write_table(tmp_path / "x.tsv", *digits())
    assert "no column 'mood'" in refused(capsys, "layers", "small", table, "--label", "mood")
