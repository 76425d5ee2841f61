"""Integer kernels against int32 arithmetic, number by number, and against what they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from toys import Build, BuildHf, MakeBatch
from transformers import AutoTokenizer
from transformers.models.ibert.quant_modules import IntGELU, IntLayerNorm, IntSoftmax

from quala.checkpoint import load_any_model
from quala.compress import kernels
from quala.compress.kernels import rebuild_kernels, replace_kernels
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.files import load_integer, save_integer
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.latent import read_latent, restore_latent, save_latent
from quala.compress.quantize.transform import calibrate, quantize
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model
from quala.models.significance import row_softmax

Integers = NDArray[np.int64]
INT32 = 2**31 - 1


class Wide:
    """Checks that each integer of a reference fits its bits, the sign apart."""

    def __init__(self) -> None:
        self.largest: dict[str, int] = {}

    def __call__(self, name: str, values: Any, bits: int = 31) -> Integers:
        made = np.asarray(values)
        assert made.dtype == np.int64
        assert np.abs(made).max() < 2**bits, f"{name} needs more than {bits} bits"
        self.largest[name] = int(np.abs(made).max())
        return made


def rounded(x: NDArray[np.float32], unit: int, top: int) -> Integers:
    return np.clip(np.rint(x.astype(np.float64) * unit), -top, top).astype(np.int64)


def int_gelu(x: NDArray[np.float32], fits: Wide) -> tuple[Integers, float]:
    """GELU = x (erf(x / sqrt(2)) + 1) / 2 with erf = sgn(y) (a (min(|y|, -b) + b)^2 + 1)."""
    a, b, unit = -0.2888, -1.769, 1024
    q = rounded(x, unit, 2**17 - 1)
    edge = round(-b * math.sqrt(2) * unit)
    one = round(-2 / a * unit * unit)
    left = edge - np.minimum(np.abs(q), edge)
    square = fits("square", left * left, 23)
    erf = np.sign(q) * (one - square)
    share = fits("share", fits("erf + 1", one + erf, 24) >> 10, 14)
    return fits("gelu", q * share), 1024 / (unit * 2 * one)


def int_softmax(x: NDArray[np.float32], fits: Wide) -> tuple[Integers, float]:
    """exp(p) = .35815147 p^2 + .96963238 p + 1 for p in (-ln 2, 0], halved once for each ln 2."""
    unit = 1024
    with np.errstate(invalid="ignore"):
        q = np.where(np.isinf(x), -(2**20), np.rint(x.astype(np.float64) * unit)).astype(np.int64)
    q = np.minimum(q.max(axis=-1, keepdims=True) - q, 2**15 - 1)
    octave = round(math.log(2) * unit)
    z, u = np.divmod(q, octave)
    slope, one = round(0.96963238 / 0.35815147 * unit), round(unit * unit / 0.35815147)
    exp = fits("exp", fits("power", u * (u - slope) + one, 22) >> (z + 8), 14)
    total = fits("total", exp.sum(axis=-1, keepdims=True), 24)
    inverse = fits("inverse", (2**30 + total // 2) // total, 24)
    return fits("softmax", exp * inverse), 2**-30


def int_norm(x: NDArray[np.float32], fits: Wide) -> tuple[Integers, float]:
    """y / sqrt(sum y^2), the root of integers cut to 10 bits, times sqrt(width)."""
    width = x.shape[-1]
    q = rounded(x, 4096, 2**21 - 1)
    total = fits("total", fits("sum", q.sum(axis=-1, keepdims=True)) + width // 2)
    y = fits("deviation", q - total // width, 23)
    largest = np.abs(y).max(axis=-1, keepdims=True)
    shift = np.array([max(0, int(one).bit_length() - 10) for one in largest.flat])
    shift = shift.reshape(largest.shape)
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0)
    small = fits("small", (np.abs(y) + half) >> shift, 11)
    squares = fits("squares", (small * small).sum(axis=-1, keepdims=True))
    root = np.array([math.isqrt(int(one)) for one in squares.flat]).reshape(squares.shape)
    root = fits("root", np.maximum(root << shift, 64))
    factor = fits("factor", 2**30 // root, 25)
    return fits("norm", y * factor), math.sqrt(width) / 2**30


def everywhere() -> NDArray[np.float32]:
    """Every code of a GELU's input within 9, the ends, and beyond."""
    near = np.arange(-9000, 9001) / 1024
    return np.concatenate([near, np.linspace(-140, 140, 9001)]).astype(np.float32)


