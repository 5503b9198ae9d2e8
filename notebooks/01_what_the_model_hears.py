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
# # What the model hears
#
# wav2vec 2.0 learns from speech without a single transcript. It hides parts of a recording from itself and then has to
# find out, from the rest, which sound was hidden. This tour follows one sentence through every stage: samples, frames,
# the batch, the mask, the codes, the contrast, and the representations of the layers.
#
# Everything here is a public part of `speechssl`, used as in training. No number in the text was typed by hand: the
# cells compute them, so they change with the weights and the sentence. Put your own recording into the next cell and
# run all.

# %%
import warnings
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Audio, display

import speechssl
from speechssl.core.noise import noise_key
from speechssl.core.packed import pack, segments
from speechssl.data.loader import Item
from speechssl.data.tables import read_manifest
from speechssl.models.wav2vec2.quantizer import perplexity
from speechssl.objectives.contrastive import contrastive
from speechssl.objectives.masking import span_mask
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.score.report import PALETTE, draw_spectrogram
from speechssl.sound import audio
from speechssl.train.recipe import parse_recipe

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 72, "legend.frameon": False})
plt.rcParams.update({"axes.titlesize": 11, "axes.titlelocation": "left", "figure.constrained_layout.use": True})
warnings.filterwarnings("ignore", "IProgress")  # tqdm's, where ipywidgets is missing
_ = torch.set_grad_enabled(False)  # nothing is trained here

model = speechssl.load("small-wav2vec2")
network, geometry = model.model, model.config.geometry
recipe = parse_recipe("pretrain", Path("../recipes/small/pretrain.toml"))

sentences = read_manifest("../data/librispeech_test.tsv")
sentence = sentences[8]
wave_S = audio.load(sentence.path)

print(f"speaker {sentence.speaker}, who is in no training set: {sentence.text}")
display(Audio(filename=sentence.path, embed=True))

# %% [markdown]
# ## From samples to frames
#
# A stack of convolutions reads the raw samples. Each layer keeps every second to fifth step of the one below, so the
# output is slow: one vector of features, a *frame*, per hop. The convolutions were never given frequencies, yet
# silences, vowels and hisses leave different patterns in their features (bottom), as they do in the spectrogram
# (middle), which is only shown for comparison.

# %%
batch = pack([wave_S], geometry, normalise=model.config.do_normalize)
encoded = network.wav2vec2(batch)

seconds = len(wave_S) / audio.SAMPLE_RATE
features_TC = encoded.normed_TC.numpy()
scaled_TC = (features_TC - features_TC.mean(axis=0)) / features_TC.std(axis=0)
order = np.argsort(np.linalg.svd(scaled_TC, full_matrices=False)[2][0])[::4]  # neighbours in the figure behave alike

figure, axes = plt.subplots(3, 1, figsize=(9.5, 6), sharex=True)
axes[0].plot(np.arange(len(wave_S)) / audio.SAMPLE_RATE, wave_S, lw=0.4, color=PALETTE[0])
axes[0].set(title="waveform", ylabel="amplitude", xlim=(0, seconds))
draw_spectrogram(axes[1], wave_S)
axes[1].set_title("log-mel spectrogram (the model never sees it)")
axes[2].imshow(
    scaled_TC.T[order],
    aspect="auto",
    cmap=plt.get_cmap("RdBu_r", 17),
    vmin=-2,
    vmax=2,
    extent=(0, batch.frames[0] / model.frame_rate, 0, len(order)),
    interpolation="none",
)
axes[2].set(
    title="features of the convolutions, each standardised over time (one in four is shown)",
    ylabel="feature",
    xlabel="seconds",
)
axes[2].set_yticks([])
plt.show()

milliseconds = 1000 / audio.SAMPLE_RATE
print(f"{len(wave_S):,} samples -> {batch.frames[0]} frames of {features_TC.shape[1]} features")
print(
    f"a frame every {geometry.hop * milliseconds:g} ms (the hop, {geometry.hop} samples), "
    f"each sees {geometry.receptive_field * milliseconds:g} ms"
)

