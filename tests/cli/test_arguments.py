"""Every option of every verb: a range or a set of names, and one sentence for anything else."""

from __future__ import annotations

import argparse
import importlib
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quala.cli.arguments import Parser, add_budget, budget_of, number, one_of, text
from quala.errors import QualaError
from quala.runtime.card import MOST_ANSWERS, Budget

VERBS = ("answer", "bench", "cost", "evaluate", "export", "report", "serve", "ui")
FREE = {"question", "context"}
"""Texts, which `quala.runtime.card.Query` checks."""
NONSENSE = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", " ", "-", "--", "nan", "inf", "-inf", "1e309", "0", "-3", "9" * 5000, "1,,2", "\0",
         "a\nb", "\x1b[31m", "\ud800", "../x", "~nosuchuser", "sqlite://", "http://x:y",
         "x" * 3000]
    ),
    st.lists(st.integers(-9, 10**12), max_size=4).map(lambda found: ",".join(map(str, found))),
)  # fmt: skip


def parser_of(verb: str) -> Parser:
    parser = importlib.import_module(f"quala.cli.{verb}")._parser()
    assert isinstance(parser, Parser)
    return parser


def valued(parser: Parser) -> list[argparse.Action]:
    return [one for one in parser._actions if one.nargs != 0]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "serve"])
def test_every_option_says_what_it_may_be(verb: str) -> None:
    loose = [
        one.dest
        for one in valued(parser_of(verb))
        if one.type in (None, str, int, float) and one.dest not in FREE
    ]
    assert loose == []


def outcome(parser: Parser, words: list[str]) -> dict[str, object] | str | None:
    """Return the values, the sentence, or None after a help."""
    try:
        return vars(parser.parse_args(words))
    except QualaError as error:
        return str(error)
    except SystemExit as left:
        return None if left.code == 0 else "left without a sentence"


@pytest.mark.parametrize("verb", VERBS)
def test_nonsense_is_one_sentence_or_within_its_limits(verb: str) -> None:
    parser = parser_of(verb)
    options = st.sampled_from(valued(parser))

    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(drawn=st.lists(st.tuples(options, NONSENSE), max_size=4), more=st.none() | NONSENSE)
    def attack(drawn: list[tuple[argparse.Action, str]], more: str | None) -> None:
        given_ones = {one.dest: (one, value) for one, value in drawn}
        needed = {one.dest: (one, "sound") for one in valued(parser) if one.required}
        words = [] if more is None else [more]
        for one, value in (needed | given_ones).values():
            words += [*one.option_strings[-1:], value]
        found = outcome(parser, words)
        if isinstance(found, str):
            assert found.endswith(".")
            assert not found.endswith("..")
        elif found and verb != "serve":
            numbers = [one for one in found.values() if isinstance(one, int | float)]
            assert all(math.isfinite(one) for one in numbers)
            assert all(abs(one) < 2**31 for one in numbers if isinstance(one, int))

    attack()


@pytest.mark.parametrize(
    ("verb", "words", "sentence"),
    [
        ("bench", "m --questions -3", "`--questions` must be at least 1 and at most 100000"),
        ("bench", "m --repeats 0", "`--repeats` must be at least 1 and at most 1000, got 0."),
        ("bench", "m --batch 1,x", "`--batch` must be 1 to 16 whole numbers separated by commas"),
        ("bench", "m --batch 0", "`--batch` must be at least 1 and at most 1024, got 0."),
        ("answer", "m --budget-ms nan", "`--budget-ms` must be above 0 and finite, got nan."),
        ("answer", "m --top-k 101", "`--top-k` must be at least 1 and at most 100, got 101."),
        ("answer", "m --keep x", "`--keep` must be a number, got `x`."),
        ("answer", "m --keep 1 --lengths 2", "`--lengths`: not allowed with argument --keep;"),
        ("answer", "m", "The following arguments are required: --question, --context;"),
        ("cost", "--preset bert-bas", "Unknown preset `bert-bas`. Did you mean `bert-base`?"),
        ("ui", "--prot 3", "Unknown option of `quala ui` `--prot`. Did you mean `--port`?"),
        ("cost", "--preset bert-base more", "`quala cost` takes no word more, got `more`."),
        ("export", "m --out o --register a/b", "`--register` must be letters, digits"),
    ],
)  # fmt: skip
def test_what_an_option_is_told(verb: str, words: str, sentence: str) -> None:
    with pytest.raises(QualaError) as caught:
        parser_of(verb).parse_args(words.split())
    assert str(caught.value).startswith(sentence)


def test_the_limit_of_answers_is_that_of_a_query() -> None:
    words = ["m", "--question", "q", "--context", "c", "--top-k"]
    assert parser_of("answer").parse_args([*words, str(MOST_ANSWERS)]).top_k == MOST_ANSWERS
    with pytest.raises(QualaError):
        parser_of("answer").parse_args([*words, str(MOST_ANSWERS + 1)])


def test_readers_return_what_they_read() -> None:
    assert number(float, above=0)("1e-3") == 0.001
    assert one_of("kind", ["a", "b"])("b") == "b"


@pytest.mark.parametrize(
    "uri", ["https://me:secret@host:5000/x", "postgresql+psycopg2://host/db", "sqlite:///no/file"]
)
def test_an_address_stays_as_it_is(uri: str) -> None:
    assert text("store")(uri) == uri


@pytest.mark.parametrize(
    "uri", ["foo://x", "file:/tmp", "/tmp", "http://x:abc", "http://x:99999", "sqlite://", "",
            "sqlite:////etc/passwd", "sqlite:////etc"]
)  # fmt: skip
def test_what_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        text("store")(uri)


def test_a_short_file_is_not_taken_for_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x", encoding="utf-8")
    with pytest.raises(argparse.ArgumentTypeError, match="SQLite database, which"):
        text("store")(f"sqlite:///{tmp_path / 'notes'}")


@pytest.mark.parametrize("verb", ["answer", "evaluate"])
def test_two_hyphens_are_no_value(verb: str) -> None:
    option = {"answer": "--context", "evaluate": "--data"}[verb]
    with pytest.raises(QualaError, match=f"`{option}` needs a value, got `--`"):
        parser_of(verb).parse_args(
            {
                "answer": ["m", "--question", "x", "--context=--"],
                "evaluate": ["--data=--", "--predictions", "x"],
            }[verb]
        )


def test_the_home_folder_is_known_where_no_shell_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = parser_of("evaluate").parse_args(["--data=~/a", "--predictions", "~/b"])
    assert (found.data, found.predictions) == ("/home/me/a", "/home/me/b")


@pytest.mark.parametrize(
    ("text", "lengths", "layers"),
    [
        ("9,8", (9, 8), None),
        ("9,8@6x768", (9, 8), "6x768"),
        ("full@6x768,-", None, "6x768,-"),
        ("full", None, None),
    ],
)
def test_lengths_may_name_layers(
    text: str, lengths: tuple[int, ...] | None, layers: str | None
) -> None:
    parser = Parser()
    add_budget(parser, "it")
    assert budget_of(parser.parse_args(["--lengths", text])) == Budget(
        lengths=lengths, layers=layers
    )
    assert budget_of(parser.parse_args([])) == Budget()


@pytest.mark.parametrize("text", ["9,8@", "9,8@6", "@6x768", "full,8", "9@6x7,,6x7"])
def test_layers_that_are_none_are_refused(text: str) -> None:
    parser = Parser()
    add_budget(parser, "it")
    with pytest.raises(QualaError, match="`--lengths`"):
        parser.parse_args(["--lengths", text])
