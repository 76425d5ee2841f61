"""Write a comparison: JSON, CSV, Markdown, PNG and the page, in one folder."""

from __future__ import annotations

from pathlib import Path

from quala.compare.charts import charts, draw_charts
from quala.compare.page import page_html
from quala.compare.text import Comparison, csv_text, json_text, markdown
from quala.report.table import metric_name


def build_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write compare.json, .csv, .md, .html and one picture for each table; return the files."""
    pictures = [f"compare-{number}.png" for number in range(1, len(comparison.tables) + 1)]
    texts = {
        "compare.html": page_html(comparison),
        "compare.md": markdown(comparison, pictures),
        "compare.csv": csv_text(comparison),
        "compare.json": json_text(comparison),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for table, picture in zip(comparison.tables, pictures, strict=True):
        draw_charts(
            charts(table),
            folder / picture,
            score=f"{metric_name(table.metric)}, percent",
            names=comparison.names,
            styles=comparison.styles,
        )
    return [folder / name for name in (*texts, *pictures)]
