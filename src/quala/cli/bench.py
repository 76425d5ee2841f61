"""`quala bench`: what an export's points cost in time, beside a baseline."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from quala.cli.arguments import PLACE, REPEATS, Parser, add_runtime, number, numbers, one_of
from quala.cli.locate import add_model, locate_model
from quala.cli.output import show, warn, write_json
from quala.cost import PRESETS
from quala.errors import QualaError, not_installed
from quala.lengths import LengthConfig
from quala.reading import expanded
from quala.runtime.hardware import BUSY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quala.architecture import Architecture
    from quala.data.features import QAExample
    from quala.runtime.answerer import QuestionAnswerer
    from quala.runtime.card import Budget, Card, Point, Query, Reply
    from quala.runtime.engine import Engine, Inputs, Kept
    from quala.runtime.timing import Timing

CALIBRATION = 128
"""Inputs that peers calibrate on."""
NOTHING = "tokenizing and decoding alone"
RANDOM = "random weights"
LOSS = 1.0
"""Points of F1 that equal accuracy allows."""
SCORED = 16
"""Questions at a time that are scored."""
BASELINE = "bert-base"
Entries = dict[str, Callable[[list[Any]], object]]
# Tokens of SQuAD 1.1 dev windows (max_length 384, BERT vocabulary): 32 evenly spaced quantiles.
SQUAD_TOKENS = (
    61, 86, 103, 112, 119, 123, 128, 131, 134, 138, 142, 145, 149, 153, 157, 161,
    166, 170, 175, 180, 185, 191, 197, 203, 211, 218, 228, 242, 259, 279, 309, 384,
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Time and print. Raises QualaError for models, runtimes and sizes that are not valid."""
    arguments = _parser().parse_args(argv)
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.data.task import Span
    from quala.runtime.card import Card
    from quala.runtime.hardware import processor
    from quala.runtime.timing import compare

    card = Card.read(folder)
    whole = expanded(arguments.data).exists()
    if whole and card.task != Span.kind:
        raise QualaError(
            f"`--data` takes files for question answering, this model's task is {card.task}: use "
            "`natural` or a number of tokens."
        )
    scores: dict[str, float] = {}
    with TemporaryDirectory() as work:
        if whole:
            asked, others = _questions(arguments.data, arguments.questions)
            inputs: list[Any] = [_query(one) for one in asked]
            entries = _answering(arguments, folder, card, others, Path(work))
            guessing = {NOTHING, *(name for name in entries if RANDOM in name)}
            scores = {
                name: _f1(run, asked) for name, run in entries.items() if name not in guessing
            }
        else:
            inputs = _token_counts(arguments.data, card.sequence_length) * arguments.repeats
            entries = _logits_alone(arguments, folder, card, Path(work))
            inputs.sort()  # a batch holds neighbors in length
        found = [one for size in arguments.batch for one in compare(entries, inputs, batch=size)]
    machine = processor()
    if arguments.json:
        facts = {name: getattr(arguments, name) for name in ("runtime", "threads", "data")}
        timings = [asdict(one) | {"f1": scores.get(one.name)} for one in found]
        write_json({"model": card.name, **facts, "processor": machine, "timings": timings})
        return 0
    what = "from question to answer" if whole else "logits only"
    notes = dict.fromkeys(f"{BUSY} {one.conditions.note}" for one in found if one.conditions.busy)
    show(
        _table(found, card.name, scores),
        *notes,
        *_verdicts(found, scores),
        f"{arguments.runtime}, {arguments.threads} threads, {machine['name']} "
        f"({machine['instructions']}); {arguments.data}, {what}; ms per input, interleaved",
    )
    return 0


def _logits_alone(arguments: argparse.Namespace, folder: Path, card: Card, work: Path) -> Entries:
    """Return baselines and points that run the model on random inputs of given token counts."""
    from quala.runtime.engine import open_export
    from quala.runtime.timing import synthetic_inputs

    def run(engine: Engine, lengths: LengthConfig | None, counts: list[int]) -> None:
        engine.logits(synthetic_inputs(counts, words=card.arch.vocabulary), lengths)

    engines: dict[str, Engine] = {**_baselines(arguments, card)[1]}
    counts = _token_counts("natural", card.sequence_length)
    words = card.arch.vocabulary
    samples = [
        synthetic_inputs([count], seed=seed, words=words) for seed, count in enumerate(counts)
    ]
    engines |= _peers(arguments, card, samples, work)
    entries: Entries = {name: partial(run, engine, None) for name, engine in engines.items()}
    engine = open_export(folder, card, runtime=arguments.runtime, threads=arguments.threads)
    return entries | {
        _name(card, point): partial(run, engine, point.lengths) for point in card.front
    }


