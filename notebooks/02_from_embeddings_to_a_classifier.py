# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From embeddings to a classifier
#
# A pretrained model turns a clip of any length into one vector, its *embedding*. Whether that vector contains something
# (a word, an emotion, a dialect) is tested with the simplest possible reader: a linear classifier. This tour does so
# for spoken digits, and spends most of its time on the question that decides whether such a number means anything:
# **who was in the training set?**
#
# Digits stand in for your labels here. Put emotions in their place and nothing else changes. As in the first tour,
# every number comes from a cell.

# %%
import contextlib
import io
import shutil
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

import speechssl
from speechssl import cli
from speechssl.data.tables import read_manifest
from speechssl.score import report
from speechssl.score.probe import probe_vectors
from speechssl.sound import audio
from speechssl.sound.features import log_mel_statistics

# %matplotlib inline
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 80, "legend.frameon": False})
plt.rcParams.update({"axes.titlesize": 11, "axes.titlelocation": "left"})
warnings.filterwarnings("ignore", "IProgress")  # tqdm's, where ipywidgets is missing

TAKES = 5  # recordings of each digit and speaker; there are more, but this keeps the tour short
table = read_manifest("../data/fsdd.tsv")
clips = table.select(i for i, clip in enumerate(table) if int(clip.id.rpartition("_")[2]) < TAKES)
digits, speakers, splits = (np.array(clips.column(name)) for name in ("label", "speaker", "split"))
names, classes = sorted(set(speakers)), sorted(set(digits))

print(
    f"{len(clips)} clips of {len(classes)} digits by {len(names)} speakers, {clips.durations.mean():.2f} s long on average"
)
heard = {name: "train" in splits[speakers == name] for name in names}
print("recordings (never labels) used in pretraining:", ", ".join(name for name in names if heard[name]))
print("not in the pretraining data:", ", ".join(name for name in names if not heard[name]))

# %% [markdown]
# ## Clips become vectors
#
# `model.embed` takes a path, a file object, an array or a tensor. `pool="mean+max"` summarises the frames by their mean
# and their maximum; `layer="all"` returns one vector per layer, the input of the first one included.
#
# Two more embeddings are made for comparison, and no result below means anything without them: plain statistics of a
# log-mel spectrogram, which need no network, and the same network with random weights, which has learned nothing.

# %%
model = speechssl.load("small")
blank = model.untrained()

vectors_NLD = np.stack([model.embed(clip.path, layer="all", pool="mean+max") for clip in clips])
blank_ND = np.stack([blank.embed(clip.path, pool="mean+max") for clip in clips])
log_mel_ND = np.stack([log_mel_statistics(audio.load(clip.path)) for clip in clips])

layers = vectors_NLD.shape[1]
print(f"small: {len(vectors_NLD)} clips x {layers} layers x {vectors_NLD.shape[2]} numbers")
print(f"log-mel statistics: {log_mel_ND.shape[1]} numbers a clip")

# %% [markdown]
# ## A map
#
# t-SNE places the vectors of the last layer on a plane so that neighbours stay neighbours. It sees no labels; they only
# colour the points, digits on the left, speakers on the right. Which of the two colourings forms islands?

# %%
last_ND = vectors_NLD[:, -1]
figure = report.plot_embedding_map(last_ND, {"by digit": digits, "by speaker": speakers})
figure.set_dpi(80)
display(figure)

# %% [markdown]
# A map can flatter, so count: how often does a clip's nearest neighbour share its digit, and how often its speaker?

# %%
scaled_ND = (last_ND - last_ND.mean(axis=0)) / last_ND.std(axis=0)
distance_NN = np.square(scaled_ND[:, None] - scaled_ND[None]).sum(axis=-1)
np.fill_diagonal(distance_NN, np.inf)
nearest_N = distance_NN.argmin(axis=1)
for what, values in (("digit", digits), ("speaker", speakers)):
    share = (values[nearest_N] == values).mean()
    print(f"the nearest neighbour shares the {what:8s}{share:4.0%} of the time (by chance: {1 / len(set(values)):.0%})")

