"""The genetic operators on length configurations, as pure functions of a random generator.

`constant_rates`, `mutate` and `average` are the published ones (arXiv 2010.07003, section 3.3);
the others move along a front in larger, structured steps.
"""

from __future__ import annotations

from random import Random

from quala.lengths import LengthConfig, constant_drop
from quala.search.space import Space

_BISECTIONS = 60


def constant_rates(space: Space, size: int) -> list[LengthConfig]:
    """Return `size` constant-rate genes, evenly spaced in mean relative length.

    They lie strictly between the space's cheapest gene and the full length.
    """
    lowest = _mean_share(space.lowest)
    targets = (lowest + (1 - lowest) * (i + 1) / (size + 1) for i in range(size))
    return [_constant_rate(space, target) for target in targets]


def _mean_share(gene: LengthConfig) -> float:
    return sum(gene.lengths) / (len(gene.lengths) * gene.sequence_length)


def _constant_rate(space: Space, target: float) -> LengthConfig:
    low, high = 0.0, 1.0
    gene = space.full
    for _ in range(_BISECTIONS):
        rate = (low + high) / 2
        drop = constant_drop(rate, layers=space.layers, sequence_length=space.sequence_length)
        gene = space.repair(drop.lengths)
        low, high = (rate, high) if _mean_share(gene) > target else (low, rate)
    return gene


def mutate(gene: LengthConfig, rng: Random, *, space: Space, probability: float) -> LengthConfig:
    """Redraw each layer with `probability`, between its neighbours' lengths.

    A redrawn length is uniform on [the parent's next length, the child's previous length].
    """
    following = (*gene.lengths[1:], space.smallest)
    lengths, previous = [], space.sequence_length
    for length, lowest in zip(gene.lengths, following):
        if rng.random() < probability:
            length = rng.randint(min(lowest, previous), previous)
        previous = min(length, previous)
        lengths.append(previous)
    return space.repair(lengths)


def average(first: LengthConfig, second: LengthConfig, *, space: Space) -> LengthConfig:
    """Cross two genes over by their element-wise mean, halves rounded up."""
    pairs = zip(first.lengths, second.lengths)
    return space.repair([(a + b + 1) // 2 for a, b in pairs])


def splice(
    first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space
) -> LengthConfig:
    """Join the first layers of one gene to the last layers of another."""
    cut = rng.randint(0, space.layers)
    return space.repair((*first.lengths[:cut], *second.lengths[cut:]))


def pick(first: LengthConfig, second: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Take at every layer the smaller length, or at every layer the larger one."""
    choose = min if rng.random() < 0.5 else max
    return space.repair([choose(pair) for pair in zip(first.lengths, second.lengths)])


def jitter(gene: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Move one to three layers a little; the width of the move is log-uniform."""
    widest = max(space.step, space.sequence_length // 4)
    lengths = [float(length) for length in gene.lengths]
    for layer in rng.sample(range(space.layers), k=min(space.layers, rng.randint(1, 3))):
        width = space.step * (widest / space.step) ** rng.random()
        lengths[layer] += rng.choice((-1, 1)) * max(width, space.step)
    return space.repair(_carried(lengths, rng))


def _carried(lengths: list[float], rng: Random) -> list[float]:
    """Let a layer that grew past its predecessor raise it, half of the time."""
    if rng.random() < 0.5:
        return lengths
    raised, highest = [], 0.0
    for length in reversed(lengths):
        highest = max(highest, length)
        raised.append(highest)
    return raised[::-1]


def stop_dropping(gene: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Let one layer, or all layers up to it, keep what reaches it."""
    layer = rng.randrange(space.layers)
    before = (space.sequence_length, *gene.lengths)
    if rng.random() < 0.5:
        kept = (space.sequence_length,) * (layer + 1)
    else:
        kept = (*gene.lengths[:layer], before[layer])
    return space.repair((*kept, *gene.lengths[layer + 1 :]))


def set_suffix(gene: LengthConfig, rng: Random, *, space: Space) -> LengthConfig:
    """Scale, or set to one length, all layers from one layer on."""
    layer = rng.randrange(space.layers)
    head, tail = gene.lengths[:layer], gene.lengths[layer:]
    top = head[-1] if head else space.sequence_length
    if rng.random() < 0.5:
        length = rng.uniform(space.smallest, top)
        return space.repair((*head, *[length] * len(tail)))
    factor = 2 ** rng.uniform(-1, 1)
    return space.repair((*head, *[length * factor for length in tail]))
