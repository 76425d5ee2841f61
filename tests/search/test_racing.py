import numpy as np

from quala.search.evaluate import Race

RACE = Race(z=3.0, minimum=10, total=100)
EVEN = np.full(20, 50.0)


def test_a_clear_loss_stops() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 20)
    assert RACE.lost(EVEN - 10 + noise, [EVEN])


def test_a_loss_within_the_noise_does_not_stop() -> None:
    noise = np.random.default_rng(0).normal(0, 30, 20)
    assert not RACE.lost(EVEN - 1 + noise, [EVEN])


def test_few_examples_do_not_stop() -> None:
    assert not RACE.lost(EVEN[:9] - 40, [EVEN])


def test_equal_scores_do_not_stop() -> None:
    assert not RACE.lost(EVEN, [EVEN])


def test_out_of_reach_stops_for_certain() -> None:
    assert Race(z=3.0, minimum=100, total=22).lost(EVEN, [], finished=[60.0])


def test_within_reach_does_not_stop() -> None:
    assert not RACE.lost(EVEN, [], finished=[89.0])
