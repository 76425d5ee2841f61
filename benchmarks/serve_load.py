"""Sustained requests per second and latency of a running `quala serve`.

    quala serve MODEL &
    python benchmarks/serve_load.py http://127.0.0.1:8000 --budgets full,ms=10 --concurrency 1,8
    python benchmarks/serve_load.py http://127.0.0.1:8000 --data questions.jsonl --seconds 30
    python benchmarks/serve_load.py http://127.0.0.1:8000 --rate 3 --heavy 10

Each client asks one question, waits for the reply, and asks the next one; `--concurrency` is the
number of clients. A budget is `full`, `ms=X`, `macs=X` or `keep=X`. Latencies are seen from the
client and count answered requests only; refused ones (429, 503, 504) are counted apart. Without
`--data` (JSON lines with `question` and `context`) texts of 1 to 8 sentences are asked about.

With `--rate X` requests come at X times what the service can answer, whether it answers or not,
each on a connection of its own. Three rows: a fifth of what it can answer, X times, and X times
with `--heavy` requests of half a megabyte among them, evenly over the time. Times and counts are
of the short requests; those of the heavy ones are in the last column.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

FIELDS = {"ms": "budget_ms", "macs": "budget_macs", "keep": "keep"}
SENTENCES = (
    "In the spring of 1900 sponge divers came upon an ancient shipwreck off Antikythera.",
    "Among the statues raised from it was a corroded lump of bronze.",
    "In May 1902 the archaeologist Valerios Stais noticed a gear wheel embedded in it.",
    "The device turned out to be a hand-cranked model of the heavens.",
    "At least thirty meshing gears followed the Sun and the Moon through the zodiac.",
    "Its back dials predicted eclipses and kept the four-year cycle of the Olympic Games.",
    "Its inscriptions were read again a century later with X-ray tomography.",
    "Nothing of comparable complexity is known until the clocks of the fourteenth century.",
)


@dataclass
class Load:
    """What one combination of budget and concurrency came to."""

    seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    elapsed: float = 0.0

    def fail(self, why: str) -> None:
        """Count a request without an answer."""
        self.failures[why] = self.failures.get(why, 0) + 1


def main(argv: Sequence[str] | None = None) -> int:
    """Load the service with every combination and print a table; 1 when nothing was answered."""
    arguments = _parser().parse_args(argv)
    questions = read_questions(arguments.data)
    if arguments.rate:
        return overload(arguments, questions)
    table = Table("Budget", "Clients", "Requests/s", "p50 ms", "p99 ms", "Answered", "Refused")
    answered = 0
    for budget, clients in itertools.product(arguments.budgets, arguments.concurrency):
        bodies = [question | budget_fields(budget) for question in questions]
        load = asyncio.run(
            run_load(
                arguments.url,
                bodies,
                clients=clients,
                seconds=arguments.seconds,
                warmup=arguments.warmup,
            )
        )
        answered += len(load.seconds)
        table.add_row(budget, str(clients), *cells(load))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if answered else 1


async def run_load(
    url: str, bodies: Sequence[dict[str, Any]], *, clients: int, seconds: float, warmup: int
) -> Load:
    """Ask for `seconds` with `clients` at once, after `warmup` requests that do not count."""
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=120) as session:
        queue = itertools.cycle(bodies)
        for body in itertools.islice(queue, warmup):
            await _ask(session, body, Load())
        load, started = Load(), time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(_client(session, queue, load, end) for _ in range(clients)))
        load.elapsed = time.perf_counter() - started
    return load


async def _client(
    session: httpx2.AsyncClient, bodies: Iterator[dict[str, Any]], load: Load, end: float
) -> None:
    while time.perf_counter() < end:
        await _ask(session, next(bodies), load)


async def _ask(session: httpx2.AsyncClient, body: dict[str, Any], load: Load) -> None:
    started = time.perf_counter()
    try:
        response = await session.post("/answer", json=body)
    except httpx2.TransportError as error:
        load.fail(type(error).__name__)
        await asyncio.sleep(0.1)
        return
    if response.is_success:
        load.seconds.append(time.perf_counter() - started)
        return
    load.fail(str(response.status_code))
    await asyncio.sleep(min(float(response.headers.get("Retry-After", 0)), 1.0))


HEAVY_BYTES = 515_000


def overload(arguments: argparse.Namespace, questions: Sequence[dict[str, str]]) -> int:
    """Print what short requests wait for, in quiet, under overload, and with heavy ones."""
    bodies = [question | budget_fields(arguments.budgets[0]) for question in questions]
    capacity = asyncio.run(_capacity(arguments.url, bodies, seconds=arguments.seconds))
    table = Table(
        "Load",
        "Requests/s",
        "p50 ms",
        "p99 ms",
        "p99, quiet = 1",
        "Statuses",
        "Heavy: s, statuses",
    )
    quiet = 0.0
    for share, heavy in ((0.2, 0), (arguments.rate, 0), (arguments.rate, arguments.heavy)):
        short, long = asyncio.run(
            _open_loop(
                arguments.url,
                bodies,
                rate=share * capacity,
                heavy=heavy,
                seconds=arguments.seconds,
                patience=arguments.patience,
            )
        )
        middle, high = percentiles(short.seconds or [math.nan])
        quiet = quiet or high
        name = f"{share:g} x {capacity:.0f}/s" + (f", {heavy} heavy" if heavy else "")
        figures = [len(short.seconds) / short.elapsed, 1000 * middle, 1000 * high, high / quiet]
        times = f"{min(long.seconds):.1f} to {max(long.seconds):.1f} s, " if long.seconds else ""
        heavies = times + _statuses(long) if heavy else "-"
        table.add_row(name, *(f"{one:.1f}" for one in figures), _statuses(short), heavies)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    return 0


async def _capacity(url: str, bodies: Sequence[dict[str, Any]], *, seconds: float) -> float:
    """Return the requests per second of 8 clients that wait for each reply."""
    load, queue = Load(), itertools.cycle(map(_bytes, bodies))
    end = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            await _post(url, next(queue), load)

    await asyncio.gather(*(client() for _ in range(8)))
    return len(load.seconds) / seconds


async def _open_loop(
    url: str,
    bodies: Sequence[dict[str, Any]],
    *,
    rate: float,
    heavy: int,
    seconds: float,
    patience: float,
) -> tuple[Load, Load]:
    """Send requests at fixed times; return what the short and the heavy ones came to."""
    short, long, started = Load(elapsed=seconds), Load(), time.perf_counter()
    text = " ".join(itertools.islice(itertools.cycle(SENTENCES), HEAVY_BYTES // 60))
    whole = _bytes(bodies[0] | {"context": text[:HEAVY_BYTES]})
    due = [
        (number / rate, _bytes(body), short)
        for number, body in zip(range(int(rate * seconds)), itertools.cycle(bodies))
    ]
    due += [(number * seconds / heavy, whole, long) for number in range(heavy)]
    tasks = []
    for moment, body, load in sorted(due, key=lambda item: item[0]):
        await asyncio.sleep(started + moment - time.perf_counter())
        tasks.append(asyncio.create_task(_post(url, body, load)))
    _, late = await asyncio.wait(tasks, timeout=patience)
    for task in late:
        task.cancel()
        (long if heavy else short).fail("given up")
    return short, long


def _bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def _post(url: str, body: bytes, load: Load) -> None:
    """Send a request on a connection of its own; a client library would cost more time."""
    host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
    started = time.perf_counter()
    head = (
        f"POST /answer HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection(host, int(port or 80))
        try:
            writer.write(head.encode() + body)
            status = (await reader.read()).split(b" ", 2)[1].decode()
        finally:
            writer.close()
    except (OSError, IndexError) as error:
        load.fail(type(error).__name__)
        return
    if status == "200":
        load.seconds.append(time.perf_counter() - started)
    else:
        load.fail(status)


def _statuses(load: Load) -> str:
    counts = {"200": len(load.seconds)} | load.failures
    return ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))


def cells(load: Load) -> list[str]:
    """Return a row of the table."""
    refused = ", ".join(f"{count} x {why}" for why, count in sorted(load.failures.items()))
    if not load.seconds:
        return ["0.0", "-", "-", "0", refused or "0"]
    middle, high = percentiles(load.seconds)
    rate = len(load.seconds) / load.elapsed
    figures = [f"{rate:.1f}", f"{1000 * middle:.1f}", f"{1000 * high:.1f}"]
    return [*figures, str(len(load.seconds)), refused or "0"]


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile (the slowest, of fewer than 100)."""
    ranked = sorted(seconds)
    return statistics.median(ranked), ranked[math.ceil(0.99 * len(ranked)) - 1]