# %% [markdown]
# ## A batch is a stream
#
# Utterances differ in length. The usual batch is a rectangle: every utterance is padded with zeros to the longest. Here
# a batch is one long stream instead, utterances end to end, each starting on a multiple of the hop. Only the few frames
# whose receptive field would reach into the next utterance are dropped (grey).

# %%
digits = read_manifest("../data/fsdd.tsv").where("speaker=george")
three = [next(row for row in digits if row.label == label) for label in ("7", "8", "2")]
packed = pack([audio.load(row.path) for row in three], geometry, normalise=True)
low, high = packed.stream_N.min().item(), packed.stream_N.max().item()
boxes = (1.3 * low, -0.25 * low)  # where the frames are drawn, and how high

figure, ax = plt.subplots(figsize=(9.5, 2.4))
ax.broken_barh(
    [(i / model.frame_rate, 1 / model.frame_rate) for i in range(len(packed.stream_N) // geometry.hop)],
    boxes,
    facecolors="lightgrey",
    edgecolors="white",
)
begin = 0
for row, samples, rows, colour in zip(three, packed.samples, segments(packed.frames), PALETTE, strict=False):
    time_S = (begin + np.arange(samples)) / audio.SAMPLE_RATE
    ax.plot(time_S, packed.stream_N[begin : begin + samples], lw=0.5, color=colour)
    frames = packed.valid_T[rows].tolist()
    ax.broken_barh(
        [(i / model.frame_rate, 1 / model.frame_rate) for i in frames], boxes, facecolors=colour, edgecolors="white"
    )
    ax.text(time_S[0], 1.1 * high, f'"{row.text}": {len(frames)} frames', color=colour)
    begin += -(-samples // geometry.hop) * geometry.hop
ax.set(title="three spoken digits as one stream; the boxes are frames", xlabel="seconds of the stream")
ax.set(ylabel="amplitude / its std", ylim=(1.35 * low, 1.4 * high))
plt.show()

# %% [markdown]
# The benefit is easy to state and rare to find: **the result for an utterance does not depend on its batch mates.**
# Below, all sentences of the manifest go through the model together, then each one by itself. The largest difference
# over every layer, frame and number is no more than rounding.

# %%
waves = [audio.load(row.path) for row in sentences]
together = model.hidden_states(waves)
alone = [model.hidden_states([wave])[0] for wave in waves]
difference = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
typical = float(torch.cat([states.flatten() for states in alone]).std())

packed = pack(waves, geometry)
speech = sum(packed.samples)
print(
    f"{len(waves)} sentences of {min(packed.samples) / audio.SAMPLE_RATE:.1f} to {max(packed.samples) / audio.SAMPLE_RATE:.1f} s"
)
print(f"largest difference, together or alone: {difference:.1e} (standard deviation of the numbers: {typical:.1f})")
print(f"samples that are not speech: {1 - speech / len(packed.stream_N):.1%} of the stream, ", end="")
print(f"{1 - speech / (len(waves) * max(packed.samples)):.1%} of a padded rectangle")

# %% [markdown]
# ## The mask
#
# Training hides spans of frames: after the convolutions, one learned vector that stands for "hidden" replaces their
# vectors. Spans may overlap. Their places are a function of the seed, the pass over the corpus (epoch) and the
# utterance, never of a hidden random state, so a resumed run hides the same frames as an uninterrupted one. Every epoch
# hides different frames.

# %%
frames = batch.frames[0]
settings = recipe.objective
masks_ET = np.stack(
    [
        span_mask(frames, settings.mask_prob, settings.mask_length, noise_key("mask", 1, epoch, sentence.id))
        for epoch in range(12)
    ]
)

figure, axes = plt.subplots(2, 1, figsize=(9.5, 4), sharex=True)
draw_spectrogram(axes[0], wave_S)
for start in np.flatnonzero(masks_ET[0]):
    axes[0].axvspan(start / model.frame_rate, (start + 1) / model.frame_rate, color="white", alpha=0.75, lw=0)
axes[0].set_title("what is left to see in the first epoch")
axes[1].imshow(
    ~masks_ET,
    aspect="auto",
    cmap="Greys_r",
    extent=(0, frames / model.frame_rate, 12.5, 0.5),
    interpolation="none",
    vmin=-1,
)
axes[1].set(title="hidden frames (grey) in each epoch", xlabel="seconds", ylabel="epoch", yticks=[1, 4, 8, 12])
plt.show()

span = settings.mask_length * geometry.hop * milliseconds
print(f"spans of {settings.mask_length} frames ({span:g} ms); hidden on average: {masks_ET.mean():.0%} of the frames")

# %% [markdown]
# ## The codes
#
# What should the model predict? The samples themselves would be a poor target: most of their detail is noise, room and
# microphone. So the features of each frame are *quantised*: from each of a few small codebooks the best entry is
# chosen, and the vectors of these entries together are the target. The codebooks are learned with everything else.
#
# Below, each colour is a codebook entry and similar colours are similar vectors; runs of frames with the same entry
# carry its number.

# %%
quantised = network.quantizer(encoded.normed_TC, None, 1.0)
codes_TG = quantised.codes_MG
groups, entries = network.quantizer.groups, network.quantizer.entries
codebook_GVD = network.quantizer.codevectors.view(groups, entries, -1)


def colours(vectors_VD: torch.Tensor) -> np.ndarray:
    """A colour for each entry (V, 3): the ranks of its first three principal components."""
    scores_VC = torch.pca_lowrank(vectors_VD, q=3, niter=10)[0].numpy()
    return 0.15 + 0.8 * scores_VC.argsort(axis=0).argsort(axis=0) / (len(scores_VC) - 1)


torch.manual_seed(1)
colours_GVC = [colours(vectors_VD) for vectors_VD in codebook_GVD]


def draw_codes(ax, codes_T: np.ndarray, colours_VC: np.ndarray, numbered: int = 0) -> None:
    """A strip of coloured frames; runs of at least `numbered` frames carry the entry's number."""
    ax.imshow(
        colours_VC[codes_T][None],
        aspect="auto",
        extent=(0, len(codes_T) / model.frame_rate, 0, 1),
        interpolation="none",
    )
    ax.set(yticks=[])
    edges = np.flatnonzero(np.diff(codes_T, prepend=-1, append=-1))
    for a, b in pairwise(edges):
        if numbered and b - a >= numbered:
            middle, dark = (a + b) / 2 / model.frame_rate, colours_VC[codes_T[a]].mean() < 0.5
            ax.text(
                middle, 0.5, str(codes_T[a]), ha="center", va="center", fontsize=7, color="white" if dark else "black"
            )


figure, axes = plt.subplots(1 + groups, 1, figsize=(9.5, 3.8), sharex=True, height_ratios=[3] + [1] * groups)
draw_spectrogram(axes[0], wave_S)
axes[0].set_title(f'"{sentence.text.lower()}"')
for g in range(groups):
    draw_codes(axes[1 + g], codes_TG[:, g].numpy(), colours_GVC[g], numbered=3)
    axes[1 + g].set_ylabel(f"book {g + 1}", rotation=0, ha="right", va="center")
axes[-1].set_xlabel("seconds")
plt.show()

for g in range(groups):
    usage_V = torch.bincount(codes_TG[:, g], minlength=entries) / len(codes_TG)
    changes = int((codes_TG[1:, g] != codes_TG[:-1, g]).sum())
    lasts = 1000 * len(codes_TG) / (changes + 1) / model.frame_rate
    print(
        f"codebook {g + 1}: {int((usage_V > 0).sum())} of {entries} entries occur, perplexity {perplexity(usage_V[None]):.1f} "
        f"(as if so many were used equally often), an entry lasts {lasts:.0f} ms"
    )
print(f"pairs: {len(codes_TG.unique(dim=0))} occur in these {len(codes_TG)} frames, {entries**groups} are possible")

# %% [markdown]
# ### The same word, other voices
#
# Are codes phones? Compare one word spoken by six people. If a code were a phone, the rows would show the same colours
# in the same order. If it were a voice, each row would have colours of its own.

# %%
table = read_manifest("../data/fsdd.tsv")
takes = table.select(i for i, row in enumerate(table) if row.id.endswith(("_0", "_1")))
spoken, voices = np.array(takes.column("label")), np.array(takes.column("speaker"))
batch_of_digits = pack([audio.load(row.path) for row in takes], geometry, normalise=model.config.do_normalize)
codes_of_digits = network.quantizer(network.wav2vec2(batch_of_digits).normed_TC, None, 1.0).codes_MG.numpy()
codes = [codes_of_digits[rows] for rows in segments(batch_of_digits.frames)]

word, names = "6", sorted(set(voices))
figure, axes = plt.subplots(len(names), groups, figsize=(9.5, 3.4), sharex=True)
for axes_of_name, name in zip(axes, names, strict=True):
    clip = codes[np.flatnonzero((spoken == word) & (voices == name))[0]]
    for g, ax in enumerate(axes_of_name):
        draw_codes(ax, clip[:, g], colours_GVC[g], numbered=2)
    axes_of_name[0].set_ylabel(name, rotation=0, ha="right", va="center")
longest = max(len(codes[i]) for i in np.flatnonzero(spoken == word) if takes[i].id.endswith("_0"))
for g in range(groups):
    axes[0, g].set(title=f'"six", codebook {g + 1}', xlim=(0, longest / model.frame_rate))
    axes[-1, g].set_xlabel("seconds")
plt.show()

# %% [markdown]
# There is some of both. To measure it, count how often each clip uses each entry, and take the overlap of the counts of
# two clips (the share that both have in common). If the codes follow what is said, clips of the same digit overlap more
# than others; if they follow who speaks, clips of the same speaker do.

# %%
usage_BGV = np.stack([[np.bincount(c[:, g], minlength=entries) / len(c) for g in range(groups)] for c in codes])
overlap_BB = np.minimum(usage_BGV[:, None], usage_BGV[None]).sum(axis=-1).mean(axis=-1)
same_digit, same_voice = spoken[:, None] == spoken, voices[:, None] == voices
others = ~np.eye(len(spoken), dtype=bool)
print("overlap of the codes of two clips     same speaker   other speaker")
for name, digit in (("same digit", same_digit), ("other digit", ~same_digit)):
    cells = [overlap_BB[digit & voice & others].mean() for voice in (same_voice, ~same_voice)]
    print(f"{name:35s} {cells[0]:14.0%} {cells[1]:15.0%}")

# %% [markdown]
# ## The contrast
#
# Now the task itself. The transformer reads the frames with their gaps and produces a *context* vector at every hidden
# frame. That vector should resemble the true target of the frame more than the *distractors*: targets drawn at random
# from the other hidden frames of the same utterance. Voice, room and microphone are the same, so they do not reveal the
# answer; only knowledge of how speech continues does.
#
# `Wav2Vec2.collate` draws mask and distractors, and `contrastive` scores them, exactly as in training.

# %%
objective = Wav2Vec2(recipe, network).eval()
hidden = objective.collate([Item(wave_S=wave_S, id=sentence.id, epoch=0)])
assert (hidden.mask_T.numpy() == masks_ET[0]).all()  # the mask from above

seen = network.wav2vec2(hidden.audio, hidden.mask_T)
answer = objective.quantise(seen.normed_TC[hidden.mask_T], hidden, objective.before_update(0, [hidden]))
context_MD = network.project_hid(seen.states[-1][hidden.mask_T])
target_MD = network.project_q(answer.q_MD)
counts_MM = hidden.distractors.view(hidden.count, hidden.count)
_, correct = contrastive(context_MD, target_MD, answer.codes_MG, counts_MM, settings.logit_temperature)

similarity_MM = (F.normalize(context_MD, dim=1) @ F.normalize(target_MD, dim=1).T).numpy()
same_codes_MM = (
    (answer.codes_MG[:, None] == answer.codes_MG[None]).all(dim=-1).numpy()
)  # an equal target is no distractor
distractor_MM = (counts_MM.numpy() > 0) & ~same_codes_MM
true_M, false_M = np.diagonal(similarity_MM), similarity_MM[distractor_MM]

time_M = (np.flatnonzero(masks_ET[0]) + 0.5) / model.frame_rate
best_M = np.array([row[chosen].max() for row, chosen in zip(similarity_MM, distractor_MM, strict=True)])
worst_M = np.array([row[chosen].min() for row, chosen in zip(similarity_MM, distractor_MM, strict=True)])
won_M = true_M > best_M

figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=[2, 1], sharey=True)
axes[0].vlines(
    time_M, worst_M, best_M, color=PALETTE[8], alpha=0.35, lw=2.5, label="its distractors, from worst to best"
)
for won, face, name in ((True, PALETTE[1], "its true target, found"), (False, "white", "its true target, missed")):
    axes[0].scatter(
        time_M[won_M == won], true_M[won_M == won], s=16, color=face, edgecolors=PALETTE[1], zorder=3, label=name
    )
axes[0].set(
    title="every hidden frame: its context resembles ...", xlabel="seconds", ylabel="cosine similarity", ylim=(-1, 1.45)
)
axes[0].legend(loc="upper left", ncols=3, fontsize=8, columnspacing=1, handletextpad=0.4)
bins = np.linspace(-1, 1, 31)
style = dict(bins=bins, density=True, alpha=0.6, orientation="horizontal")
axes[1].hist(false_M, **style, color=PALETTE[8], label="distractors")
axes[1].hist(true_M, **style, color=PALETTE[1], label="true target")
axes[1].set(title="all of them", xlabel="density")
axes[1].legend(loc="upper right", fontsize=8)
plt.show()

beaten = np.mean([(similarity_MM[i][distractor_MM[i]] < true_M[i]).mean() for i in range(hidden.count)])
print(f"{hidden.count} hidden frames, {settings.num_negatives} distractors drawn for each (with replacement)")
print(f"mean similarity: {true_M.mean():.2f} to the true target, {false_M.mean():.2f} to a distractor")
print(f"the true target beats {beaten:.0%} of its distractors on average, and all of them for {int(correct)} frames")
assert won_M.sum() == correct  # the figure and the loss agree

# %% [markdown]
# Note two things. Long spans make a valley: at their edges the context still has neighbours to rely on, in the middle it
# must know how speech continues. And in silence the target is nearly always missed although the context is close to it,
# because the distractors from the same silence are just as close; there is nothing to choose by.
#
# A single mask is a small sample. Hide the same sentence many times (other epochs, other masks; batch mates do not
# matter, so all of them form one batch), and compare the accuracy with two references: chance, that is a random choice
# among the different targets on offer, and the same architecture with random weights, which has convolutions, codes and
# a transformer but has learned nothing.

# %%
items = [Item(wave_S=wave_S, id=sentence.id, epoch=epoch) for epoch in range(24)]


def measure(network) -> dict[str, float]:
    """The metrics that the training log would have for this sentence."""
    objective = Wav2Vec2(recipe, network).eval()
    batch = objective.collate(items)
    sums = objective(batch, objective.before_update(0, [batch])).sums
    return {name: float(numerator) / float(denominator) for name, (numerator, denominator) in sums.items()}


offered_MM = distractor_MM | np.eye(hidden.count, dtype=bool)
chance = np.mean([1 / len(answer.codes_MG[row].unique(dim=0)) for row in torch.from_numpy(offered_MM)])
learned, blank = measure(network), measure(model.untrained().model)

print(f"{'':18s} {'accuracy':>9s} {'contrastive loss':>17s}")
print(f"{'chance':18s} {chance:9.1%} {np.log(settings.num_negatives + 1):12.2f} nats")
print(f"{'random weights':18s} {blank['accuracy']:9.1%} {blank['contrastive']:12.2f} nats")
print(f"{'small-wav2vec2':18s} {learned['accuracy']:9.1%} {learned['contrastive']:12.2f} nats")

# %% [markdown]
# ## What the layers know
#
# The loss sees the last layer only, and the layers before it are free to become whatever helps. One way to look inside
# without any labels is to ask which moments of the sentence are alike in each layer: the cosine similarity of every
# frame with every other one (each dimension is standardised over time first, so that none dominates). Blocks on the
# diagonal are parts that a layer treats as one unit; blocks elsewhere are sounds that return. Silence returns most.

# %%
states_LTD = model.hidden_states([wave_S])[0]


def self_similarity(states_LTD: torch.Tensor) -> np.ndarray:
    """Cosine of every pair of frames in every layer (L, T, T)."""
    scaled_LTD = (states_LTD - states_LTD.mean(dim=1, keepdim=True)) / states_LTD.std(dim=1, keepdim=True)
    scaled_LTD = F.normalize(scaled_LTD, dim=-1)
    return (scaled_LTD @ scaled_LTD.transpose(1, 2)).numpy()


similarity_LTT = self_similarity(states_LTD)
few_colours = plt.get_cmap("RdBu_r", 17)
layers = np.linspace(0, len(states_LTD) - 1, 4).astype(int)
figure, axes = plt.subplots(1, len(layers), figsize=(9.5, 3), sharey=True)
extent = (0, frames / model.frame_rate, frames / model.frame_rate, 0)
for ax, layer in zip(axes, layers, strict=True):
    image = ax.imshow(similarity_LTT[layer], cmap=few_colours, vmin=-0.8, vmax=0.8, extent=extent, interpolation="none")
    ax.set(title="input of layer 1" if layer == 0 else f"output of layer {layer}", xlabel="seconds")
axes[0].set_ylabel("seconds")
figure.colorbar(image, ax=axes, shrink=0.7, label="cosine")
plt.show()

# %% [markdown]
# How long does a layer remember a moment? Average the similarity over all pairs of frames that are equally far apart.
# The curve falls slowly in a layer whose frames contain their surroundings. The dashed curve is the last layer with
# random weights: the distance between it and the solid curves was learned.

# %%
lags = np.arange(int(0.6 * model.frame_rate))
blank_TT = self_similarity(model.untrained().hidden_states([wave_S])[0])[-1]
figure, ax = plt.subplots(figsize=(9.5, 3.2))
shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(states_LTD)))
for layer, (similarity_TT, shade) in enumerate(zip(similarity_LTT, shades, strict=True)):
    curve = [np.diagonal(similarity_TT, lag).mean() for lag in lags]
    ax.plot(1000 * lags / model.frame_rate, curve, color=shade, label=f"layer {layer}" if layer else "input")
