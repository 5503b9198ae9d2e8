"""The journey of a language model through the verbs: built from text or transcripts, tuned, used, and what is refused."""

import json
from pathlib import Path

import pytest

import speechssl
from speechssl import cli
from speechssl.text.decoders import decode
from speechssl.text.lexicon import Lexicon
from speechssl.text.ngram import open_lm
from speechssl.text.search import Search
from speechssl.use.language import search_of, tuned_file
from speechssl.use.transcribe import transcribe
from tests.conftest import digits, refused, write_table


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A working folder with a table of spoken digits, some of them marked dev or test, and a text."""
    monkeypatch.chdir(tmp_path)
    rows = digits(12)
    for number, row in enumerate(rows):
        row["split"] = ("train", "dev", "test")[number % 3]
    write_table(Path("x.tsv"), *rows)
    Path("text.txt").write_text("One, two.\nTHREE\n\nfour five\n")
    return tmp_path


def run(*argv: object) -> None:
    """A verb of the command line."""
    cli.main([str(word) for word in argv])


def test_text_and_transcripts_make_a_model_without_those_of_a_test(desk, capsys):
    run("build-lm", "text.txt", "--out", "text.arpa", "--order", 2)
    assert "text.arpa: 3 sentences, 5 words: 8 1-grams" in capsys.readouterr().out
    assert open_lm(Path("text.arpa")).knows("three") and not open_lm(Path("text.arpa")).knows("One,")
    run("build-lm", "x.tsv", "text.txt", "--out", "both.arpa", "--order", 3)
    captured = capsys.readouterr()
    assert "both.arpa: 7 sentences, 9 words" in captured.out and "4 are trained on" in captured.err
    assert "is outside 1 ... 10" in refused(capsys, "build-lm", "text.txt", "--out", "y.arpa", "--order", 12)
    assert "does not exist" in refused(capsys, "build-lm", "no.txt", "--out", "y.arpa")


def test_weights_are_chosen_on_dev_and_taken_from_beside_the_model(desk, ctc_folder, capsys):
    run("build-lm", "x.tsv", "--out", "lm.arpa", "--order", 2)
    run("tune-lm", ctc_folder, "lm.arpa", "x.tsv", "--beam", 5)
    captured = capsys.readouterr()
    assert "without a language model  WER" in captured.out and "the 4 marked dev validate" in captured.err
    values = json.loads(tuned_file(Path("lm.arpa")).read_text())
    search = search_of(Path("lm.arpa"), word_score=7.0)
    assert search is not None and (search.lm_weight, search.word_score) == (values["lm_weight"], 7.0)
    run("evaluate", ctc_folder, "x.tsv", "--where", "split=test", "--lm", "lm.arpa", "--beam", 5, "--out", "scores")
    said = f"beam of 5; 2-gram model of {len(open_lm(Path('lm.arpa')).words) - 3} words"
    assert said in capsys.readouterr().out and said in json.loads(Path("scores/scores.json").read_text())["decoding"]
    tuned_file(Path("lm.arpa")).write_text("{}")
    said = refused(capsys, "evaluate", ctc_folder, "x.tsv", "--lm", "lm.arpa")
    assert "lm.arpa.json does not hold lm_weight and word_score" in said


def test_a_lexicon_and_several_texts(desk, ctc_folder, capsys):
    row = digits(1)[0]
    Path("words.txt").write_text("abe b e\nxylophone\nq\n")
    run(
        "transcribe", ctc_folder, row["path"], "--lexicon", "words.txt", "--n-best", 3, "--format", "json", "--beam", 20
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found["text"].split()) <= {"abe", "xylophone", "q"}
    assert 1 <= len(found["best"]) <= 3 and found["best"][0]["text"] == found["text"]
    scores = [one["score"] for one in found["best"]]
    assert scores == sorted(scores, reverse=True)
    run("transcribe", ctc_folder, row["path"], "--format", "json")
    assert "best" not in json.loads(capsys.readouterr().out)


def test_what_makes_no_search_is_refused(desk, ctc_folder, capsys):
    clip = digits(1)[0]["path"]
    said = refused(capsys, "transcribe", ctc_folder, clip, "--hot-words", "anna", "--decoder", "greedy")
    assert "choose the decoder beam" in said
    assert "name it with --lm" in refused(capsys, "transcribe", ctc_folder, clip, "--lm-weight", 1)
    assert "--beam -1" in refused(capsys, "transcribe", ctc_folder, clip, "--lexicon", "text.txt", "--beam", -1)
    assert "does not exist; make a language model" in refused(capsys, "transcribe", ctc_folder, clip, "--lm", "no.arpa")
    assert "is no ARPA file" in refused(capsys, "transcribe", ctc_folder, clip, "--lm", "text.txt")


def test_a_closed_vocabulary_is_told(desk, capsys):
    run("build-lm", "text.txt", "--out", "lm.arpa", "--order", 2)
    lines = [line for line in Path("lm.arpa").read_text().splitlines() if "<unk>" not in line]
    Path("lm.arpa").write_text("\n".join(lines).replace("ngram 1=8", "ngram 1=7"))
    assert search_of(Path("lm.arpa")) is not None
    assert "lm.arpa has no <unk>: words that it does not know cost 99 powers of ten" in capsys.readouterr().err


def test_posteriors_for_any_decoder(ctc_folder, speech):
    """The columns are in the order of vocab.json; what they spell is what `transcribe` says."""
    model = speechssl.load(ctc_folder)
    assert model.tokenizer is not None
    vocab = json.loads((Path(ctc_folder) / "vocab.json").read_text())
    assert [vocab[label] for label in model.tokenizer.labels] == list(range(len(vocab)))
    log_probs_TV = model.posteriors(speech[: 16_000 * 6])
    assert log_probs_TV.exp().sum(dim=1).numpy() == pytest.approx(1, abs=1e-4)
    assert decode(log_probs_TV, model.tokenizer)[0].text == model.transcribe(speech[: 16_000 * 6]).text


KEEP = ("--format", "json", "--confidence", 0)  # random weights are never sure


def test_the_decoder_is_chosen_by_name(desk, ctc_folder, capsys):
    pytest.importorskip("flashlight.lib.text.decoder")
    clip, found = digits(1)[0]["path"], {}
    run("build-lm", "x.tsv", "--out", "lm.arpa", "--order", 2)
    for decoder in ("beam", "flashlight"):
        capsys.readouterr()
        run("transcribe", ctc_folder, clip, "--lm", "lm.arpa", "--decoder", decoder, "--n-best", 2, *KEEP)
        found[decoder] = json.loads(capsys.readouterr().out)
    ours, theirs = (found[decoder]["best"][0] for decoder in ("beam", "flashlight"))
    assert ours.keys() == theirs.keys() and theirs["score"] == pytest.approx(ours["score"], rel=0.05)
    assert theirs["score"] != ours["score"]  # random posteriors, of which each search keeps others


def test_windows_change_nothing(ctc_folder, speech):
    model, wave_S = speechssl.load(ctc_folder), speech[: 16_000 * 6]
    search = Search(beam=10, lexicon=Lexicon(["ab", "q", "zoo"]))
    several = model.transcribe([wave_S, wave_S[:20_000]], search=search)
    assert several[0] == transcribe(model, wave_S, search=search) and several[0].text
