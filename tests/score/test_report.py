"""The page: whatever is put in is shown as text, whole, and nothing is loaded from elsewhere."""

import base64
import io
import json
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import soundfile

from speechssl.score import report
from speechssl.score.report import Page, player, plot_embedding_map
from tests.conftest import CLIP

HOSTILE = "<script>alert('x')</script> & \"é\""


class Reader(HTMLParser):
    """Tags, their addresses, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_text_stays_text(tmp_path):
    page = Page(HOSTILE).heading(HOSTILE).text(HOSTILE, note=True).code(HOSTILE).table([{HOSTILE: HOSTILE}])
    read = Reader(page.save(tmp_path / "x.html").read_text(encoding="utf-8"))
    assert "script" not in read.tags
    assert read.text.count(HOSTILE) == 7  # title and heading, section, paragraph, code, head and cell


def test_clips_and_figures_lie_inside_the_page(tmp_path, clip):
    figure, _ = report.axes()
    page = Page("x").table([{"clip": report.player(CLIP)}]).figure(figure, "caption")
    read = Reader(page.save(tmp_path / "x.html").read_text(encoding="utf-8"))
    assert all(source.startswith("data:") for source in read.sources)
    sound, image = (base64.b64decode(source.partition(",")[2]) for source in read.sources)
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(sound), dtype="float32")[0], clip)
    assert image.startswith(b"\x89PNG")


def test_curves_follow_the_log(tmp_path):
    lines = [{"step": i, "split": split, "loss": 10.0 - i} for i in range(5) for split in ("train", "valid")]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = report.plot_curves({"run": tmp_path}, {"loss": "loss"}, split="valid")
    (curve,) = figure.axes[0].lines
    assert curve.get_xdata().tolist() == list(range(5))
    assert curve.get_ydata().tolist() == [10.0, 9.0, 8.0, 7.0, 6.0]


def test_the_map_places_every_clip_once():
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    figure = report.plot_embedding_map(vectors, {"who": ["ab"[i % 2] for i in range(40)], "what": ["x"] * 40})
    assert [sum(len(part.get_offsets()) for part in ax.collections) for ax in figure.axes] == [40, 40]


def test_figures_leave_the_callers_matplotlib_alone(speech, tmp_path):
    backend, before = matplotlib.get_backend(), matplotlib.rcParams.copy()
    figure = report.plot_spectrogram(speech[:16_000], (), "a second of speech")
    page = report.Page("page").figure(figure, "its spectrogram").save(tmp_path / "page.html")
    assert "data:image/png;base64,iVBOR" in page.read_text(encoding="utf-8")
    assert matplotlib.get_backend() == backend and matplotlib.rcParams == before
    assert plt.get_fignums() == []  # pyplot would keep the figure, and a notebook would show it twice


def test_a_player_holds_its_piece_only(tmp_path):
    rate = 44_100
    soundfile.write(tmp_path / "long.WAV", np.random.default_rng(1).uniform(-1, 1, (30 * rate, 2)), rate)
    markup = player(str(tmp_path / "long.WAV"), start=10.0, duration=1.5)
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(markup.partition("base64,")[2].partition('"')[0])))
    assert (rate, wave.shape) == (16_000, (24_000,))


def test_a_map_of_many_speakers_is_a_picture():
    rng = np.random.default_rng(1)
    names = [f"_$x{i}$_" for i in range(90)]
    figure = plot_embedding_map(rng.normal(size=(180, 8)), {"few": ["_a$b$_", "b"] * 90, "many": names * 2})
    few, many = figure.axes
    assert [text.get_text() for text in few.get_legend().get_texts()] == [r"_a\$b\$_", "b"]
    assert many.get_legend() is None and len(many.collections) == 90
    figure.savefig(io.BytesIO())
