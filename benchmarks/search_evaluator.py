"""How much work the shared evaluator saves a search, and whether it finds the same front.

    python benchmarks/search_evaluator.py                                    # toy model, demo data
    python benchmarks/search_evaluator.py --model FOLDER --data FOLDER --questions 200

Both strategies search with the shared evaluator; then every candidate is scored once more,
alone by the model's plain forward pass: on the same batches (`alone`), and on inputs padded to
the full length as the published evaluation has them (`padded`). Times are CPU seconds, ratios
are against the shared evaluator.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quala.cost import mean_macs
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_model, load_tokenizer
from quala.search.evaluate import (
    Chunk,
    Evaluation,
    SharedEvaluator,
    TaskScoring,
    cut_chunks,
)
from quala.search.result import SearchResult
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths, SearchSettings, frontier
from quala.search.study import run_search


class TimedEvaluator:
    """Passes everything on and adds the CPU time of scoring up."""

    def __init__(self, inner: SharedEvaluator) -> None:
        self.inner = inner
        self.seconds = 0.0

    def cost(self, lengths: LengthConfig) -> float:
        """Return the cost of lengths."""
        return self.inner.cost(lengths)

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score candidates and time it."""
        start = time.process_time()
        scored = self.inner.evaluate(configs)
        self.seconds += time.process_time() - start
        return scored

    def recall(self, scored: Sequence[Evaluation]) -> None:
        """Pass on what is known."""
        self.inner.recall(scored)


def main() -> None:
    """Read the arguments, measure both strategies, print one table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.model or toy_checkpoint(Path(folder) / "toy")
        data = load_data(arguments, source)
        model = load_model(source, task=data.task, head="or_new").eval()
        print(
            f"{arguments.questions} questions, {arguments.candidates} candidates, z = "
            f"{arguments.z}, {arguments.threads} threads"
        )
        print(
            f"{'strategy':<12}{'shared s':>10}{'alone s':>10}{'ratio':>8}{'padded s':>10}"
            f"{'ratio':>8}{'stopped':>9}{'hypervolume':>13}  front"
        )
        for name in arguments.strategies:
            measure(name, model, data, arguments, Path(folder))


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="a checkpoint folder; a random toy model without it")
    parser.add_argument("--data", help="a SQuAD folder; the demo set without it")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--chunk", type=int, default=25, help="questions between two stops")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--z", type=float, default=3.0)
    parser.add_argument("--step", type=int, default=1, help="granularity of the lengths")
    parser.add_argument("--strategies", nargs="+", default=["published", "quala"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-mib", type=int, default=1024)
    return parser.parse_args()


def load_data(arguments: argparse.Namespace, source: str | Path) -> TaskData:
    """Return SQuAD, or the demo set, with the search slice cut to the number of questions."""
    place: dict[str, Any] = {"path": arguments.data} if arguments.data else {"name": "demo"}
    small: dict[str, Any] = {} if arguments.model else {"max_length": 128, "doc_stride": 32}
    spec = DataSpec(task="squad", search_size=arguments.questions, **place, **small)
    return TaskData(spec, load_tokenizer(source))


def toy_checkpoint(folder: Path) -> Path:
    """Save a random BERT of two layers with a tokenizer of single characters."""
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizer

    characters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    words += [f"##{one}" for one in characters]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    BertForQuestionAnswering(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=128).save_pretrained(folder)
    return folder


def measure(
    name: str,
    model: LengthAdaptiveModel,
    data: TaskData,
    arguments: argparse.Namespace,
    folder: Path,
) -> None:
    """Search, score everything again alone, and print the row of a strategy."""
    part = data.search
    sizes = {"examples": arguments.chunk, "batch_size": arguments.batch, "seed": 0}
    chunks = cut_chunks(part, **sizes)
    padded_chunks = cut_chunks(part, **sizes, pad_to=data.spec.max_length)
    scoring = TaskScoring(data, part)
    cost = partial(mean_macs, model.arch, real_lengths=part.features.lengths)
    evaluator = SharedEvaluator(
        model, chunks, scoring, cost,
        patience=arguments.z, cache_bytes=arguments.cache_mib * 2**20,
    )  # fmt: skip
    shared = TimedEvaluator(evaluator)
    space = Space(model.num_layers, data.spec.max_length, step=arguments.step)
    result = run_search(shared, space, plan(name, arguments.candidates), folder / name)
    alone, seconds = score_alone(model, chunks, scoring, result)
    padded, padded_seconds = score_alone(model, padded_chunks, scoring, result)
    alike = [k.lengths for k in frontier(padded)] == [k.lengths for k in frontier(alone)]
    same = [k.lengths for k in frontier(alone)] == [point.lengths for point in result.front]
    stopped = sum(point.stopped_early for point in result.candidates)
    verdict = "identical" if same else difference(alone, result)
    print(
        f"{name:<12}{shared.seconds:>10.1f}{seconds:>10.1f}{seconds / shared.seconds:>8.1f}"
        f"{padded_seconds:>10.1f}{padded_seconds / shared.seconds:>8.1f}"
        f"{stopped:>9}{result.hypervolume:>13.2f}  {verdict}"
        f"{'' if alike else ', padded differs'}",
        flush=True,
    )


def plan(name: str, candidates: int) -> SearchSettings:
    """Return a search of the given size."""
    mutations, crossovers = (10, 10) if name == "published" else (6, 4)
    return SearchSettings(
        seed=1, strategy=name, max_evaluations=candidates, generations=100, population=20,
        mutations=mutations, crossovers=crossovers,
    )  # fmt: skip


def score_alone(
    model: LengthAdaptiveModel, chunks: Sequence[Chunk], scoring: TaskScoring, result: SearchResult
) -> tuple[list[EvaluatedLengths], float]:
    """Score each candidate by itself with the plain forward pass; also return CPU seconds."""
    known, start = [], time.process_time()
    for point in result.candidates:
        outputs = {}
        with torch.inference_mode():
            for batch in (batch for chunk in chunks for batch in chunk.batches):
                logits = model(batch, point.lengths).numpy()
                for row, (feature, mask) in enumerate(
                    zip(batch["feature"].tolist(), batch["attention_mask"])
                ):
                    outputs[feature] = logits[row, : int(mask.sum())]
        known.append(EvaluatedLengths(point.lengths, point.cost, scoring.total(outputs)))
    return known, time.process_time() - start


def difference(alone: Sequence[EvaluatedLengths], result: SearchResult) -> str:
    """Say which candidates one front has and the other lacks."""
    naive, ours = {k.lengths for k in frontier(alone)}, {p.lengths for p in result.front}
    return f"missed {len(naive - ours)} of {len(naive)}, {len(ours - naive)} instead"


if __name__ == "__main__":
    main()
