"""Length configurations: rules, shares of real inputs, and how training samples them."""

from __future__ import annotations

from random import Random

import pytest

from quala.errors import QualaError
from quala.lengths import (
    Layers,
    LengthConfig,
    Units,
    constant_drop,
    layers_name,
    layers_text,
    read_layers,
    sample_layer_drop,
    sample_length_drop,
)

NOTHING: frozenset[int] = frozenset()


def draw(
    bound: float, rng: Random, *, layers: int = 6, skipped: frozenset[int] = NOTHING
) -> LengthConfig:
    return sample_length_drop(bound, layers=layers, sequence_length=384, rng=rng, skipped=skipped)


def mean_lengths(draws: list[LengthConfig]) -> list[float]:
    return [sum(column) / len(draws) for column in zip(*(d.lengths for d in draws), strict=True)]


@pytest.mark.parametrize("lengths", [(), (5, 1), (385,), (10, 11)])
def test_a_configuration_that_cannot_be_run_is_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(QualaError):
        LengthConfig(lengths, 384)


@pytest.mark.parametrize("text", ["315,251", "315,251,x", "", "3.5,2,2"])
def test_a_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(QualaError):
        LengthConfig.parse(text, layers=3, sequence_length=384)


@pytest.mark.parametrize("text", ["315,251,33", "(315, 251, 33)"])
def test_a_tuple_and_a_list_read_alike(text: str) -> None:
    config = LengthConfig.parse(text, layers=3, sequence_length=384)
    assert config.lengths == (315, 251, 33)
    assert str(config) == "315,251,33"


def test_drops_names_the_layers_that_drop() -> None:
    config = LengthConfig((384, 200, 200, 100), 384)
    assert config.drops == (False, True, False, True)


def test_full_drops_nothing() -> None:
    config = LengthConfig.full(layers=3, sequence_length=8)
    assert not any(config.drops)
    assert config.kept(5) == (5, 5, 5)


def test_kept_rounds_the_share_up() -> None:
    assert LengthConfig((315, 33), 384).kept(164) == (135, 15)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_kept_never_leaves_less_than_two_tokens(tokens: int) -> None:
    assert LengthConfig((4, 2), 384).kept(tokens) == (min(2, tokens),) * 2


def test_kept_never_grows() -> None:
    config = constant_drop(0.3, layers=6, sequence_length=384)
    for tokens in range(1, 385):
        kept = (tokens, *config.kept(tokens))
        assert list(kept) == sorted(kept, reverse=True)


def test_constant_drop_gives_the_published_smallest_lengths() -> None:
    config = constant_drop(0.2, layers=6, sequence_length=384)
    assert config.lengths == (308, 247, 198, 159, 128, 103)


@pytest.mark.parametrize(
    ("skipped", "lengths"),
    [
        ({1}, (308, 308, 247, 198, 159, 128)),
        ({0, 5}, (384, 308, 247, 198, 159, 159)),
        (set(range(6)), (384,) * 6),
    ],
)
def test_constant_drop_keeps_the_length_of_a_skipped_layer(
    skipped: set[int], lengths: tuple[int, ...]
) -> None:
    found = constant_drop(0.2, layers=6, sequence_length=384, skipped=frozenset(skipped))
    assert found.lengths == lengths


def test_under_layer_drop_the_smallest_pass_is_as_long_as_the_published_one() -> None:
    rng, last, draws = Random(0), 0, 4000
    for _ in range(draws):
        skipped = sample_layer_drop(0.2, layers=6, rng=rng)
        found = constant_drop(0.2, layers=6, sequence_length=384, skipped=skipped)
        last += found.lengths[-1]
    assert last / draws == pytest.approx(137.2, rel=0.02)


def test_constant_drop_stops_at_two_tokens() -> None:
    assert constant_drop(0.9, layers=5, sequence_length=8).lengths == (2,) * 5


