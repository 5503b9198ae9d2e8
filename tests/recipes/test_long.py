"""recipes/long at its smallest: what it joins is what it says, and words in noise are counted for each confidence."""

import numpy as np
from long import concatenate, noise_only

from speechssl.data.channels import segment_of
from speechssl.data.tables import read_manifest
from speechssl.sound import audio
from tests.conftest import CLIP, digits, write_table


def test_the_file_holds_the_utterances_with_noise_between_them(tmp_path):
    rows = read_manifest(write_table(tmp_path / "x.tsv", *digits()))
    used = concatenate(rows, 0.5, CLIP, tmp_path / "x.flac")
    wave_S, at = audio.load(tmp_path / "x.flac"), 0
    assert len(wave_S) > 30 * 16_000 and set(used[:12]) == set(range(12)) and len(used) > 12
    for index in used:
        word_S = audio.load(rows[index].path, **segment_of(rows[index]))
        reach = wave_S[at : at + len(word_S) + 16_100]
        squares = np.convolve(np.square(reach), np.ones(len(word_S)), "valid")
        place = int((squares - 2 * np.correlate(reach, word_S, "valid")).argmin())
        assert place <= (0 if at == 0 else 16_000)
        np.testing.assert_allclose(reach[place : place + len(word_S)], word_S, atol=1e-4)
        at += place + len(word_S)


def test_it_reports_each_confidence(ctc_folder, tmp_path, capsys):
    rows = read_manifest(write_table(tmp_path / "x.tsv", *digits(3)))
    noise_only(str(ctc_folder), rows, CLIP)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[0] for line in lines] == ["0.0", "0.5", "0.6", "0.7", "0.8", "0.9"]
    assert float(lines[0][1]) > 0 == float(lines[-1][1])  # random weights are never sure