def budget_fields(budget: str) -> dict[str, float]:
    """Return the request's fields for `full`, `ms=X`, `macs=X` or `keep=X`."""
    # A share of 1 is the full length whatever the service's default budget is.
    name, _, value = ("keep=1" if budget == "full" else budget).partition("=")
    return {FIELDS[name]: float(value)}


def read_questions(file: str | None) -> list[dict[str, str]]:
    """Return the questions of a JSON-lines file, or made-up ones of growing length."""
    if file is None:
        return [
            {"question": "Who noticed the gear wheel?", "context": " ".join(SENTENCES[:count])}
            for count in range(1, len(SENTENCES) + 1)
        ]
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [{"question": row["question"], "context": row["context"]} for row in rows]


def _budgets(text: str) -> list[str]:
    budgets = text.split(",")
    for budget in budgets:
        try:
            budget_fields(budget)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(
                f"`{budget}` is not full, ms=X, macs=X or keep=X"
            ) from None
    return budgets


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("there must be at least 1 client")
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="address of the service")
    parser.add_argument("--budgets", type=_budgets, default=["full"], metavar="A,B,...")
    parser.add_argument("--concurrency", type=_counts, default=[1, 8], metavar="N,M,...")
    parser.add_argument("--seconds", type=float, default=10.0, help="per combination")
    parser.add_argument("--warmup", type=int, default=8, help="requests that do not count")
    parser.add_argument(
        "--rate", type=float, metavar="X", help="load in multiples of what can be answered"
    )
    parser.add_argument(
        "--heavy", type=int, default=0, metavar="N", help="half-megabyte requests, with --rate"
    )
    parser.add_argument(
        "--patience", type=float, default=600, help="seconds for the last replies, with --rate"
    )
    parser.add_argument("--data", metavar="FILE.jsonl", help="questions and contexts to ask")
    return parser


if __name__ == "__main__":
    sys.exit(main())