def test_sampled_lengths_reach_both_ends_of_their_range() -> None:
    rng = Random(0)
    firsts = {draw(0.2, rng, layers=1).lengths[0] for _ in range(4000)}
    assert firsts == set(range(308, 385))


def test_sampled_lengths_stay_in_range_of_the_layer_before() -> None:
    rng = Random(1)
    for _ in range(200):
        before = 384
        for length in draw(0.5, rng).lengths:
            assert before // 2 <= length <= before
            before = length


def test_sampled_lengths_never_fall_below_two() -> None:
    rng = Random(2)
    assert min(draw(0.95, rng, layers=12).lengths[-1] for _ in range(200)) == 2


def test_a_skipped_layer_carries_the_length_on() -> None:
    rng = Random(3)
    for _ in range(50):
        lengths = (384, *draw(0.2, rng, skipped=frozenset({0, 3})).lengths)
        assert lengths[1] == 384
        assert lengths[4] == lengths[3]


def test_mean_lengths_are_the_published_ones() -> None:
    rng = Random(4)
    means = mean_lengths([draw(0.2, rng) for _ in range(6000)])
    assert means == pytest.approx([345.9, 311.8, 280.9, 253.1, 227.8, 205.1], rel=0.01)


def test_mean_lengths_under_layer_drop_are_the_published_ones() -> None:
    rng = Random(5)
    draws = [
        draw(0.2, rng, skipped=sample_layer_drop(0.2, layers=6, rng=rng)) for _ in range(6000)
    ]
    expected = [353.5, 325.4, 299.5, 275.7, 253.7, 233.6]
    assert mean_lengths(draws) == pytest.approx(expected, rel=0.01)


def test_layer_drop_never_skips_every_layer() -> None:
    rng = Random(6)
    assert all(len(sample_layer_drop(0.9, layers=2, rng=rng)) < 2 for _ in range(200))


def test_layer_drop_skips_at_its_probability() -> None:
    rng = Random(7)
    skipped = sum(len(sample_layer_drop(0.2, layers=6, rng=rng)) for _ in range(4000))
    assert skipped / 24000 == pytest.approx(0.2, abs=0.01)


def test_the_same_seed_samples_the_same_lengths() -> None:
    assert draw(0.2, Random(8)) == draw(0.2, Random(8))


HALF, LEFT_OUT = (Units(6, 768),) * 3, (Units(6, 768), None, Units(6, 768))


@pytest.mark.parametrize("lengths", [(384, 384, 384), (384, 384, 100)])
@pytest.mark.parametrize("layers", [(), HALF, LEFT_OUT, (Units(6, 768), None, Units(3, 9))])
def test_a_name_reads_back(lengths: tuple[int, ...], layers: Layers) -> None:
    config = LengthConfig(lengths, 384, layers)
    assert LengthConfig.parse(config.name, layers=3, sequence_length=384) == config
    assert config.name.startswith("full" if lengths[-1] == 384 else "384,384,100")


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (HALF, "6x768"),
        (LEFT_OUT, "6x768 without layer 2"),
        ((None, Units(6, 768), None), "6x768 without layers 1, 3"),
        ((Units(6, 768), None, Units(3, 9)), "6x768,-,3x9"),
    ],
)
def test_tables_say_which_layers_are_left_out(layers: Layers, text: str) -> None:
    assert layers_text(layers_name(layers)) == text


def test_tables_show_a_dash_for_all_layers() -> None:
    assert layers_text("-") == "-"


@pytest.mark.parametrize("text", ["0x8", "2x0", "2x", "x8", "2x8,", "9" * 99 + "x8", "2x8,-,-"])
def test_units_that_no_layer_has_are_refused(text: str) -> None:
    with pytest.raises(QualaError, match=r"(HEADSxNEURONS|units of 2 layers)") as raised:
        read_layers(text, layers=2)
    assert len(str(raised.value)) < 200
