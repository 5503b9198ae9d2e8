"""The HTML page of an evaluation: rates, groups, confusions, confidences, and every utterance aligned, to read and to hear."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from speechssl.data.channels import segment_of
from speechssl.data.manifest import Manifest
from speechssl.score.calibration import Calibration
from speechssl.score.edits import Scored, Step, visible
from speechssl.score.report import Html, Page, linked_player, player
from speechssl.score.wer import ErrorRates, Group

EMBEDDED = 300.0  # seconds of audio inside the page, about 6 MB
SHOWN = 2000  # utterances; more would be slow to open
GROUPS = 500
NAMES = {"S": "substituted", "D": "deleted", "I": "inserted"}
STYLE = """<style>
:root{--bad:#b3261e;--gone:#8a5a00;--more:#00617a;--tint:#b3261e14;--gonetint:#8a5a0018;--moretint:#00617a16}
@media(prefers-color-scheme:dark){:root{--bad:#ff9b91;--gone:#f3bd5a;--more:#74d1ec;--tint:#ff9b911f;--gonetint:#f3bd5a1f;--moretint:#74d1ec1f}}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;margin:.7rem 0;
content-visibility:auto;contain-intrinsic-size:auto 9rem}
article header{display:flex;flex-wrap:wrap;gap:.2rem .9rem;align-items:center;color:var(--soft);font-size:.85rem}
article header b{color:var(--ink);overflow-wrap:anywhere}article header audio{margin-inline-start:auto;max-width:100%}
.pair{display:flex;flex-wrap:wrap;gap:.5rem .35rem;margin-top:.5rem;line-height:1.35}.pair.tight{gap:.5rem .1rem}
.pair span{display:flex;flex-direction:column;align-items:center;padding:0 .2rem;border-radius:4px;min-width:1ch}
.pair i{font-style:normal;color:var(--soft)}.pair span>*{overflow-wrap:anywhere}
.pair b{font-weight:600}.pair .S{background:var(--tint)}.pair .D{background:var(--gonetint)}.pair .I{background:var(--moretint)}
.pair .S b{color:var(--bad);text-decoration:underline wavy;text-underline-offset:.2em}
.pair .D i{color:var(--gone);text-decoration:line-through}.pair .I b{color:var(--more)}.pair .I b:before{content:"+"}
.two{display:flex;flex-wrap:wrap;gap:0 1.5rem;align-items:start}.two>*{max-width:100%}
td{white-space:nowrap;padding-block:.25rem}
summary{cursor:pointer;margin:1rem 0}
svg{max-width:32rem;width:100%;height:auto;color:var(--ink)}svg text{font-size:11px;fill:currentColor}
</style>"""


def write_page(
    path: Path,
    titles: dict[str, str],
    scores: ErrorRates,
    rows: Manifest,
    scored: Sequence[Scored],
    seconds: Sequence[float],
) -> None:
    """The scores of `rows` as one page. titles: model and test. scored, seconds: of each row."""
    page = Page(f"{titles['model']} on {titles['test']}").markup(Html(STYLE)).text(scores.summary())
    for note in scores.notes():
        page.text(f"{note}.", note=True)
    both = {"words": scores.words, "characters": scores.characters}
    page.table(
        [
            {
                "counted in": name,
                "rate": scores.wer if name == "words" else scores.cer,
                "of the reference": edits.units,
                "correct": edits.correct,
                "substituted": edits.substitutions,
                "deleted": edits.deletions,
                "inserted": edits.insertions,
            }
            for name, edits in both.items()
        ]
    )
    for column, groups in scores.groups.items():
        page.heading(f"By {column}")
        if len(groups) > GROUPS:
            page.text(f"The {GROUPS} worst of {len(groups)}; scores.json holds all.", note=True)
        page.table([group_row(column, group) for group in groups[:GROUPS]], sorts=True)
    page.heading("Most confused").text("The commonest errors; · is none: inserted, or deleted.", note=True)
    page.markup(Html("<div class=two>"))
    for name, confused in (("words", scores.confused_words), ("characters", scores.confused_characters)):
        heads = (name, "recognised as", "times")
        lines = [(visible(said), visible(heard), count) for said, heard, count in confused]
        if lines:
            page.table([dict(zip(heads, line, strict=True)) for line in lines], sorts=True)
    page.markup(Html("</div>"))
    if scores.calibration:
        page.heading("Confidence").text(f"The {scores.calibration}.")
        page.markup(reliability_plot(scores.calibration))
        page.table(
            [
                {
                    "confidence": f"{one.low:.1f} to {one.high:.1f}",
                    "words": one.count,
                    "mean confidence": f"{one.confidence:.3f}",
                    "right": f"{one.accuracy:.3f}",
                }
                for one in scores.calibration.bins
            ]
        )
    add_utterances(page, path, scores, rows, scored, seconds)
    page.save(path)


def group_row(column: str, group: Group) -> dict[str, object]:
    """A line of a table of groups."""
    edits = group.words
    return {
        column: group.name,
        "utterances": group.utterances,
        "words": edits.units,
        "WER": group.shown("wer"),
        "CER": group.shown("cer"),
        "sub.": edits.substitutions,
        "del.": edits.deletions,
        "ins.": edits.insertions,
    }


def add_utterances(
    page: Page, path: Path, scores: ErrorRates, rows: Manifest, scored: Sequence[Scored], seconds: Sequence[float]
) -> None:
    """Every utterance, those with most errors first; those without an error, or without a reference, can be unfolded."""

    def errors(i: int) -> int:
        return (scored[i].word_edits if scores.headline == "wer" else scored[i].character_edits).errors

    order = sorted(range(len(scored)), key=lambda i: (-errors(i), -scored[i].character_edits.errors))
    cards, room = {i: Html() for i in order[:SHOWN]}, EMBEDDED
    for i in cards:
        row = rows[i]
        inside = 0 < seconds[i] <= room
        room -= seconds[i] if inside else 0
        sound = player(row.path, **segment_of(row)) if inside else linked_player(row.path, path, row.start, seconds[i])
        cards[i] = card(scored[i], seconds[i], sound)
    page.heading("Utterances")
    page.text(
        f"Above the reference, below what was recognised: a wavy line is substituted, struck through is deleted (· below), "
        f"+ is inserted (· above). The most errors come first. The first {EMBEDDED:g} seconds of audio are inside this "
        "page; other players read the original files, which must stay where they are and be of a format that the browser knows.",
        note=True,
    )
    if len(order) > SHOWN:
        page.text(f"The {SHOWN} utterances with most errors of {len(order)}; utterances.tsv holds all.", note=True)
    wrong = [i for i in cards if errors(i)]
    page.markup(Html("".join(cards[i] for i in wrong)))
    for name, some in (
        ("without an error", [i for i in cards if scored[i].words and not errors(i)]),
        ("with an empty reference, not counted", [i for i in cards if not scored[i].words]),
    ):
        if some:
            body = "".join(cards[i] for i in some)
            page.markup(Html(f"<details><summary>{len(some)} utterances {name}</summary>{body}</details>"))


def card(one: Scored, seconds: float, sound: Html) -> Html:
    """An utterance: name, counts, player, and the alignment from right to left where its first letter is written so."""
    edits = one.word_edits
    counts = [
        f"{n} {NAMES[kind]}" for kind, n in zip("SDI", (edits.substitutions, edits.deletions, edits.insertions)) if n
    ]
    facts = [one.speaker, f"{seconds:.1f} s", *([f"{', '.join(counts)} of {edits.units} words"] if counts else [])]
    head = f"<b><bdi>{escape(one.id)}</bdi></b>" + "".join(f"<bdi>{escape(fact)}</bdi>" for fact in facts if fact)
    steps = one.words or [Step("I", "", word) for word in one.hypothesis.split()]
    letters = sum(len(step.reference) for step in steps) <= 1.5 * len(steps)
    tight = " tight" if letters else ""
    pairs = "".join(map(column, steps))
    return Html(f'<article><header>{head}{sound}</header><div class="pair{tight}" dir=auto>{pairs}</div></article>')


def column(step: Step) -> str:
    """A place of an alignment, the reference above."""
    kind = "" if step.kind == "C" else f' class={step.kind} title="{NAMES[step.kind]}"'
    return f"<span{kind}><i>{escape(visible(step.reference))}</i><b>{escape(visible(step.hypothesis))}</b></span>"


def reliability_plot(found: Calibration) -> Html:
    """Accuracy over confidence, with the number of words on top; on the dashed line confidence is accuracy."""
    left, bottom, width, height = 44, 240, 300, 200
    parts = []
    for one in found.bins:
        x, y = left + width * one.low, bottom - height * one.accuracy
        bar = f'x="{x + 1:.1f}" y="{y:.1f}" width="{width * (one.high - one.low) - 2:.1f}" height="{bottom - y:.1f}"'
        parts.append(f'<rect {bar} fill="var(--accent)" opacity="0.75"/>')
        middle = x + width * (one.high - one.low) / 2
        parts.append(f'<text x="{middle:.1f}" y="{bottom - height - 8}" text-anchor="middle">{one.count}</text>')
    for share in (0, 0.5, 1):
        parts.append(f'<text x="{left + width * share}" y="{bottom + 16}" text-anchor="middle">{share:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{bottom - height * share + 4}" text-anchor="end">{share:g}</text>')
    line = f'x1="{left}" y1="{bottom}" x2="{left + width}" y2="{bottom - height}"'
    parts += [
        f'<line {line} stroke="currentColor" stroke-dasharray="5 4"/>',
        f'<path d="M{left} {bottom - height}V{bottom}H{left + width}" fill="none" stroke="currentColor"/>',
        f'<text x="{left + width / 2}" y="{bottom + 34}" text-anchor="middle">confidence</text>',
        f'<text transform="translate(14 {bottom - height / 2}) rotate(-90)" text-anchor="middle">words that are right</text>',
    ]
    label = escape(str(found), quote=True)
    return Html(f'<svg viewBox="0 0 360 284" role="img" aria-label="{label}">{"".join(parts)}</svg>')