def _answering(
    arguments: argparse.Namespace,
    folder: Path,
    card: Card,
    others: Sequence[QAExample],
    work: Path,
) -> Entries:
    """Return baselines, peers and points that go all the way from text to answer.

    Peers calibrate on the questions `others`.
    """
    from quala.runtime.answerer import QuestionAnswerer, load_answerer
    from quala.runtime.card import Budget

    model = load_answerer(folder, runtime=arguments.runtime, threads=arguments.threads)
    entries: Entries = {}
    arch, engines = _baselines(arguments, card)
    for name, engine in engines.items():
        full = LengthConfig.full(layers=arch.layers, sequence_length=card.sequence_length)
        own = replace(card, arch=arch, front=(replace(card.full, lengths=full),))
        entries[name] = QuestionAnswerer(own, model.tokenizer, engine).answer_batch
    read = _Reader()
    if arguments.peers:
        QuestionAnswerer(card, model.tokenizer, read).answer_batch([_query(one) for one in others])
    own = replace(card, front=(card.full,))
    for name, engine in _peers(arguments, card, read.inputs, work).items():
        entries[name] = QuestionAnswerer(own, model.tokenizer, engine).answer_batch
    for point in card.front:
        budget = Budget(lengths=point.lengths.lengths, layers=point.units)
        entries[_name(card, point)] = partial(_ask, model, budget)
    without = QuestionAnswerer(card, model.tokenizer, _ZerosEngine())
    return entries | {NOTHING: without.answer_batch}


def _baselines(
    arguments: argparse.Namespace, card: Card
) -> tuple[Architecture, dict[str, Engine]]:
    """Return the baseline with random weights, on which its time does not depend, twice.

    In PyTorch it is padded, as published evaluations run it, and in the runtime of the points.
    """
    baseline = arguments.baseline
    if baseline is None and find_spec("torch") is None:
        warn(f"No baseline: {not_installed('torch')}")
        baseline = "none"
    if baseline == "none":
        return card.arch, {}
    baseline = baseline or BASELINE
    from quala.data.task import Span
    from quala.runtime.engine import TorchEngine, open_model
    from quala.stages.measure import random_model

    model = random_model(baseline, Span())
    name = f"{baseline} fp32, {RANDOM}"
    longest, threads = card.sequence_length, arguments.threads
    return model.arch, {
        f"{name}, PyTorch, padded to {longest}": TorchEngine(
            model, pad_to=longest, threads=threads
        ),
        f"{name}, {arguments.runtime}": open_model(
            arguments.runtime, model, sequence_length=longest, threads=threads
        ),
    }


def _peers(
    arguments: argparse.Namespace, card: Card, samples: Sequence[Inputs], work: Path
) -> Mapping[str, Engine]:
    """Return the float model of `--peers` as other tools make it fast."""
    if arguments.peers is None:
        return {}
    from quala.data.task import Span
    from quala.runtime.peers import Source, float_model, peer_engines

    model = float_model(Path(arguments.peers), answers=card.task == Span.kind)
    source = Source(model, work, samples[:CALIBRATION], arguments.threads)
    made, left_out = peer_engines(source)
    for name, reason in left_out.items():
        warn(f"{name} is left out: {reason}")
    return made


def _f1(run: Callable[[list[Any]], Any], asked: Sequence[QAExample]) -> float:
    """Return the F1 of the answers, in percent."""
    from quala.metrics.squad import answer_f1

    found = []
    for first in range(0, len(asked), SCORED):
        part = asked[first : first + SCORED]
        for one, reply in zip(part, run([_query(each) for each in part]), strict=True):
            said = reply.answers[0].text if reply.answers else ""
            found.append(100 * answer_f1(said, one.answers))
    return float(np.mean(found))


def _verdicts(found: Sequence[Timing], scores: Mapping[str, float]) -> list[str]:
    """Say, for each batch, how the fastest point compares with the fastest peer at equal F1."""
    from quala.runtime.peers import PEERS

    own = next((scores[name] for name in PEERS if name in scores), None)
    if own is None:
        return []
    told = []
    for batch in dict.fromkeys(one.batch for one in found):
        able = [one for one in found if one.batch == batch]
        able = [one for one in able if scores.get(one.name, -np.inf) >= own - LOSS]
        peers = [one for one in able if one.name in PEERS]
        points = [one for one in able if one.name not in PEERS]
        if points:
            peer, point = (min(each, key=lambda one: one.median) for each in (peers, points))
            told.append(
                f"At most {LOSS:g} F1 below the float model, batch {batch}: {point.name} takes "
                f"{point.median:.2f} ms, the fastest peer ({peer.name}) {peer.median:.2f} ms: "
                f"{peer.median / point.median:.2f}x."
            )
        else:
            told.append(f"Batch {batch}: no point is within {LOSS:g} F1 of the float model.")
    return told


