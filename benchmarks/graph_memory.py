"""What one memory arena for all cut graphs saves, against one arena for each.

    python benchmarks/graph_memory.py --batch 16

Each variant runs in a process of its own: the pretrained model answers batches of several sizes at
every point of its front, then single inputs of 164 tokens, which are timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import quala
from quala.lengths import LengthConfig
from quala.runtime.engine import OrtEngine
from quala.runtime.timing import synthetic_inputs

SIZES = (384, 350, 300, 200, 100)


def main() -> None:
    """Measure both variants, twice in turn, print memory and time and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16, help="inputs of 384 tokens in a batch")
    batch = parser.parse_args().batch
    found = {True: [], False: []}
    for shared in (False, True) * 2:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[shared].append(pool.apply(measure, (shared, batch)))
    (own, slow), (one, fast) = (map(min, zip(*found[kind], strict=True)) for kind in (False, True))
    print(f"largest memory: {own:.0f} MiB, with one arena {one:.0f} MiB, {own / one:.2f}x less")
    print(
        f"CPU time: {1000 * slow:.1f} ms, with one arena {1000 * fast:.1f} ms, {slow / fast:.2f}x"
    )


def measure(shared: bool, batch: int) -> tuple[float, float]:
    """Return the largest resident memory in MiB and the CPU seconds of one pass over the front."""
    OrtEngine.shared_arena = shared
    model = quala.load("minilm-squad", threads=1)
    points = [
        LengthConfig(tuple(point["lengths"]), model.facts.sequence_length)
        for point in model.card["front"]
    ]
    for size in SIZES:
        for point in points:
            model.engine.logits(synthetic_inputs([size] * batch), point)
    seconds = []
    for _ in range(20):
        start = time.process_time()
        for point in points:
            model.engine.logits(synthetic_inputs([164]), point)
        seconds.append(time.process_time() - start)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return largest, statistics.median(seconds)


if __name__ == "__main__":
    main()