# %% [markdown]
# ## The split that flatters
#
# The usual recipe is to shuffle the clips and keep a part for testing. Then every speaker is on both sides, and the
# classifier may recognise *this* person's "seven" instead of the word. The fair split keeps each speaker on one side
# only: train on all but one, test on the one left out, once for each.
#
# `probe_vectors` builds its folds so that no group is on both sides, and chooses the regularisation inside the training
# groups. With the speaker as the group, test speakers are unseen. With every clip a group of its own, it is the random
# split.

# %%
embeddings = {"log-mel statistics": log_mel_ND, "random weights": blank_ND, "small, last layer": last_ND}
clip_names = np.array(clips.column("id"))


def probe(vectors_ND: np.ndarray, groups: np.ndarray):
    """Score of a linear probe for the digit, over folds that share no group."""
    return probe_vectors({"vector": vectors_ND}, digits, groups, label="digit", folds=len(names)).scores[0]


def percent(score) -> str:
    """Accuracy with its interval."""
    low, high = score.accuracy_interval
    return f"{100 * score.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


unseen = {name: probe(vectors_ND, speakers) for name, vectors_ND in embeddings.items()}
random = {name: probe(vectors_ND, clip_names) for name, vectors_ND in embeddings.items()}

print(f"accuracy in %, 95 % interval    {'unseen speakers':>20s} {'random split':>20s}   the leak")
print(f"{'chance':30s} {100 / len(classes):20.1f} {100 / len(classes):20.1f}")
for name in embeddings:
    leak = 100 * (random[name].accuracy - unseen[name].accuracy)
    print(f"{name:30s} {percent(unseen[name]):>20s} {percent(random[name]):>20s} {leak:+8.1f} points")
orders = [sorted(embeddings, key=lambda name: -scores[name].accuracy) for scores in (unseen, random)]
print(f"\nbest on unseen speakers: {orders[0][0]}; best by the random split: {orders[1][0]}")

# %%
figure, ax = plt.subplots(figsize=(9.5, 2.6), layout="constrained")
for y, name in enumerate(embeddings):
    for scores, colour, label in (
        (unseen, report.PALETTE[0], "unseen speakers"),
        (random, report.PALETTE[1], "random split"),
    ):
        low, high = scores[name].accuracy_interval
        ax.plot([100 * low, 100 * high], [y, y], color=colour, lw=5, alpha=0.3, solid_capstyle="butt")
        ax.plot(100 * scores[name].accuracy, y, "o", color=colour, label=label if y == 0 else None)
ax.axvline(100 / len(classes), color="grey", ls=":", label="chance")
ax.set(yticks=range(len(embeddings)), yticklabels=embeddings, xlim=(0, 100), ylim=(-0.5, len(embeddings) - 0.4))
ax.set(xlabel="accuracy (%), bar: 95 % interval", title="one question, two splits")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The same vectors, the same classifier, the same clips: only the split differs. And the leak is not a constant that one
# could subtract: it differs between embeddings, so that a random split can rank them wrongly. A table whose folds do
# not separate the speakers may show how well each method recognises people.
#
# Be as critical of the fair column. Where plain statistics are level with the network, or ahead of it, that is the
# result: for a linear classifier and words this short, the spectrum itself holds most of what is needed. Fine-tuning
# the network is another question; `make demo` answers it.
#
# ## How sure?
#
# The interval answers: what if other people had been recorded? It resamples *speakers*, not clips. Clips of one person
# resemble each other, so they are not independent; an interval over clips is too narrow, and more clips of the same
# people would make it narrower still without any information about the next person. With so few speakers even the
# interval over speakers is a rough guess.