def _ask(model: QuestionAnswerer, budget: Budget, queries: list[Query]) -> list[Reply]:
    return model.answer_batch([replace(query, budget=budget) for query in queries])


class _ZerosEngine:
    """An engine that takes no time."""

    name = "nothing"

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Return zeros."""
        return np.zeros((*inputs["input_ids"].shape, 2), dtype=np.float32)

    def survivors(self, inputs: Inputs, lengths: LengthConfig) -> tuple[NDArray[np.float32], Kept]:
        """Return zeros and no layers."""
        return self.logits(inputs, lengths), {}


class _Reader(_ZerosEngine):
    """Keeps the inputs, one of a batch at a time."""

    def __init__(self) -> None:
        self.inputs: list[Inputs] = []

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Keep the inputs without padding and return zeros."""
        for row, mask in enumerate(inputs["attention_mask"]):
            count = int(mask.sum())
            self.inputs.append({name: all[row : row + 1, :count] for name, all in inputs.items()})
        return super().logits(inputs, lengths)


def _name(card: Card, point: Point) -> str:
    return f"{card.precision} {point.lengths.name}"


def _token_counts(data: str, longest: int) -> list[int]:
    """Return the tokens of the inputs: `natural` (SQuAD dev) or one number for all."""
    if data == "natural":
        return [min(count, longest) for count in SQUAD_TOKENS]
    if not data.isdigit() or not 2 <= int(data) <= longest:
        raise QualaError(f"`--data` is `natural` or 2 to {longest} tokens, got `{data}`.")
    return [int(data)] * len(SQUAD_TOKENS)


def _questions(data: str, count: int) -> tuple[list[QAExample], list[QAExample]]:
    """Return questions, evenly spaced over a SQuAD folder or file, and others to calibrate on."""
    from quala.data.read import read_squad
    from quala.data.spec import DataSpec

    spec = DataSpec(task="squad", path=data, unanswerable="drop")
    examples = read_squad(spec, spec.test_split, offsets=False)
    step = max(1, len(examples) // count)
    chosen = examples[::step][:count]
    others = [one for place, one in enumerate(examples) if place % step] or chosen
    return chosen, others[:: max(1, len(others) // CALIBRATION)][:CALIBRATION]


def _query(one: QAExample) -> Query:
    from quala.runtime.card import Query

    return Query(question=one.question, context=one.context)


def _table(found: Sequence[Timing], name: str, scores: Mapping[str, float]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("Model")
    if scores:
        table.add_column("F1", justify="right")
    for heading in ("Batch", "Median ms", "p10 to p90", f"Speed-up over {found[0].name}"):
        table.add_column(heading, justify="right")
    for timing in found:
        table.add_row(
            timing.name,
            *([f"{scores[timing.name]:.2f}" if timing.name in scores else "-"] if scores else []),
            str(timing.batch),
            f"{timing.median:.2f}" + f" {BUSY}" * timing.conditions.busy,
            f"{timing.p10:.2f} to {timing.p90:.2f}",
            f"{timing.ratio:.2f}x",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala bench", description=__doc__)
    add_model(parser)
    parser.add_argument(
        "--baseline",
        type=one_of("baseline", [*PRESETS, "none"]),
        help=f"a preset of `quala cost`, or none (default: {BASELINE}, none without PyTorch)",
    )
    parser.add_argument(
        "--batch",
        type=numbers(16, at_least=1, at_most=1024),
        default="1",
        metavar="N,N,...",
        help="batch sizes (default: 1)",
    )
    parser.add_argument(
        "--data",
        type=PLACE,
        default="natural",
        help="natural (SQuAD's lengths), a number of tokens, or a SQuAD folder or file to answer",
    )
    parser.add_argument(
        "--peers",
        type=PLACE,
        metavar="CHECKPOINT",
        help="a float BERT, timed as ONNX Runtime, OpenVINO, NNCF and CTranslate2 make it fast",
    )
    add_runtime(parser)
    parser.add_argument(
        "--repeats",
        type=number(int, at_least=1, at_most=REPEATS),
        default=1,
        help="passes over the inputs (default: 1)",
    )
    parser.add_argument(
        "--questions",
        type=number(int, at_least=1, at_most=100_000),
        default=64,
        help="questions taken from a file (default: 64)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
