"""Draw the figures of docs/concepts.md with the model that comes with quala, and its report.

python docs/figures/figures.py   # writes docs/figures/*.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import quala
from quala.runtime import Budget, Query, Reply

FOLDER = Path(__file__).parent
MODEL = "minilm-squad"
CONTEXT = (
    "In the spring of 1900, sponge divers sheltering from a storm off the Greek island of "
    "Antikythera came upon an ancient shipwreck. In May 1902 the archaeologist Valerios Stais "
    "noticed a gear wheel embedded in a lump of bronze. The device turned out to be a hand-"
    "cranked model of the heavens: at least thirty meshing gears followed the Sun and the Moon "
    "through the zodiac, predicted eclipses and kept the four-year cycle of the Olympic Games."
)
WHO, WHAT = "Who noticed the gear wheel?", "What did the device predict?"
INK, FAINT, BLUE, RED = "#1f2933", "#c3ccd5", "#3f51b5", "#c2410c"


def main() -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"text.color": INK, "axes.labelcolor": INK, "savefig.dpi": 160})
    model: Any = quala.load(MODEL, threads=1)
    points = model.card["front"]
    lengths_figure(model, [points[0], points[2], points[9]])
    significance_figure(model, points[9])
    front_figure(points)
    choice_figure(json.loads((FOLDER.parent / "squad_cpu" / "report.json").read_text()))


def asked(model: Any, question: str, lengths: list[int]) -> Reply:
    """Return the reply with what each layer kept."""
    budget = Budget(lengths=lengths)
    query = Query(question=question, context=CONTEXT, budget=budget, survivors=True)
    reply: Reply = model.answer_batch([query])[0]
    return reply


def lengths_figure(model: Any, points: list[Any]) -> None:
    """Draw which parts of the text each layer still reads, at three points of the front."""
    figure, axes = plt.subplots(3, 1, figsize=(7.4, 5.2), sharex=True, layout="constrained")
    for axis, point in zip(axes, points, strict=True):
        reply = asked(model, WHO, point["lengths"])
        answer = reply.answers[0]
        for place, layer in enumerate(reply.layers):
            for start, end in layer.spans:
                axis.barh(place, end - start, left=start, height=0.66, color=BLUE, linewidth=0)
            axis.text(
                len(CONTEXT) + 8, place, f"{layer.kept} of {layer.tokens}", va="center", fontsize=8
            )
        axis.axvspan(answer.start, answer.end, color="#f6c453", alpha=0.45, linewidth=0, zorder=0)
        axis.set_yticks(range(len(reply.layers)), [f"layer {n + 1}" for n in range(6)])
        axis.set_ylim(5.6, -0.6)
        axis.set_xlim(0, len(CONTEXT) + 60)
        axis.spines[["bottom", "left"]].set_visible(False)
        axis.tick_params(length=0)
        name = ", ".join(map(str, point["lengths"]))
        axis.set_title(
            f"{name}   F1 {point['f1']:.1f}, {point['gmacs']:.2f} GMACs   "
            f"answer: {answer.text}",
            loc="left", fontsize=9,
        )  # fmt: skip
    axes[-1].set_xlabel("characters of the context; the answer is marked")
    axes[-1].set_xticks([])
    figure.savefig(FOLDER / "lengths.png")


def significance_figure(model: Any, point: Any) -> None:
    """Draw how many layers read each word, for two questions about one text."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.75))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.04)
    shades = plt.get_cmap("Blues")
    for axis, question in zip(axes, (WHO, WHAT), strict=True):
        reply = asked(model, question, point["lengths"])
        axis.set_title(question, loc="left", fontsize=10)
        axis.axis("off")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        across, down, place = 0.0, 0.93, 0
        for word in CONTEXT.split():
            start = CONTEXT.index(word, place)
            place = start + len(word)
            read = sum(
                any(begin < place and start < end for begin, end in layer.spans)
                for layer in reply.layers
            )
            made = axis.text(
                across, down, word, fontsize=8, va="center",
                color="white" if read > 4 else INK if read > 0 else "#8a949e",
                bbox={"facecolor": shades(0.02 + 0.16 * read), "edgecolor": "none", "pad": 1.5},
            )  # fmt: skip
            renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
            box = made.get_window_extent(renderer).transformed(axis.transData.inverted())
            if box.x1 > 1.0:
                across, down = 0.0, down - 0.103
                made.set_position((across, down))
                box = made.get_window_extent(renderer).transformed(axis.transData.inverted())
            across = box.x1 + 0.02
    figure.savefig(FOLDER / "significance.png")


def front_figure(points: list[Any]) -> None:
    """Draw the front that the export carries, and what three budgets take of it."""
    figure, axis = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
    cost = [point["ms"]["192"] for point in points]
    score = [point["f1"] for point in points]
    axis.plot(cost, score, "o", color=BLUE, label="points of the export", zorder=3)
    for budget, color in ((6.5, RED), (8.5, "#0f766e"), (14, INK)):
        able = [one for one in range(len(points)) if cost[one] <= budget]
        best = max(able, key=lambda one: score[one])
        axis.axvline(budget, color=color, linewidth=1, linestyle="--")
        axis.plot(cost[best], score[best], "o", markersize=12, fillstyle="none", color=color)
        axis.text(
            budget + 0.06, 36, f"--budget-ms {budget:g}", color=color, fontsize=8, rotation=90,
            va="bottom",
        )  # fmt: skip
    axis.set_xlabel("milliseconds of an input of 192 tokens")
    axis.set_ylabel("F1 on SQuAD 1.1")
    axis.set_xlim(4, 15)
    axis.legend(loc="lower center", frameon=False, bbox_to_anchor=(0.62, 0.02))
    figure.savefig(FOLDER / "front.png")


def choice_figure(report: Any, most: float = 1.0) -> None:
    """Draw what the candidates of a search lose, and which of them was chosen."""
    rows = report["candidates"]
    full = next(row["score"] for row in rows if set(row["lengths"]) == {384})
    chosen = next(row["lengths"] for row in report["rows"] if row["role"] == "chosen")
    figure, axis = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
    for row in rows:
        cost, loss = row["latency_ms"], full - row["score"]
        if row["lengths"] == chosen:
            axis.plot(cost, loss, "o", color=RED, markersize=9, zorder=3)
            axis.annotate(
                "chosen: " + ", ".join(map(str, chosen)), (cost, loss), xytext=(6.1, -0.55),
                color=RED, fontsize=8, arrowprops={"arrowstyle": "-", "color": RED},
            )  # fmt: skip
        else:
            axis.plot(cost, loss, "o", color=BLUE if loss <= most else FAINT, markersize=4)
    axis.axhline(most, color=INK, linewidth=1, linestyle="--")
    axis.text(13.2, most + 0.06, "max_loss 1", ha="right", va="top", fontsize=8)
    axis.set_ylim(4, -0.8)
    axis.set_xlim(6, 13.3)
    axis.set_xlabel("milliseconds of an input")
    axis.set_ylabel("F1 points lost on the slice")
    figure.savefig(FOLDER / "choice.png")


if __name__ == "__main__":
    main()
