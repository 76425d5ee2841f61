"""Exports on the hub: their metadata, by the hub client's own checks, upload and download."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.repocard import metadata_eval_result, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from quala.errors import QualaError
from quala.manifest import check_folder
from quala.runtime import hub
from quala.runtime.answerer import load
from quala.runtime.card import Card, MeasuredData, shipped

HTTP_ERROR: Any = HfHubHTTPError.__bases__[0]


@pytest.fixture
def folder(export_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(export_folder, tmp_path / "export"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the hub was asked; it has a public repository `me/there` and takes everything."""
    calls: list[dict[str, Any]] = []

    class Api:
        def __init__(self, **options: Any) -> None:
            assert options == {"library_name": "quala"}

        def create_repo(self, name: str, **options: Any) -> Any:
            calls.append({"create": name, **options})
            return SimpleNamespace(repo_id=name, __str__=lambda: name)

        def model_info(self, name: str) -> Any:
            return SimpleNamespace(private=name != "me/there")

        def upload_folder(self, **options: Any) -> None:
            calls.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return calls


def test_an_export_has_the_metadata_that_is_known(export_folder: Path) -> None:
    assert metadata_load(export_folder / "README.md") == {
        "library_name": "quala", "pipeline_tag": "question-answering", "metrics": ["f1"],
        "tags": ["quala", "onnx", "int8", "bert", "length-adaptive"],
    }  # fmt: skip


def test_the_results_are_those_of_the_full_length_and_the_chosen_point(folder: Path) -> None:
    card = Card.read(folder)
    front = (card.front[0], replace(card.front[1], chosen=True), card.front[2])
    test = MeasuredData(title="GLUE SST-2", name="nyu-mll/glue", subset="sst2", split="dev")
    known = replace(card, front=front, test=test, metric="matthews", task="classification")
    name, results = model_index_to_eval_results(hub.metadata(known).to_dict()["model-index"])
    assert name == "tiny"
    assert [(one.metric_value, one.metric_args) for one in results] == [
        (80.0, {"tokens_per_layer": "full"}), (79.0, {"tokens_per_layer": "128,40"}),
    ]  # fmt: skip
    wanted = metadata_eval_result(
        model_pretty_name="tiny", task_pretty_name="", task_id="text-classification",
        metrics_pretty_name="Matthews in percent, full length", metrics_value=80.0,
        metrics_id="matthews_correlation", dataset_pretty_name="GLUE SST-2",
        dataset_id="nyu-mll/glue", dataset_config="sst2", dataset_split="dev",
    )["model-index"]  # fmt: skip
    _, (own,) = model_index_to_eval_results(wanted)
    assert results[0].unique_identifier == own.unique_identifier
    assert (results[0].metric_type, results[0].metric_name) == (own.metric_type, own.metric_name)
    card = replace(known, test=MeasuredData(title="My Reviews.csv"))
    assert hub.metadata(card).eval_results[0].dataset_type == "my-reviews-csv"  # type: ignore[index]
    assert Card.read(folder).test is None


@pytest.mark.parametrize(
    ("license", "stated"),
    [
        ("not stated", {}),
        ("MIT", {"license": "mit"}),
        ("Acme 1: all rights", {"license": "other", "license_name": "Acme 1: all rights"}),
    ],
)
def test_a_license_is_stated_in_all_files_or_in_none(
    license: str, stated: dict[str, str], folder: Path
) -> None:
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("library_name:", "owner: me\nlibrary_name:"))
    assert "apache" not in readme.read_text().lower()
    card = hub.state_license(folder, "" if license == "not stated" else license)
    assert card.licence == Card.read(folder).licence == license
    data = metadata_load(readme) or {}
    assert {key: data[key] for key in data if key.startswith("license")} == stated
    assert data["owner"] == "me"
    assert f"\nLicense: {license}.\n" in readme.read_text()
    check_folder(folder)


