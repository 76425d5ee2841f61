"""How a search got on, as a picture: hypervolume against evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quala.search.result import SearchResult


def draw_history(result: SearchResult, file: Path, *, metric: str) -> None:
    """Write the hypervolume after each evaluation as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4.0), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    history = result.history
    axis.step(range(1, len(history) + 1), history, where="post", color="#0369a1", linewidth=1.6)
    axis.set_xlabel("lengths evaluated")
    axis.set_ylabel(f"mean best {metric} over the range of costs")
    axis.grid(color="#e5e7eb", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
