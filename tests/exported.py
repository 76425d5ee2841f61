"""An exported toy model that answers."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint as an int8 export: the full length and two cheaper points, timed."""
    from quala.checkpoint import load_with_data
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.integer import to_integer
    from quala.compress.quantize.transform import calibrate, quantize
    from quala.data.spec import DataSpec
    from quala.export.folder import ExportSettings, write_export
    from quala.lengths import LengthConfig
    from quala.runtime.card import Point

    spec = DataSpec(task="squad", name="demo", max_length=128, doc_stride=32)
    opened = load_with_data(tiny_checkpoint, spec, significance="span")
    batch = opened.data.test.features.batch(range(8))

    def observe() -> None:
        opened.model(batch)

    quantize(opened.model.hf, QuantizeConfig())
    calibrate(opened.model.hf, observe)
    to_integer(opened.model.hf, inplace=True)
    front = [
        Point(LengthConfig(lengths, 128), score, padded, mean)
        for lengths, score, padded, mean in (
            ((128, 128), 80.0, 4_000_000, 2e6),
            ((128, 40), 79.0, 3_000_000, 1.5e6),
            ((60, 20), 60.0, 2_000_000, 1e6),
        )
    ]
    folder = tmp_path_factory.mktemp("export") / "tiny"
    settings = ExportSettings(windows=spec.windows, name="tiny", repeats=1)
    write_export(opened.model, opened.tokenizer, folder, front=front, settings=settings)
    return folder
