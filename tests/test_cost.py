"""Closed-form cost against the published integers, Hugging Face and torch's own counter."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from quala.architecture import Architecture
from quala.cost import (
    PRESETS,
    Precision,
    architecture_of,
    macs,
    mean_macs,
    parameters,
    preset,
    size_bytes,
)
from quala.errors import QualaError
from quala.lengths import LengthConfig, constant_drop

MINILM = PRESETS["minilm-l6-h384"]
HEADLINE = (315, 251, 242, 159, 142, 33)
MEBI = 2**20


@pytest.mark.parametrize(
    ("name", "lengths", "published"),
    [
        ("minilm-l6-h384", (384,) * 6, 4_758_553_344),
        ("bert-base", (384,) * 12, 35_340_779_904),
        ("minilm-l6-h384", (269, 253, 252, 202, 104, 34), 2_485_456_896),
        ("minilm-l6-h384", HEADLINE, 2_546_934_912),
        ("minilm-l6-h384", (308, 247, 198, 159, 128, 103), 2_484_739_968),
    ],
)
def test_macs_are_the_published_integers(
    name: str, lengths: tuple[int, ...], published: int
) -> None:
    assert macs(preset(name), lengths, 384) == published


def test_mean_macs_of_one_input_are_those_of_its_kept_lengths() -> None:
    config = LengthConfig(HEADLINE, 384)
    assert mean_macs(MINILM, config, [164]) == macs(MINILM, config.kept(164), 164)


def test_mean_macs_average_over_inputs() -> None:
    config, tokens = LengthConfig(HEADLINE, 384), [1, 2, 57, 164, 164, 384]
    each = [macs(MINILM, config.kept(n), n) for n in tokens]
    assert mean_macs(MINILM, config, np.array(tokens)) == pytest.approx(np.mean(each))


def test_mean_macs_of_sampled_lengths_lie_between_both_ends() -> None:
    small = mean_macs(MINILM, constant_drop(0.2, layers=6, sequence_length=384), [100, 200])
    full = mean_macs(MINILM, LengthConfig.full(layers=6, sequence_length=384), [100, 200])
    assert small < full < macs(MINILM, (384,) * 6, 384)


def test_the_mean_of_no_inputs_is_refused() -> None:
    with pytest.raises(QualaError, match="at least one"):
        mean_macs(MINILM, LengthConfig(HEADLINE, 384), [])


def test_a_wrong_number_of_lengths_is_refused() -> None:
    with pytest.raises(QualaError, match="Expected 6 lengths"):
        macs(MINILM, (384, 384), 384)


def test_a_sentence_head_runs_once() -> None:
    sentence = replace(MINILM, head="sentence", outputs=3)
    without = macs(MINILM, (384,) * 6, 384) - 2 * 384 * 384
    assert macs(sentence, (384,) * 6, 384) == without + 384**2 + 3 * 384


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("bert-base", 108_893_186),
        ("minilm-l6-h384-uncased", 22_566_146),
        ("distilbert-base", 66_364_418),
        ("mpnet-base", 108_897_410),
    ],
)
def test_parameters_of_presets_are_those_of_the_checkpoints(name: str, known: int) -> None:
    assert parameters(preset(name)) == known


def test_minilm_has_the_published_number_of_parameters() -> None:
    assert parameters(MINILM) / 1e6 == pytest.approx(30.15, abs=0.005)


@pytest.mark.parametrize(
    ("precision", "mebibytes"),
    [("fp32", 115.00), ("fp16", 57.50), ("int8-linear", 84.63)],
)
def test_minilm_takes_the_published_space(precision: Precision, mebibytes: float) -> None:
    assert size_bytes(MINILM, precision) / MEBI == pytest.approx(mebibytes, abs=0.1)


def test_integer_embeddings_shrink_minilm_to_a_quarter() -> None:
    assert size_bytes(MINILM, "fp32") / size_bytes(MINILM, "int8") == pytest.approx(3.95, abs=0.01)


def test_int8_stores_a_byte_per_weight_and_four_per_scale() -> None:
    arch = Architecture(
        family="bert",
        hidden=4,
        intermediate=8,
        layers=1,
        heads=1,
        vocabulary=10,
        positions=5,
        type_vocabulary=2,
    )
    linears = 4 * (16 + 8 * 4) + (32 + 8 * 8) + (32 + 8 * 4)
    embeddings = 17 * (4 + 4)
    assert size_bytes(arch, "int8") == linears + embeddings + 4 * (2 * 4 + 4 * 4 + 2 * 5)


def test_an_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(QualaError, match="Did you mean `int8`"):
        size_bytes(MINILM, "int-8")  # type: ignore[arg-type]


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(QualaError, match="Did you mean `bert-base`"):
        preset("bert-bse")


def test_an_unsupported_model_type_names_the_supported_ones() -> None:
    with pytest.raises(QualaError, match=r"bert, .*distilbert, .*electra, .*roberta"):
        architecture_of({"model_type": "t5"})


def test_a_value_that_the_layers_are_not_written_for_is_refused() -> None:
    facts = {"model_type": "mpnet", "relative_attention_num_buckets": 16}
    with pytest.raises(QualaError, match="num_buckets` must be 32 for `mpnet`, got 16"):
        architecture_of(facts)


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(QualaError, match=r"lacks .*hidden_size"):
        architecture_of({"model_type": "bert"})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(QualaError, match="`heads` must divide"):
        replace(MINILM, heads=7)


def test_roberta_reads_two_tokens_less_than_it_has_positions() -> None:
    assert MINILM.longest == 512
    assert PRESETS["bert-base"].longest == 512


def test_the_module_needs_no_heavy_import() -> None:
    code = (
        "import sys, quala.cost; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
