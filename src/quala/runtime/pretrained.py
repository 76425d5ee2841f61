"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "pretrained"


def shipped() -> dict[str, Path]:
    """Return the folder of each model by its name."""
    return {card.parent.name: card.parent for card in sorted(FOLDER.glob("*/quala.json"))}
