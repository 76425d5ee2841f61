"""Matrices stored without their zeros, against loops over bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import BuildHf

from quala.compress.prune.config import HybridConfig
from quala.compress.prune.sparse import (
    dense_state,
    is_sparse,
    pack_sparse,
    sparse_state,
    store_sparse,
    unpack_sparse,
)
from quala.compress.shrink import hybrid_compress
from quala.compress.structure import is_structured, load_structured
from quala.errors import QualaError

NAME = "layer.weight"
DENSE = "bert.encoder.layer.1.output.dense.weight"


def matrix(rows: int, columns: int, *, zeros: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(rows, columns, generator=generator).mul(40).to(dtype)
    return weight * (torch.rand(rows, columns, generator=generator) >= zeros)


def test_bits_and_values_are_those_of_a_loop() -> None:
    weight = matrix(3, 7, zeros=0.6, dtype=torch.float32)
    bits, values = pack_sparse(weight)
    numbers = weight.flatten().tolist()
    expected = [0] * 3
    for place, number in enumerate(numbers):
        expected[place // 8] |= (number != 0) << place % 8
    assert (bits.dtype, bits.tolist()) == (torch.uint8, expected)
    assert values.tolist() == [number for number in numbers if number != 0]


@pytest.mark.parametrize("zeros", [0.0, 0.37, 0.9, 1.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8])
def test_a_matrix_comes_back_exactly(dtype: torch.dtype, zeros: float) -> None:
    weight = matrix(9, 13, zeros=zeros, dtype=dtype)
    again = unpack_sparse(*pack_sparse(weight), (9, 13))
    assert again.dtype == dtype
    assert torch.equal(again, weight)


def test_rare_values_come_back_exactly() -> None:
    weight = torch.tensor([[1e-45, -float("inf"), 0.0], [-0.0, 3.0, -1e-38]])
    assert torch.equal(unpack_sparse(*pack_sparse(weight), (2, 3)), weight)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda bits, values: (bits[:-1], values),
            r"21 weights are 3 bytes, got torch.uint8 \(2,",
        ),
        (lambda bits, values: (bits.float(), values), "got torch.float32"),
        (lambda bits, values: (bits, values[:-1]), r"name \d+ weights, the values are"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: Any, sentence: str) -> None:
    parts = pack_sparse(matrix(3, 7, zeros=0.6, dtype=torch.float32))
    with pytest.raises(QualaError, match=sentence):
        unpack_sparse(*change(*parts), (3, 7))


@pytest.mark.parametrize(
    ("tensor", "sparse"),
    [
        (matrix(40, 40, zeros=0.5, dtype=torch.float32), True),
        (matrix(40, 40, zeros=0.5, dtype=torch.int8), True),
        (torch.ones(40, 40), False),  # the bits would come on top
        (matrix(300, 40, zeros=0.02, dtype=torch.float32), False),
        (matrix(40, 40, zeros=0.1, dtype=torch.int8), False),
        (torch.zeros(2, 32), False),  # the header would eat the gain
        (torch.zeros(4000), False),  # a bias
    ],
)
def test_only_what_takes_less_room_is_stored_so(tensor: torch.Tensor, sparse: bool) -> None:
    stored = sparse_state({NAME: tensor})
    assert list(stored) == ([f"{NAME}.mask", f"{NAME}.values"] if sparse else [NAME])


@pytest.mark.parametrize("zeros", [0.2, 0.95])
def test_what_is_stored_so_makes_a_smaller_file(zeros: float, tmp_path: Path) -> None:
    dense = {NAME: matrix(33, 35, zeros=zeros, dtype=torch.float32), "bias": torch.ones(9)}
    files = tmp_path / "dense", tmp_path / "sparse"
    for file, state in zip(files, (dense, sparse_state(dense))):
        save_file(state, file)
    first, second = (file.stat().st_size for file in files)
    assert second < first
    again = dense_state(load_file(files[1]), dense)
    assert all(torch.equal(again[name], tensor) for name, tensor in dense.items())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_saved_model_comes_back_exactly(share: float, build_hf: BuildHf, tmp_path: Path) -> None:
    hf = build_hf().float()
    original = sum(weight.numel() for weight in hf.parameters())
    config = HybridConfig(2.0, svd_share=share)
    small, _ = hybrid_compress(hf, config, original_parameters=original)
    small.save_pretrained(tmp_path)
    assert not is_sparse(tmp_path)
    store_sparse(tmp_path)
    assert is_sparse(tmp_path)
    assert is_structured(tmp_path) == (share > 0)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "quala.safetensors"}
    loaded, state = load_structured(tmp_path).state_dict(), small.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def moved(file: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in [name for name in file if name.startswith(old)]:
        file[name.replace(old, new)] = file.pop(name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.update({f"{DENSE}.values": torch.ones(3)}), "cannot be unpacked: The"),
        (lambda file: moved(file, f"{DENSE}.values", "strange"), "do not fit its structure"),
        (lambda file: moved(file, DENSE, "strange.weight"), "`strange.weight` .* no model has it"),
    ],
)
def test_a_damaged_file_is_refused(
    change: Any, sentence: str, build_hf: BuildHf, tmp_path: Path
) -> None:
    hf = build_hf().float()
    for name in (DENSE, "bert.embeddings.word_embeddings.weight"):
        hf.get_parameter(name).data[9:] = 0
    hf.save_pretrained(tmp_path)
    store_sparse(tmp_path)
    file = load_file(tmp_path / "quala.safetensors")
    change(file)
    save_file(file, tmp_path / "quala.safetensors")
    with pytest.raises(QualaError, match=sentence):
        load_structured(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not tensors at all"])
def test_what_is_no_file_of_tensors_is_not_sparse(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    assert not is_sparse(tmp_path)
    assert not is_sparse("owner/name")


def test_only_weights_are_packed() -> None:
    # The float columns of an integer layer are zero where the layer was pruned.
    tensors = {"a.weight": torch.zeros(64, 64), "a.outlier_weight": torch.zeros(64, 64)}
    stored = sparse_state(tensors)
    assert stored.keys() == {"a.weight.mask", "a.weight.values", "a.outlier_weight"}
    assert dense_state(stored, tensors).keys() == tensors.keys()