def rows(width: int) -> NDArray[np.float32]:
    """Rows of many sizes: constant, tiny, usual, with an outlier, at both ends, beyond them."""
    drawn = np.random.default_rng(0).normal(size=(40, width))
    usual = drawn * np.logspace(-4, 2.5, 40)[:, None] + np.linspace(-3, 3, 40)[:, None]
    usual[::5, width // 3] *= 30
    ends = np.where(np.arange(width) % 2, 600.0, -600.0)
    lone = np.where(np.arange(width) == 1, 512.0, -512.0)
    flat = np.full(width, 0.3)
    return np.vstack([usual, ends, np.full(width, 600.0), lone, flat]).astype(np.float32)


def logits(tokens: int) -> NDArray[np.float32]:
    """Rows from flat to sharp, one with every code to 32 below the largest, one half padded."""
    drawn = np.random.default_rng(1).normal(size=(30, tokens)) * np.logspace(-3, 2, 30)[:, None]
    drawn[:, 0] -= 2.0
    drawn[7, tokens // 2 + 1 :] = -np.inf
    return np.vstack([drawn, np.zeros(tokens)]).astype(np.float32)


CASES: list[tuple[Any, Any, NDArray[np.float32]]] = [
    (kernels.gelu, int_gelu, everywhere()),
    (kernels.softmax, int_softmax, logits(384)),
    (kernels.softmax, int_softmax, logits(1467)),
    (kernels.softmax, int_softmax, logits(1)),
    (kernels.softmax, int_softmax, np.arange(-34000, 1)[:, None] * np.array([0.0, 2.0**-10])),
    (kernels.normalized, int_norm, rows(384)),
    (kernels.normalized, int_norm, rows(1024)),
    (kernels.normalized, int_norm, rows(1)),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "reference", "x"), CASES)
def test_a_kernel_computes_what_32_bits_do(
    kernel: Callable[[Tensor], Tensor], reference: Any, x: NDArray[np.float32]
) -> None:
    x = x.astype(np.float32)
    codes, scale = reference(x, Wide())
    # The nearest float32 of the int32, then the nearest of its product with the scale.
    expected = codes.astype(np.float32) * np.float32(scale)
    np.testing.assert_array_equal(kernel(torch.from_numpy(x)).numpy(), expected)


def test_the_ranges_are_used() -> None:
    """So that the bits are neither too few nor more than needed: within two of the limit."""
    for reference, x, name, bits in (
        (int_gelu, everywhere(), "gelu", 31),
        (int_softmax, logits(1467), "total", 24),
        (int_norm, rows(1024), "total", 31),
        (int_norm, rows(1024), "norm", 31),
    ):
        fits = Wide()
        reference(x, fits)
        assert fits.largest[name] > 2 ** (bits - 2), (name, fits.largest[name])


def test_kernels_are_close_to_their_functions() -> None:
    x = torch.from_numpy(everywhere()).clamp(-128, 127)
    assert (kernels.gelu(x) - functional.gelu(x)).abs().max() < 0.019
    x = torch.from_numpy(logits(384))
    assert (kernels.softmax(x) - row_softmax(x)).abs().max() < 0.006
    x = torch.from_numpy(rows(384))[16:35]  # from a deviation of 0.04 on, within the limits
    expected = functional.layer_norm(x, x.shape[-1:])
    assert ((kernels.normalized(x) - expected).abs() / (1 + expected.abs())).max() < 0.015


def test_kernels_agree_with_those_of_transformers() -> None:
    x = torch.from_numpy(everywhere()).clamp(-30, 30)
    theirs, _ = IntGELU()(x, torch.tensor([2.0**-14]))
    assert (kernels.gelu(x) - theirs).abs().max() < 3e-3  # of 30
    x = (torch.from_numpy(logits(64)[:7]) * 1024).round() / 1024
    theirs, _ = IntSoftmax(16, quant_mode=True).train()(x, torch.tensor([2.0**-10]))
    assert (kernels.softmax(x) - theirs).abs().max() < 1e-4
    norm = IntLayerNorm(64, 0.0, quant_mode=True).train()
    torch.nn.init.ones_(norm.weight)
    x = (torch.from_numpy(rows(64)[20:30])[None] * 4096).round() / 4096
    theirs, _ = norm(x, torch.tensor([2.0**-12]))
    assert ((kernels.normalized(x) - theirs).abs() / (1 + theirs.abs())).max() < 0.006


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_gradients_are_those_of_the_function(name: str) -> None:
    float_norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(float_norm.weight)
    twins: dict[str, tuple[Any, Any]] = {
        "gelu": (kernels.IntegerGELU(), torch.nn.GELU()),
        "softmax": (kernels.IntegerSoftmax(), row_softmax),
        "layernorm": (kernels.IntegerLayerNorm.from_float(float_norm), float_norm),
    }
    gradients = []
    for module in twins[name]:
        x = torch.linspace(-2, 3, 24).reshape(3, 8).requires_grad_()
        (module(x) * torch.arange(24.0).reshape(3, 8)).sum().backward()
        gradients += [x.grad, float_norm.weight.grad]
        float_norm.weight.grad = None
    torch.testing.assert_close(gradients[:2], gradients[2:])


def test_a_weight_of_zero_and_bfloat16_are_fine() -> None:
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.ones_(norm.bias)
    x = torch.randn(2, 8)
    assert torch.equal(kernels.IntegerLayerNorm.from_float(norm)(x), torch.ones(2, 8))
    assert kernels.IntegerGELU()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("semantics", ["natural", "reference"])
@pytest.mark.parametrize("family", ["bert", "mpnet", "deberta-v2", "albert"])
def test_padding_and_dropped_tokens_change_nothing(
    family: str, semantics: str, build: Build, make_batch: MakeBatch
) -> None:
    names = ["softmax", "layernorm"] if family == "albert" else kernels.KERNELS
    model = build(family, significance="column_sum").float()
    replace_kernels(model.hf, names)
    alone, beside = make_batch([20], family=family), make_batch([20, 32], family=family)
    other = {name: value.clone() for name, value in beside.items()}
    other["input_ids"][0, 20:] = 7
    kept = LengthConfig((24, 12, 6), 32)
    for lengths in (None, kept):
        first = model(beside, lengths)[0, :20]
        assert torch.equal(model(other, lengths)[0, :20], first)
        if semantics == "natural":
            torch.testing.assert_close(model(alone, lengths)[0], first, atol=5e-3, rtol=0)


def test_the_attention_and_the_scores_use_the_kernel(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build(significance="column_sum").float(), make_batch([20, 32])
    seen: list[Tensor] = []
    replace_kernels(model.hf, ["softmax"])
    model.softmax.register_forward_hook(lambda _, inputs, made: seen.append(made))
    state = model.attend(model.begin(batch), 0, scored=True)
    assert [one.shape for one in seen] == [(2, 4, 32, 32)] * 2
    real = batch["attention_mask"].bool()
    sums = (seen[0] * real[:, None, :, None]).sum(dim=(1, 2))
    torch.testing.assert_close(state.scores, sums)
    assert not seen[0].transpose(-1, -2)[~real[:, None].expand(2, 4, 32)].any()


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_kernels_come_back_with_a_saved_model(
    family: str, build: Build, make_batch: MakeBatch, tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    model, batch = build(family).float(), make_batch([9, 20], family=family)
    replace_kernels(model.hf, ["layernorm"])
    replace_kernels(model.hf, ["gelu"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    save_model(model, tokenizer, tmp_path / "float", metadata={})
    assert not (tmp_path / "float" / "model.safetensors").exists()  # transformers has no kernels
    loaded = load_any_model(tmp_path / "float")
    assert loaded.hf.config.quala_kernels == ["gelu", "layernorm"]
    assert torch.equal(loaded(batch), model(batch))


def test_an_integer_model_has_the_kernels_of_its_config(
    build: Build, make_batch: MakeBatch, tmp_path: Path
) -> None:
    model, batch = build().float(), make_batch([9, 20])
    config = QuantizeConfig(kernels=kernels.KERNELS)
    quantize(model.hf, config)
    calibrate(model.hf, lambda: model(batch))
    save_latent(model.hf, tmp_path / "latent")
    latent = read_latent(tmp_path / "latent")
    assert latent.config == config
    again = build().float()
    restore_latent(again.hf, latent)
    assert torch.equal(again(batch), model(batch))
    loss = model(batch).square().sum()
    loss.backward()
    assert all(one.grad is not None for one in model.hf.parameters() if one.requires_grad)
    to_integer(model.hf, inplace=True)
    save_integer(model.hf, tmp_path)
    loaded = LengthAdaptiveModel(load_integer(tmp_path))
    assert torch.equal(loaded(batch), model(batch))
    assert loaded.softmax is not None


@pytest.mark.parametrize(
    ("family", "extra", "names", "told"),
    [
        ("modernbert", {}, ["gelu"], "layers as BERT's, got `modernbert`"),
        ("albert", {}, ["gelu"], "needs the activation `gelu`, got gelu_new"),
        ("bert", {"hidden_act": "relu"}, ["gelu"], "needs the activation `gelu`, got relu"),
        ("distilbert", {"activation": "relu"}, ["gelu"], "needs the activation `gelu`, got relu"),
        ("bert", {"hidden_size": 1028}, ["layernorm"], "at most 1024, got 1028"),
        ("bert", {"max_position_embeddings": 2048}, ["softmax"], "at most 1467 tokens, got 2048"),
        ("bert", {}, ["norm"], "kernel `norm`"),
    ],
)
def test_a_model_without_the_function_is_refused(
    family: str, extra: dict[str, Any], names: list[str], told: str, build_hf: BuildHf
) -> None:
    hf = build_hf(family, **extra)
    with pytest.raises(QualaError, match=told):
        replace_kernels(hf, names)
    assert not hasattr(hf.config, "quala_kernels")


def test_modules_that_are_not_the_functions_are_refused(build_hf: BuildHf) -> None:
    hf: Any = build_hf()
    hf.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.GELU("tanh")
    with pytest.raises(QualaError, match="exact GELU, got GELU"):
        replace_kernels(hf, ["gelu"])
    hf.bert.embeddings.LayerNorm = torch.nn.RMSNorm(16)
    with pytest.raises(QualaError, match="needs a LayerNorm with weights and biases, got RMSNorm"):
        replace_kernels(hf, ["layernorm"])


def test_a_damaged_record_is_refused(build_hf: BuildHf) -> None:
    hf = build_hf()
    hf.config.quala_kernels = "gelu"
    with pytest.raises(QualaError, match="must be a list of names, got 'gelu'"):
        rebuild_kernels(hf)
