"""The page of an evaluation: nothing in it is markup but ours, every utterance is there and can be heard, nothing is fetched."""

import base64
import io
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import soundfile

from speechssl.data.tables import read_manifest
from speechssl.score import evaluate_page
from speechssl.score.calibration import calibration_of
from speechssl.score.edits import score_all
from speechssl.score.evaluate import groups_of
from speechssl.score.evaluate_page import write_page
from speechssl.score.wer import rates_of
from speechssl.sound import audio
from speechssl.text.transcript import Transcript
from tests.conftest import digits, write_table
from tests.score.test_report import HOSTILE, Reader

REFERENCES = ["one <b>two</b>", "أمام خلف", "我爱北京", "three", ""]
HYPOTHESES = ["one too two", "أمام", "我爱东京", "three", "<i>noise"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of five utterances, of which only the first fits into it; the folder of the audio has an odd name."""
    tmp_path = tmp_path_factory.mktemp("page")
    folder = tmp_path / "a b#c"
    folder.mkdir()
    rows = []
    for row, text in zip(digits(5), REFERENCES, strict=True):
        soundfile.write(folder / f"{len(rows)}.wav", audio.load(row["path"]), 16_000)
        rows.append(row | {"id": f"{HOSTILE} {len(rows)}", "path": folder / f"{len(rows)}.wav", "text": text})
    table = read_manifest(write_table(tmp_path / "x.tsv", *rows))
    heard = [Transcript(text=h, words=[], duration=float(d)) for h, d in zip(HYPOTHESES, table.durations, strict=True)]
    scored = score_all(table.column("id"), table.column("speaker"), REFERENCES, HYPOTHESES, str)
    scores = rates_of(
        scored,
        normaliser="none",
        groups=groups_of(scored, {"label": [HOSTILE] * 5}, heard),
        calibration=calibration_of([(0.9, True), (0.4, False), (0.95, True)]),
    )
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_page, "EMBEDDED", float(table.durations[0]) + 0.01)
        write_page(path, {"model": HOSTILE, "test": HOSTILE}, scores, table, scored, [h.duration for h in heard])
    return path, table


def test_what_comes_from_files_is_text(page):
    read = Reader(page[0].read_text(encoding="utf-8"))
    assert read.tags.count("script") == 1, "ours, which sorts tables"
    assert "<script>alert" in read.text and read.tags.count("i") == sum(map(len, ([1] * 3, [1] * 2, [1] * 4, [1], [1])))
    assert all(f"{HOSTILE} {i}" in read.text for i in range(5))
    assert "<i>noise" in read.text and "<b>two</b>" in read.text


def test_every_utterance_can_be_heard_without_a_network(page):
    path, table = page
    sources = Reader(path.read_text(encoding="utf-8")).sources
    inside = [source for source in sources if source.startswith("data:audio/flac;base64,")]
    linked = [source for source in sources if source not in inside]
    assert (len(inside), len(linked)) == (1, 4)
    wave, _ = soundfile.read(io.BytesIO(base64.b64decode(inside[0].partition(",")[2])), dtype="float32")
    np.testing.assert_array_equal(wave, audio.load(table[0].path))
    found = set()
    for source in map(urlsplit, linked):
        assert not source.scheme and not source.netloc
        found.add((path.parent / unquote(source.path)).resolve())
    assert found == {Path(row.path).resolve() for row in list(table)[1:]}


def test_errors_are_marked_without_colour_and_texts_run_their_way(page):
    text = page[0].read_text(encoding="utf-8")
    assert '<span class=S title="substituted"><i>&lt;b&gt;two&lt;/b&gt;</i><b>two</b></span>' in text
    assert '<span class=D title="deleted"><i>خلف</i><b>·</b></span>' in text
    assert '<span class=I title="inserted"><i>·</i><b>too</b></span>' in text
    assert "<span><i>我</i><b>我</b></span>" in text and text.count("dir=auto") == 5
    for mark in (".S b{color:var(--bad);text-decoration:underline wavy", "line-through", 'content:"+"'):
        assert mark in text
    assert "prefers-color-scheme:dark" in text and "width=device-width" in text
    places = [text.index(f"<summary>1 utterances {name}") for name in ("without an error", "with an empty reference")]
    assert text.index("<article>") < places[0] < places[1]
