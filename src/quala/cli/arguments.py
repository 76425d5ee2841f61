"""The words of a command: what each may be, and one sentence for what it may not."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from quala.errors import QualaError, unknown
from quala.lengths import FULL, MIN_TOKENS, read_layers
from quala.ranges import Text, check_number, check_text
from quala.runtime.hardware import MOST_THREADS, RUNTIMES

if TYPE_CHECKING:
    from quala.runtime.card import Budget

N = TypeVar("N", int, float)
Kind = Callable[[str], Any]
_ARGUMENT = re.compile(r"argument (\S+): ")


class Parser(argparse.ArgumentParser):
    """The parser of a verb; whatever it refuses is one sentence, a QualaError."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the values. Raises QualaError for words and options that are not known."""
        found, others = self._parsed(args, namespace)
        self._refuse(others)
        return found

    def parse_with_overrides(self, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Return the values, and the words `key=value` among the others.

        Raises QualaError for the rest of these.
        """
        found, others = self._parsed(args, None)
        words = [word for word in others if "=" in word and not word.startswith("-")]
        self._refuse([word for word in others if word not in words])
        return found, words

    def _parsed(
        self, args: Sequence[str] | None, namespace: argparse.Namespace | None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, others = self.parse_known_args(args, namespace)
        for action in self._actions:  # argparse takes the `--` of `--option=--` for its own
            if action.nargs is None and getattr(found, action.dest, None) == []:
                raise QualaError(f"`{'/'.join(action.option_strings)}` needs a value, got `--`.")
        return found, others

    def _refuse(self, others: Sequence[str]) -> None:
        if others and others[0].startswith("-"):
            option = others[0].partition("=")[0]
            raise unknown(f"option of `{self.prog}`", option, self._option_string_actions)
        if others:
            raise QualaError(f"`{self.prog}` takes no word more, got `{others[0]}`.")

    def error(self, message: str) -> Any:
        """Raise QualaError with argparse's message, which names the option."""
        told, named = message.rstrip("."), _ARGUMENT.match(message)
        if named:
            rest = told.removeprefix(named[0])
            told = f"`{named[1]}`{'' if rest.startswith('must ') else ':'} {rest}"
        if " must " not in told:
            told = f"{told[0].upper()}{told[1:]}; `{self.prog} --help` lists the options"
        raise QualaError(f"{told}.")


def number(kind: type[N], **limits: float) -> Kind:
    """Return the reader of a number within limits, as for `quala.ranges.ranged`."""
    what = "a whole number" if kind is int else "a number"

    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got `{text:.40}`") from None
        with _named():
            check_number("", value, limits)
        return value

    return read


def numbers(most: int, kind: type[int | float] = int, **limits: float) -> Kind:
    """Return the reader of numbers within limits, separated by commas, `most` at most."""
    what = "whole numbers" if kind is int else "numbers"

    def read(text: str) -> tuple[float, ...]:
        parts = text.strip("() ").split(",")
        try:
            values = tuple(map(kind, parts))
        except ValueError:
            values = ()
        if not values or len(values) > most:
            raise argparse.ArgumentTypeError(
                f"must be 1 to {most} {what} separated by commas, got `{text:.40}`"
            )
        with _named():
            for one in values:
                check_number("", one, limits)
        return values

    return read


def text(kind: Text) -> Kind:
    """Return the reader of a text of a kind, as for `quala.ranges.check_text`; `~` is expanded."""

    def read(value: str) -> str:
        with _named():
            check_text("", value, kind)
        return os.path.expanduser(value) if kind == "place" else value  # also in `--out=~/x`

    return read


def one_of(what: str, names: Collection[str]) -> Kind:
    """Return the reader of one of some names; `what` is what errors call it."""

    def read(value: str) -> str:
        if value not in names:
            raise unknown(what, value, names)
        return value

    vars(read)["names"] = names  # for completion
    return read


@contextmanager
def _named() -> Iterator[None]:
    # argparse, which knows the name of the option, adds it in front.
    try:
        yield
    except QualaError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("`` ").rstrip(".")) from error


PLACE = text("place")
"""Reads a path, an address, or the id of a run."""
THREADS = number(int, at_least=1, at_most=MOST_THREADS)
REPEATS = 1000
"""Most repetitions of a timing."""
_TOKENS = numbers(1000, at_least=MIN_TOKENS, at_most=2**20)


def read_lengths(text: str) -> tuple[tuple[int, ...] | None, str | None]:
    """Read the tokens that each layer keeps, None for `full`, and the layers after an `@`."""
    counts, at, layers = text.partition("@")
    read = read_structure(layers) if at else None
    return None if counts.strip() == FULL else _TOKENS(counts), read


def read_structure(text: str) -> str:
    """Return the units of each layer as they were typed, if they are well-formed."""
    with _named():
        read_layers(text, layers=text.count(",") + 1)
    return text


RUNTIME = one_of("runtime", RUNTIMES)


def add_store(parser: argparse.ArgumentParser, what: str = "the store") -> None:
    """Add the address of the tracking store."""
    parser.add_argument(
        "--tracking-uri",
        type=text("store"),
        metavar="URI",
        help=f"{what} (default: $MLFLOW_TRACKING_URI, else that of ./mlruns)",
    )


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add the runtime of an export and its threads."""
    parser.add_argument(
        "--runtime", type=RUNTIME, default="onnxruntime", help="onnxruntime (default) or openvino"
    )
    parser.add_argument("--threads", type=THREADS, default=1, help="threads (default: 1)")


def add_budget(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the limits of a budget, of which one can be given; `what` is what it is for."""
    limits = parser.add_mutually_exclusive_group()
    some, share = number(float, above=0), number(float, above=0, at_most=1)
    limits.add_argument("--budget-ms", type=some, metavar="X", help=f"milliseconds for {what}")
    limits.add_argument("--budget-macs", type=some, metavar="X", help="MACs, for example 1.2e9")
    limits.add_argument("--keep", type=share, metavar="X", help="share of the full length's MACs")
    limits.add_argument(
        "--lengths",
        type=read_lengths,
        default=(None, None),
        metavar="A,B,...",
        help="tokens kept by each layer, or full; heads x neurons after an @, as in full@6x768",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a budget below the cheapest point"
    )


def budget_of(arguments: argparse.Namespace) -> Budget:
    """Return the budget that the options give. Raises QualaError as `Budget`."""
    from quala.runtime.card import Budget  # takes a moment to import, which `--help` does not need

    return Budget(
        ms=arguments.budget_ms,
        macs=arguments.budget_macs,
        keep=arguments.keep,
        lengths=arguments.lengths[0],
        layers=arguments.lengths[1],
        strict=arguments.strict,
    )