# %%
per_speaker = {
    name: [100 * np.mean(digits[speakers == s] == np.array(score.predicted)[speakers == s]) for s in names]
    for name, score in unseen.items()
}
figure, ax = plt.subplots(figsize=(9.5, 2.9), layout="constrained")
width = 0.8 / len(per_speaker)
for k, (name, values) in enumerate(per_speaker.items()):
    x = np.arange(len(names)) + (k - (len(per_speaker) - 1) / 2) * width
    ax.bar(x, values, width * 0.92, color=report.PALETTE[(8, 3, 0)[k]], label=name)
ax.axhline(100 / len(classes), color="grey", ls=":", label="chance")
labels = [f"{name}\n({'yes' if heard[name] else 'no'})" for name in names]
ax.set_xticks(range(len(names)), labels)
ax.set_xlabel("speaker (in the pretraining data?)")
ax.set(ylabel="accuracy (%)", ylim=(0, 100), title="each speaker, by a probe trained on the others")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

values = per_speaker["small, last layer"]
print(
    f"small, last layer: {min(values):.0f} % for {names[np.argmin(values)]}, {max(values):.0f} % for {names[np.argmax(values)]}"
)
for state in (True, False):
    mean = np.mean([value for name, value in zip(names, values, strict=True) if heard[name] == state])
    print(f"mean of the speakers whose recordings were {'' if state else 'not '}in pretraining: {mean:.0f} %")

# %% [markdown]
# ## Which layer?
#
# Pretraining makes the last layer predict the hidden targets, not your classes. Earlier layers may be better, so look at
# all of them. But choosing the best point of this figure would again be a leak, a small one: the test speakers would
# have chosen. `mixture` avoids it: a weighted mean of the layers, whose weights each fold chooses on its training
# speakers.

# %%
named = {f"layer {layer}": vectors_NLD[:, layer] for layer in range(layers)}
with contextlib.redirect_stderr(io.StringIO()):  # no progress lines here, however slow the machine
    result = probe_vectors(named, digits, speakers, label="digit", folds=len(names))
print(result)

figure, ax = plt.subplots(figsize=(9.5, 3), layout="constrained")
*by_layer, mixture = result.scores
low, high = 100 * np.array([score.accuracy_interval for score in by_layer]).T
ax.fill_between(range(layers), low, high, color=report.PALETTE[0], alpha=0.15, lw=0)
ax.plot(range(layers), [100 * score.accuracy for score in by_layer], "o-", color=report.PALETTE[0], label="one layer")
for name, score, colour in (
    ("mixture", mixture, report.PALETTE[2]),
    ("log-mel statistics", unseen["log-mel statistics"], report.PALETTE[8]),
    ("random weights", unseen["random weights"], report.PALETTE[3]),
):
    ax.axhline(100 * score.accuracy, color=colour, ls="--", lw=1.2, label=name)
ax.axhline(100 / len(classes), color="grey", ls=":", label="chance")
ax.set(xlabel="layer (0: input of the first)", ylabel="accuracy (%)", ylim=(0, 100), title="digits of unseen speakers")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## Take the voice away
#
# If the voice is the problem, subtract it: the mean over all clips of a speaker, whatever the digit, is a fair estimate
# of what that speaker adds to every vector. This needs several unlabeled clips of the test speaker, so it is a
# different task, to be reported as such. Where it is allowed (a call centre, a therapy session, an archive of one
# narrator) it is the cheapest improvement.

# %%
same_NN = speakers[:, None] == speakers
average_NN = same_NN / same_NN.sum(axis=1, keepdims=True)  # averages over a clip's speaker; no label is used

print(f"accuracy in %, unseen speakers  {'as they are':>20s} {'minus the voice':>20s}")
for name, vectors_ND in embeddings.items():
    voiceless = probe(vectors_ND - average_NN @ vectors_ND, speakers)
    print(f"{name:30s} {percent(unseen[name]):>20s} {percent(voiceless):>20s}")

