"""`quala cost`: the published figures, presets, folders and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quala.cli.cost import main
from quala.cost import macs, parameters, part_of, preset, size_bytes
from quala.errors import QualaError
from quala.lengths import read_layers

PUBLISHED = "315,251,242,159,142,33"


def _figures(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("name", "lengths", "spent"),
    [
        ("minilm-l6-h384", None, 4_758_553_344),
        ("minilm-l6-h384", PUBLISHED, 2_546_934_912),
        ("minilm-l6-h384", "(269,253,252,202,104,34)", 2_485_456_896),
        ("bert-base", None, 35_340_779_904),
    ],
)
def test_published_macs(
    name: str, lengths: str | None, spent: int, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--preset", name, *(["--lengths", lengths] if lengths else [])]
    assert _figures(capsys, *argv)["macs"] == spent


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


MODEL = ["--preset", "minilm-l6-h384"]


def test_a_sub_network_costs_what_its_layers_cost(capsys: pytest.CaptureFixture[str]) -> None:
    layers = "6x768,-,6x768,6x768,-,6x768"
    found = _figures(capsys, *MODEL, "--lengths", f"full@{layers}")
    arch, parts = preset("minilm-l6-h384"), read_layers(layers, layers=6)
    small = part_of(arch, parts)
    assert found["layers"] == layers
    assert found["macs"] == macs(small, (384,) * 4, 384)
    assert found["parameters"] == parameters(small)
    assert found["bytes"]["int8"] == size_bytes(small, "int8")
    assert found["macs_full_length"] == 4_758_553_344
    main([*MODEL, "--lengths", f"full@{layers}"])
    assert "6x768 without layers 2, 5" in capsys.readouterr().out


def test_the_space_of_widths_and_depths_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*MODEL, "--widths", ".5,1", "--depths", "0.5,1", "--lengths", PUBLISHED]
    found = _figures(capsys, *argv)
    assert found["macs"] == 2_546_934_912  # of all of it, which is the first
    names = [one.get("layers") for one in found["structures"]]
    assert names[:2] == [None, "6x768"]
    assert names[3] == "6x768,-,6x768,-,6x768,-"
    spent = [one["macs"] for one in found["structures"]]
    assert spent[0] == max(spent)
    assert spent[3] == min(spent)
    main(argv)
    assert "6x768 without layers 2, 4, 6" in capsys.readouterr().out


def test_an_elastic_checkpoint_lists_what_it_was_trained_for(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quala_elastic": ["", "1x32"]}))
    argv = ["--model", str(tmp_path), "--sequence-length", "64"]
    found = _figures(capsys, *argv)
    assert [one.get("layers") for one in found["structures"]] == [None, "1x32"]
    assert "structures" not in _figures(capsys, *argv, "--lengths", "full@1x32")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--lengths", "full@13x768"], "12 heads and 1536 neurons, got 13x768"),
        (["--lengths", "full@6x768,-"], "Expected units of 6 layers, got 2"),
        (["--lengths", "full@half"], "`--lengths`: The units of a layer must be HEADSxNEURONS"),
        (["--lengths", "full@6x768", "--widths", "0.5"], "Give layers after the `@`"),
        (["--widths", "0"], "`--widths` must be above 0"),
        (["--widths", "a"], "`--widths` must be 1 to 100 numbers"),
        (["--depths", "0.5,0.49"], "give the same sizes"),
    ],
)
def test_layers_that_cannot_be_are_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        main([*MODEL, *argv])
