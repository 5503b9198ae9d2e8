"""The report's figures."""

import matplotlib
import matplotlib.pyplot as plt

from speechssl import report


def test_figures_leave_the_callers_matplotlib_alone(speech, tmp_path):
    backend, before = matplotlib.get_backend(), matplotlib.rcParams.copy()
    figure = report.plot_spectrogram(speech[:16_000], (), "a second of speech")
    page = report.Page("page").figure(figure, "its spectrogram").save(tmp_path / "page.html")
    assert "data:image/png;base64,iVBOR" in page.read_text(encoding="utf-8")
    assert matplotlib.get_backend() == backend and matplotlib.rcParams == before
    assert plt.get_fignums() == []  # pyplot would keep the figure, and a notebook would show it twice