# %% [markdown]
# ## What goes wrong
#
# A single accuracy hides which classes are confused. Rows are the spoken digits, columns the predictions of the probe on
# the mixture; all speakers were unseen.

# %%
words = {clip.label: clip.text for clip in clips}
confusion_CC = np.array(mixture.confusion)
figure, ax = plt.subplots(figsize=(6.2, 4.8), layout="constrained")
image = ax.imshow(confusion_CC, cmap="Blues")
for i, j in np.ndindex(confusion_CC.shape):
    if confusion_CC[i, j]:
        dark = confusion_CC[i, j] > confusion_CC.max() / 2
        ax.text(j, i, confusion_CC[i, j], ha="center", va="center", fontsize=8, color="white" if dark else "black")
ticks = [words[c] for c in result.classes]
ax.set_xticks(range(len(ticks)), ticks, rotation=45)
ax.set_yticks(range(len(ticks)), ticks)
ax.set(xlabel="predicted", ylabel="spoken", title="digits of unseen speakers (clips)")
figure.colorbar(image, ax=ax, shrink=0.8, label="clips")
plt.show()

recall_C = confusion_CC.diagonal() / confusion_CC.sum(axis=1)
print(
    f"easiest: {ticks[recall_C.argmax()]} ({recall_C.max():.0%}), hardest: {ticks[recall_C.argmin()]} ({recall_C.min():.0%})"
)

# %% [markdown]
# Always listen to some of the errors. Here is one clip of each of the most frequent confusions. Would you have known?

# %%
predicted = np.array(mixture.predicted)
errors_CC = confusion_CC - np.diag(confusion_CC.diagonal())
for index in errors_CC.ravel().argsort()[::-1][:4]:
    said, answered = (result.classes[i] for i in np.unravel_index(index, errors_CC.shape))
    clip = clips[int(np.flatnonzero((digits == said) & (predicted == answered))[0])]
    print(
        f'{clip.speaker} says "{words[said]}", predicted: "{words[answered]}" ({errors_CC.ravel()[index]} such errors)'
    )
    display(Audio(filename=clip.path, embed=True))

# %% [markdown]
# ## On your own corpus
#
# Three commands do all of this. `prepare` finds every recording in a folder, decodes and checks it, and lists what is
# usable with speaker and label: for the corpora it knows (LibriSpeech, Common Voice, CREMA-D, RAVDESS, EmoDB, FSDD)
# from their layout, otherwise fill in the columns `speaker` and `label` of the table it writes, in any spreadsheet.
# `embed` writes one row per clip, and `probe` reads them.
#
# The next cell runs the commands, through the function that the shell calls, on a small folder of recordings.

# %%
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "recordings").mkdir()
    for clip in clips:
        if clip.id.endswith(("_0", "_1", "_2")):
            shutil.copy(clip.path, Path(folder) / "recordings")
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):  # no progress bars here
        for command in (
            "prepare recordings --out all.tsv",
            "embed small all.tsv --out embeddings.parquet --pool mean+max --layer 0",
            "probe embeddings.parquet --label label --group speaker --folds 6 --out result.json",
        ):
            print(f"$ speechssl {command}")
            cli.main(command.split())
            print()

# %% [markdown]
# `--layer all` makes `probe` score every layer and their mixture, as above. `--group` takes any column: the session,
# the microphone, the village. Choose what will be new to your classifier when it is used; the number then answers that
# question.
#
# Before you believe a number, your own included:
#
# - Is everything that repeats (speaker, room, session, script) on one side of the split?
# - Do log-mel statistics or random weights do as well?
# - What does the interval resample, and how many of those are there?
# - Who chose the layer and the regularisation: the training groups, or the test?
#
# [What the model hears](01_what_the_model_hears.ipynb) shows where the vectors come from; the [README](../README.md)
# continues with fine-tuning and pretraining on your own recordings.
