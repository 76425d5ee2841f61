"""`quala cost`: the published figures, presets, folders and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quala.cli.cost import main
from quala.errors import QualaError

PUBLISHED = "315,251,242,159,142,33"


def _figures(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("preset", "lengths", "macs"),
    [
        ("minilm-l6-h384", None, 4_758_553_344),
        ("minilm-l6-h384", PUBLISHED, 2_546_934_912),
        ("minilm-l6-h384", "(269,253,252,202,104,34)", 2_485_456_896),
        ("bert-base", None, 35_340_779_904),
    ],
)
def test_published_macs(
    preset: str, lengths: str | None, macs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--preset", preset, *(["--lengths", lengths] if lengths else [])]
    assert _figures(capsys, *argv)["macs"] == macs


def test_the_ratio_saved_is_against_full_length(capsys: pytest.CaptureFixture[str]) -> None:
    figures = _figures(capsys, "--preset", "minilm-l6-h384", "--lengths", PUBLISHED)
    assert figures["macs_saved_ratio"] == 4_758_553_344 / 2_546_934_912


def test_the_table_separates_thousands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--preset", "minilm-l6-h384", "--lengths", PUBLISHED])
    shown = capsys.readouterr().out
    assert "2,546,934,912" in shown
    assert "115.00 MiB" in shown


def test_a_folder_is_read(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    argv = ["--model", str(tiny_checkpoint), "--sequence-length", "64"]
    with safe_open(tiny_checkpoint / "model.safetensors", "np") as weights:
        stored = sum(weights.get_tensor(name).size for name in weights.keys())
    assert _figures(capsys, *argv)["parameters"] == stored


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--preset", "bert-bas"], "Did you mean `bert-base`"),
        (["--model", "nowhere"], "nowhere"),
        (["--preset", "bert-base", "--sequence-length", "513"], "from 2 to 512"),
        (["--preset", "bert-base", "--lengths", "3,2"], "Expected 12 lengths"),
        (["--preset", "minilm-l6-h384", "--lengths", "9,9,9,9,9,10"], "must not grow"),
        (["--preset", "minilm-l6-h384", "--lengths", "385,9,9,9,9,9"], "must not exceed"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        main(argv)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_bad_config_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(QualaError):
        main(["--model", str(tmp_path)])
