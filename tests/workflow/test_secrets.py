"""Planted secrets: what runs has them, and nothing that is printed or stored does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from commandline import quiet_logging
from workflow.conftest import Toy

from quala import redact
from quala.cli.entry import main
from quala.workflow.tracking import Tracking

PLANTED = 'pl"anted/Zq7 x'
"""Its spellings in JSON, YAML and addresses differ."""
INLINE = "inl1ne-Zq8x"
SPELLINGS = {PLANTED, json.dumps(PLANTED)[1:-1], quote(PLANTED), quote(PLANTED, safe=""), INLINE}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redact, "_hidden", {})
    monkeypatch.setenv("PLANTED", PLANTED)
    with quiet_logging():
        yield


def found(folder: Path) -> list[str]:
    """Return the files with a secret, but for what the stages themselves wrote of it."""
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file()
        and file.name != "text.txt"
        and any(one.encode() in file.read_bytes() for one in SPELLINGS)
    ]


def clean(capsys: pytest.CaptureFixture[str]) -> str:
    said = "".join(capsys.readouterr())
    assert not [one for one in SPELLINGS if one in said]
    return said


SECRETS = [
    "model.start=org/${oc.env:PLANTED}",
    "stage.first.text=${oc.env:PLANTED}",
    f"stage.third.text='https://u:{INLINE}@h?token={INLINE}'",
]


def test_a_run_its_plans_and_its_store_have_no_secret(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "toy.py", *SECRETS]) == 0
    assert main(["run", "toy.py", *SECRETS]) == 0
    output = toy.folder / "mlruns/artifacts"
    texts = {file.read_text() for file in output.rglob("text.txt")}
    assert any(PLANTED in text for text in texts)  # the stage had it
    assert main(["run", "toy.py", *SECRETS, "--json"]) == 0  # nothing is left to do
    assert main(["plan", "toy.py", *SECRETS, "stage.first.repeat=2"]) == 0
    assert "repeat 1 -> 2" in clean(capsys)
    assert not found(toy.folder / "mlruns")
    config = next(output.rglob("config.yaml")).read_text()
    assert "start: org/${oc.env:PLANTED}" in config
    assert "https://u:***@h?token=***" in config


@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_an_option_that_is_named_like_a_secret_is_not_kept(toy: Toy, words: list[str]) -> None:
    assert main(["run", "toy.py", f"+model.api_key={INLINE}", *words]) == 0
    assert not found(toy.folder / "mlruns")


def test_the_value_counts_and_not_its_variable(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def statuses(*words: str) -> list[str]:
        capsys.readouterr()
        assert main(["plan", "toy.py", *words, "--json"]) == 0
        return [one["status"] for one in json.loads(capsys.readouterr().out)["stages"]]

    monkeypatch.setenv("PLANTED", "value-one")
    assert main(["run", "toy.py", "stage.first.text=value-one"]) == 0
    assert statuses("stage.first.text=${oc.env:PLANTED}") == ["cached"] * 3
    monkeypatch.setenv("PLANTED", "value-two")
    assert statuses("stage.first.text=${oc.env:PLANTED}")[0] == "stale"


def test_failing_runs_and_sweeps_have_no_secret(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (toy.folder / "toy_stages.py").read_text()
    stages = stages.replace('to fail")', 'to fail: " + config.text)')
    (toy.folder / "toy_stages.py").write_text(stages)
    words = [*SECRETS, "stage.first.fail=true"]
    with pytest.raises(RuntimeError, match="Zq7"):
        main(["run", "toy.py", *words])
    sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["quala"])
    assert main(["run", "toy.py", "-m", "seed=0,1", *words]) == 1
    assert main(["run", "toy.py", "-m", "seed=0,1", *words, "--json"]) == 1
    assert clean(capsys).count("told to fail") >= 4
    assert not found(toy.folder / "mlruns")


def test_a_resumed_run_may_take_its_secret_elsewhere(toy: Toy) -> None:
    stage = ["stage.first.fail=true", "stage.first.text=value-one"]
    with pytest.raises(RuntimeError):
        main(["run", "toy.py", *stage])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PLANTED", "value-one")
        assert main(["run", "toy.py", "stage.first.text=${oc.env:PLANTED}"]) == 0


ADDRESSES = {
    "no driver": f"postgresql://u:{INLINE}@127.0.0.1:1/d",
    "away": f"http://u:{INLINE}@127.0.0.1:1",
    "token": f"https://{INLINE}@127.0.0.1:1",
    "port": f"http://u:{INLINE}/x@127.0.0.1:1",
    "scheme": f"nosuch://u:{INLINE}@h/d?password={INLINE}",
    "database": f"sqlite:///no/such/folder/x.db?key={INLINE}",
    "environment": "mssql://u:${oc.env:PLANTED}@h/d",
}


@pytest.mark.filterwarnings("default:Query string")
@pytest.mark.parametrize("uri", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.usefixtures("toy")
def test_stores_that_fail_are_named_without_their_password(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["plan", "toy.py"], ["run", "toy.py", "--json"], ["run", "toy.py", "-m"]):
        assert main([*words, f"tracking.uri='{uri}'"]) == 2
    if "oc.env" not in uri:
        for words in (["report"], ["report", "--compare", "--json"]):
            assert main([*words, "--tracking-uri", uri]) == 2
    assert "error: " in clean(capsys)


WRONG = [
    f"stage.first.nothing={INLINE}://u:{INLINE}@h",
    f"stage.first.api_key={INLINE}",
    f"stage.first.repeat=x://u:{INLINE}@h",
    f"model.start=(x://u:{INLINE}@h",
    "stage.first.repeat=${oc.env:PLANTED}",
    "workflow=${oc.env:PLANTED}",
    "flow.only=${oc.env:PLANTED}",
    "data.task=${oc.env:PLANTED}",
    "data.path=${oc.env:PLANTED}",
    "stage.first.given=${oc.env:PLANTED}",
    f"stage.first.given=s3://b/k?X-Amz-Signature={INLINE}",
    f"stage.first.given='runs:/x?token={INLINE}'",
]


@pytest.mark.parametrize("word", WRONG)
@pytest.mark.usefixtures("toy")
def test_mistakes_are_named_without_their_secret(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "toy.py", word]) == 2
    assert main(["run", "toy.py", word, "--json"]) == 2
    # `INLINE` is no secret where it is no password
    assert "error: " in clean(capsys)


FLAGS = [
    ["--cfg", "job"],
    ["--cfg", "job", "--resolve"],
    ["--cfg", "all"],
    ["--cfg", "hydra"],
    ["--info", "config"],
]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.usefixtures("toy")
def test_printed_configurations_have_no_secret(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "toy.py", *SECRETS, *flags]) == 0
    assert "${oc.env:PLANTED}" in clean(capsys)


def test_texts_with_control_characters_are_stored_and_printed_visibly(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '"\x1b[2J[/x]\u202e\x07|<b>$"'
    assert main(["run", "toy.py", f"stage.first.text={text}", f"stage.third.text={text}"]) == 0
    with pytest.raises(RuntimeError):
        main(["run", "toy.py", f"stage.second.text={text}", "stage.second.fail=true"])
    assert main(["plan", "toy.py", f"stage.first.text={text}", "stage.first.repeat=2"]) == 0
    said = "".join(capsys.readouterr())
    assert not {"\x1b", "\u202e", "\x07"} & set(said)
    assert "[/x]" in said
    tags = [run.data.tags for run in Tracking.connect(None).find_runs(["1"], {})]
    assert r"\x1b[2J[/x]\u202e" in str(tags[0]["quala.overrides"])


def test_the_diff_is_stored_on_an_option_only(toy: Toy) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    from subprocess import run

    (toy.folder / ".gitignore").write_text("mlruns\n")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*name, "commit", "-qm", "x"]):
        run(["git", *words], cwd=toy.folder, check=True)
    with (toy.folder / "toy.py").open("a") as script:
        script.write(f"KEY = '{INLINE}'\n")
    assert main(["run", "toy.py"]) == 0
    assert not found(toy.folder / "mlruns")
    assert main(["run", "toy.py", "stage.first.repeat=2", "tracking.diff=true"]) == 0
    assert {Path(one).name for one in found(toy.folder / "mlruns")} == {"dirty.diff"}