def test_an_export_of_an_older_version_gets_metadata_with_its_license(folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(readme.read_text().partition("---\n\n")[2])
    hub.state_license(folder, "mit")
    assert (metadata_load(readme) or {})["pipeline_tag"] == "question-answering"


def test_the_hub_takes_the_card_of_the_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shipped()["minilm-squad"]
    known, data = ModelCard.load(folder / "README.md"), hub.metadata(Card.read(folder))
    assert known.data.to_dict() == data.to_dict()
    assert data.license == "apache-2.0"
    assert [one.metric_value for one in data.eval_results or []] == [80.27, 79.72]
    sent = []

    def post(url: str, json: Any, **_: Any) -> Any:
        sent.append(json["content"])
        return SimpleNamespace(raise_for_status=lambda: None, headers={}, request=None)

    monkeypatch.setattr("huggingface_hub.repocard.get_session", lambda: SimpleNamespace(post=post))
    monkeypatch.setattr("huggingface_hub.repocard.hf_raise_for_status", lambda _: None)
    known.validate()
    (text,) = sent
    assert text.startswith("---\n")
    assert "model-index:" in text


def test_what_is_uploaded_are_the_files_of_the_export(
    folder: Path, asked: list[dict[str, Any]]
) -> None:
    for name in ("notes.txt", ".env", "LICENSE"):
        (folder / name).write_text("mine")
    files = hub.files_of(folder)
    assert {"model.onnx", "quala.json", "README.md", "manifest.json", "LICENSE"} <= files.keys()
    assert not {"notes.txt", ".env"} & files.keys()
    hub.upload(folder, "me/new", files, private=True)
    assert asked == [
        {"create": "me/new", "private": True, "exist_ok": True},
        {"repo_id": "me/new", "folder_path": folder, "allow_patterns": [*files]},
    ]


def test_nothing_is_uploaded_to_a_public_repository_where_a_private_one_is_wanted(
    folder: Path, asked: list[dict[str, Any]]
) -> None:
    with pytest.raises(QualaError, match="`me/there` exists and is public"):
        hub.upload(folder, "me/there", [], private=True)
    assert [call.get("create") for call in asked] == ["me/there"]


def test_a_damaged_export_is_not_uploaded(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(QualaError, match=r"model.onnx` has 0 bytes instead of"):
        hub.files_of(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(QualaError, match=r"has no manifest.json: `quala export` makes"):
        hub.files_of(folder)


@pytest.mark.usefixtures("asked")
def test_why_nothing_can_be_uploaded_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise HTTP_ERROR("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", broken)
    for sentence, change in (
        ("`me/x` does not take the export: no route to host.", None),
        (
            "no token for the hub: run `hf auth login`",
            (huggingface_hub, "get_token", lambda: None),
        ),
        ("HF_HUB_OFFLINE forbids it", (constants, "HF_HUB_OFFLINE", True)),
    ):
        if change:
            monkeypatch.setattr(*change)
        with pytest.raises(QualaError, match=sentence):
            hub.upload(folder, "me/x", [], private=False)


def test_a_model_of_the_hub_is_loaded_by_its_name(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fetched(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision))
        assert not [one for one in allow_patterns if one.endswith((".py", ".bin"))]
        return str(export_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert load("owner/name@v1").answer("Who?", "It was Anna.").answers
    assert calls == [("owner/name", "v1")]
    with pytest.raises(QualaError, match="is no folder"):
        load(Path("owner/name"))


def test_a_name_that_the_hub_does_not_have_is_one_sentence() -> None:
    with pytest.raises(QualaError, match="`owner/name` is no folder here, and it does not load"):
        load("owner/name")


def test_a_path_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    names = ["owner/name", "owner/na.me@v/1", "out/name", "./name", "a/b/c", "name", "/a", "~/a"]
    assert list(filter(hub.is_hub_name, names)) == names[:2]


def test_a_card_goes_through_json_with_what_is_known(folder: Path) -> None:
    card = replace(
        Card.read(folder), languages=("en",), datasets=("a/b",), base_model="a/c",
        test=MeasuredData(title="mine", split="dev"),
    )  # fmt: skip
    card = replace(card, front=(replace(card.front[0], chosen=True), *card.front[1:]))
    (folder / "quala.json").write_text(json.dumps(card.to_json()))
    (folder / "manifest.json").unlink()
    assert Card.read(folder) == card