curve = [np.diagonal(blank_TT, lag).mean() for lag in lags]
ax.plot(1000 * lags / model.frame_rate, curve, color="grey", ls="--", label="random, last")
ax.axhline(0, color="lightgrey", lw=0.8, zorder=0)
ax.set(xlabel="time between two frames (ms)", ylabel="mean cosine similarity", title="how long a layer remembers")
ax.legend(ncols=2)
plt.show()

for layer, similarity_TT in enumerate(similarity_LTT):
    half = next((lag for lag in lags if np.diagonal(similarity_TT, lag).mean() < 0.5), None)
    reach = f"{1000 * half / model.frame_rate:.0f} ms" if half else "more than the figure shows"
    print(f"{f'layer {layer}' if layer else 'input':8s} similarity falls below one half within {reach}")

# %% [markdown]
# ## Where to go from here
#
# - [From embeddings to a classifier](02_from_embeddings_to_a_classifier.ipynb) asks what these vectors are good for, on
#   unseen speakers.
# - `speechssl pretrain recipes/small/pretrain.toml --train all.tsv --out runs/mine` trains on your own recordings, and
#   with `speechssl.load("runs/mine")` in the first cell this tour shows what that model learned.
# - The code in the order of this tour: `core/packed.py`, `models/wav2vec2/encoder.py`, `objectives/masking.py`,
#   `models/wav2vec2/quantizer.py`, `objectives/contrastive.py`, `objectives/wav2vec2.py`, `models/wav2vec2/context.py`.
