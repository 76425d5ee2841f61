"""The recipe for the time given, from made-up speeds; no clock and no model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quala.autocompress.pace import DEPTHS, WIDTHS, Pace, Sizes
from quala.autocompress.recipe import (
    ADAPT,
    CALIBRATE,
    ENOUGH,
    FEWEST,
    LEAST_TEST,
    WHOLE,
    Amounts,
    choose,
    described,
    least_loss,
    overrides,
    seconds,
)
from quala.autocompress.subject import settings_of
from quala.errors import QualaError

PACE = Pace(read=2.0, tokenize=1e-4, windows=1.0, forward=0.004, train=0.012, precision="bf16")
SIZES = Sizes(train=60_000, search=1000, selection=1000, test=9000)


def slower(times: float) -> Pace:
    return replace(PACE, forward=times * PACE.forward, train=times * PACE.train)


def test_the_recipe_grows_with_the_minutes() -> None:
    found = [choose(minutes, PACE, SIZES, bare=False).recipe for minutes in (0.5, 4, 20)]
    assert found == [CALIBRATE, ADAPT, WHOLE]


def test_the_recipe_shrinks_with_the_speed_of_the_machine_alone() -> None:
    found = [choose(20, slower(times), SIZES, bare=False).recipe for times in (1, 4, 40)]
    assert found == [WHOLE, ADAPT, CALIBRATE]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("minutes", [3, 10, 30, 120])
def test_the_estimate_stays_within_the_minutes(minutes: int, narrow: bool) -> None:
    amounts = choose(minutes, PACE, SIZES, bare=False, narrow=narrow)
    total = sum(seconds(amounts, PACE).values())
    assert total <= 60.1 * minutes
    assert total > 0.8 * 60 * minutes or amounts.adapt == 3 * SIZES.train // 16
    trained = [amounts.adapt, amounts.quantize]
    assert min(one for one in trained if one) >= FEWEST
    if amounts.teacher:
        assert amounts.adapt >= ENOUGH
        assert amounts.quantize == amounts.adapt // 4


def test_spare_time_is_for_test_examples() -> None:
    few = choose(0.1, PACE, SIZES, bare=False)
    assert few.test == LEAST_TEST
    assert choose(1000, PACE, SIZES, bare=False).test == SIZES.test


def test_small_data_are_trained_three_times_over_and_no_more() -> None:
    amounts = choose(60, PACE, Sizes(100, 20, 20, 30), bare=False)
    assert (amounts.recipe, amounts.adapt, amounts.test) == (WHOLE, 19, 30)
    assert amounts.train == amounts.calibration == 100


def test_a_bare_encoder_gets_half_of_the_time_or_is_refused_with_what_it_takes() -> None:
    amounts = choose(20, PACE, SIZES, bare=True)
    own = seconds(amounts, PACE)
    assert amounts.finetune >= 2 * FEWEST
    assert own["finetune"] == pytest.approx(own["length_adapt"] + own["quantize"], rel=0.3)
    with pytest.raises(QualaError, match=r"about (\d+) minutes are enough") as refused:
        choose(1, slower(10), SIZES, bare=True)
    enough = int(str(refused.value).partition("about ")[2].partition(" ")[0])
    assert choose(enough, slower(10), SIZES, bare=True).finetune
    with pytest.raises(QualaError):
        choose(0.8 * enough, slower(10), SIZES, bare=True)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("minutes", "bare"), [(0.5, False), (4, False), (20, False), (20, True)])
def test_the_overrides_are_what_was_chosen(minutes: float, bare: bool, narrow: bool) -> None:
    pace = replace(PACE, precision="fp32")
    given = "model.teacher=offline" if bare else "stage.finetune.given=."
    base = ["experiment=compress", "data=glue", "data.path=x.csv", given]
    amounts = choose(minutes, pace, SIZES, bare=bare, narrow=narrow)
    assert not amounts.narrow or (narrow and amounts.adapt)
    assert amounts.narrow or not narrow or minutes < 20
    settings = settings_of([*base, *overrides(amounts, pace, SIZES)])
    assert Amounts.of(settings, SIZES, windows=1.0, bare=bare) == amounts
    adapt = settings.stages["length_adapt"]
    assert not amounts.narrow or (list(adapt.widths), list(adapt.depths)) == (WIDTHS, DEPTHS)
    for name in ("length_adapt", "quantize"):
        stage = settings.stages[name]
        trains = stage.enabled and getattr(stage, "method", "qat") == "qat"
        assert not trains or stage.precision == "fp32"


def test_embeddings_have_themselves_as_teacher_and_two_inputs_a_pair() -> None:
    pairs = replace(PACE, windows=2.0)
    base = ["experiment=compress_embeddings", "data.path=x.csv", "model.teacher=offline"]
    for minutes, recipe in ((0.5, CALIBRATE), (6, ADAPT), (20, WHOLE)):
        amounts = choose(minutes, pairs, SIZES, bare=False, labels=False)
        assert amounts.recipe == recipe
        assert amounts.teacher == bool(amounts.adapt)
        settings = settings_of([*base, *overrides(amounts, pairs, SIZES)])
        found = Amounts.of(settings, SIZES, windows=2.0, bare=False)
        assert found == replace(amounts, teacher=True)
    few = choose(60, pairs, Sizes(100, 20, 20, 30), bare=False, labels=False)
    assert (few.adapt, few.calibration) == (38, 200)  # three passes over 200 texts


def test_what_is_said_is_what_is_done() -> None:
    plain = choose(4, PACE, SIZES, bare=False)
    assert plain.told == (
        "trains the model to work with fewer tokens, then rounds it to int8, then searches the "
        "lengths of it"
    )
    narrow = choose(4, PACE, SIZES, bare=False, narrow=True)
    assert narrow.told == (
        "trains the model to work with fewer tokens, heads, neurons and layers, then rounds it to "
        "int8, then searches the lengths and sizes of it"
    )
    assert narrow.adapt > plain.adapt  # its passes are cheaper
    floats = replace(choose(0.5, PACE, SIZES, bare=False), rounds=False)
    assert floats.told == "searches the lengths of the model; nothing is trained"
    assert "quantize" not in seconds(floats, PACE).keys() | described(floats).keys()


def test_examples_bound_the_loss_that_can_be_promised() -> None:
    found = [least_loss(count, "accuracy") for count in (100, 1000, 10_000)]
    assert found == sorted(found, reverse=True)
    assert 2.5 < found[0] < 3
    assert found[2] < 0.05
    assert least_loss(100, "matthews") == pytest.approx(2 * found[0])
