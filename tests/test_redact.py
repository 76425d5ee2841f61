"""Secrets are taken out of texts, and texts are data wherever they are shown."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from quala import redact
from quala.errors import QualaError, guarded
from quala.redact import (
    cell,
    guard_logs,
    hide,
    hide_password,
    hide_variable,
    json_text,
    markdown,
    recorded,
    redacted,
    shown,
    visible,
)

SECRET = "hunter2-Xq9zz"


@pytest.fixture(autouse=True)
def forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_hidden", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
        ("mysql+pymysql://u:a%40b@h:3306/d", "mysql+pymysql://u:***@h:3306/d"),
        ("at https://u:tok@h:5000/p, ok", "at https://u:***@h:5000/p, ok"),
        ("https://ghp_token@host/x.git", "https://***@host/x.git"),
        ("https://u:p@ss@host", "https://u:***@host"),
        ("https://u:pa/ss@host/x", "https://u:***@host/x"),
        ("postgresql://u:pa?s#s/@host/x", "postgresql://u:***@host/x"),
        ("redis://:pw@h", "redis://:***@h"),
        ("mysql://u:1234@h/d", "mysql://u:***@h/d"),
        ("s3://b/k?X-Amz-Signature=ab&X-Amz-Date=1", "s3://b/k?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h/k?sv=1&sig=a%2Fb&x=2", "https://h/k?sv=1&sig=***&x=2"),
        ("https://h/k?AWSAccessKeyId=AK1", "https://h/k?AWSAccessKeyId=***"),
        ("postgresql://h/d?user=u&password=pw", "postgresql://h/d?user=u&password=***"),
        ("`stage.x.api_key=abc` has no effect", "`stage.x.api_key=***` has no effect"),
        (r"a=x\://u\:pw@h\:1", r"a=x\://u\:***@h\:1"),
        (r"a=https\://tok@h?sig\=pw", r"a=https\://***@h?sig\=***"),
        ("MY_TOKEN='a b' password=c", "MY_TOKEN=*** password=***"),
        ('{"a":"x://u:p@h","b":"models:/n@a"}', '{"a":"x://u:***@h","b":"models:/n@a"}'),
    ],
)  # fmt: skip
def test_credentials_are_hidden(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/x/mlflow.db",
        "http://host:5000/#/models/name@champion",
        "http://127.0.0.1:8000",
        "http://h:1/#/experiments/1/runs?viewStateShareKey=quala-fronts-f1",
        "ssh://git@host/x",
        "runs:/0123",
        "models:/name@alias",
        "postgresql://u:${oc.env:PW}@h/db",
        "model.api_key=${oc.env:KEY}",
        "stage.measure.tokens=3 monkey=4 token_ids=5",
        "a@b.c",
        "",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert redacted(text) == text
    assert recorded({"x": text}) == {"x": text}


def test_values_of_secret_options_are_hidden() -> None:
    config = {"api_key": "a", "stage": {"password": "b c", "tokens": "full", "token": ""}}
    assert recorded(config) == {
        "api_key": "***", "stage": {"password": "***", "tokens": "full", "token": ""},
    }  # fmt: skip
    assert recorded(["+x.api_key=a b", "x.n=1"]) == ["+x.api_key=***", "x.n=1"]
    inside = ["+x={api_key:abc,n:1,token: 'a, b'}", "x={token:${oc.env:T},tokens:3}"]
    assert recorded(inside) == ["+x={api_key:***,n:1,token: ***}", inside[1]]


@pytest.mark.parametrize(
    "form", [SECRET, f"a{SECRET}b", json.dumps(f'"{SECRET}"'), f"/x/{SECRET}"]
)
def test_values_from_the_environment_are_hidden(form: str) -> None:
    hide_variable("ANY", SECRET)
    assert SECRET not in shown(form)
    assert "${oc.env:ANY}" in recorded(form)


@pytest.mark.parametrize(
    "value", ['q"uo\\te!', "umläut-ß", "a b&c/d", "line one\nline two", "\udcff123"]
)
def test_every_spelling_of_a_value_is_hidden(value: str) -> None:
    from urllib.parse import quote

    hide_variable("ANY", value)
    raw = value.encode("utf-8", "surrogateescape")
    for text in (value, json.dumps({"x": value}), f"https://h/{quote(raw, safe='')}"):
        assert "${oc.env:ANY}" in redacted(text)
    assert all(line not in redacted(value) for line in value.splitlines())


@pytest.mark.parametrize(
    "value", ["", "a", "abc", "12345", "0.5", "1e-3", "true", "null", "squad"]
)
def test_small_and_public_values_are_no_secrets(value: str) -> None:
    hide_variable("ANY", value, public={"squad"})
    text = f"a table of {value} values, {value}-abc, squad, 12345 and true"
    assert recorded(text) == text


def test_a_short_word_is_no_part_of_a_longer_one() -> None:
    hide_variable("ANY", "demo")
    assert recorded("demo demonstration") == "${oc.env:ANY} demonstration"


def test_a_number_is_hidden_where_its_variable_says_so() -> None:
    hide_variable("DB_PASSWORD", "123456")
    assert redacted("pin 123456") == "pin ${oc.env:DB_PASSWORD}"


def test_a_folder_is_printed_and_not_recorded(tmp_path: Path) -> None:
    hide_variable("DATA", str(tmp_path))
    assert shown(f"{tmp_path}/x") == f"{tmp_path}/x"
    assert recorded(f"{tmp_path}/x") == "${oc.env:DATA}/x"
    assert json.loads(json_text({"output": f"{tmp_path}/x"})) == {"output": f"{tmp_path}/x"}


def test_variables_that_are_named_like_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "something")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/something")
    text = f"no {SECRET} something /tmp/something"
    assert shown(text) == "no *** something /tmp/something"


def test_a_password_is_hidden_where_it_stands_alone() -> None:
    hide_password(f"postgresql://u:{SECRET}@h/d")
    hide_password("postgresql://mlflow:mlflow@h/mlflow")
    assert redacted(f"failed for {SECRET} of mlflow") == "failed for *** of mlflow"


def test_keys_and_figures_of_json_stay() -> None:
    hide("stage")
    assert json.loads(json_text({"stage": "stage", "n": 1.5})) == {"stage": "***", "n": 1.5}


CONTROL = "\x1b[31m \x07 \r \x00 \x9b \x7f \u202e \u2066 \u2028 \ufeff \ud800"


def test_control_characters_are_visible() -> None:
    assert visible(CONTROL) == (
        r"\x1b[31m \x07 \r \x00 \x9b \x7f \u202e \u2066 \u2028 \ufeff \ud800"
    )
    assert visible("a\tb\nc é 漢 🙂 \u200d") == "a\tb\nc é 漢 🙂 \u200d"


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_can_be_printed(text: str) -> None:
    out = io.StringIO()
    Console(file=out, markup=False, emoji=False, width=40).print(cell(text))
    found = out.getvalue()
    found.encode("utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", found)
    json_text({"x": text}).encode("ascii")
    recorded(text).encode("utf-8")


@pytest.mark.parametrize("text", ["[sic]", "[bold red]x", "[/x]", ":smile:", "[link=http://x]y"])
def test_markup_is_text(text: str) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", out)
        redact.console(80).print(cell(text))
        redact.console(80).print(text)
    assert out.getvalue().split("\n")[:2] == [text, text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("a`b`", r"a\`b\`"),
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("[x](javascript:1)", r"[x\](javascript:1)"),
        ("a\n# b\r\n- c", "a # b - c"),
        ("[a] minilm_l6 *", "[a] minilm_l6 *"),
    ],
)
def test_text_makes_no_markdown(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_errors_are_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise QualaError(f"no store at x://u:{SECRET}@h\nerror: \x1b[2Jfake")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "error: no store at x://u:***@h error: \\x1b[2Jfake.\n"


@pytest.fixture
def guarded_logs() -> Iterator[None]:
    import sys

    before, hook = logging.getLogRecordFactory(), sys.excepthook
    logging.setLogRecordFactory(logging.LogRecord)
    guard_logs()
    yield
    logging.setLogRecordFactory(before)
    sys.excepthook = hook


@pytest.mark.usefixtures("guarded_logs")
def test_logs_and_tracebacks_have_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    hide(SECRET)
    out = io.StringIO()
    logger = logging.getLogger("quala.tests.secret")
    logger.addHandler(handler := logging.StreamHandler(out))
    try:
        raise RuntimeError(f"bad {SECRET} \x1b")
    except RuntimeError as error:
        logger.exception("at %s \x1b[0m", SECRET)
        sys.excepthook(type(error), error, error.__traceback__)
    logger.removeHandler(handler)
    said = out.getvalue() + capsys.readouterr().err
    assert SECRET not in said
    assert "\x1b" not in said
    assert said.count("RuntimeError: bad *** \\x1b") == 2
