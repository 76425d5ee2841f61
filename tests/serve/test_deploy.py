"""The container and the manifests: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from quala.cli.serve import _parser
from quala.serve.dispatcher import LEAVE_S
from quala.serve.server import GOODBYE_S
from quala.serve.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LONGEST_END_S = Settings().timeout_s + GOODBYE_S + 3 * LEAVE_S
"""From SIGTERM to the end, as docs/guide/deploy.md has it: three threads are waited for."""


def manifests() -> dict[str, Any]:
    text = (ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def services() -> dict[str, Any]:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


@pytest.fixture
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_each_probe_asks_for_what_the_service_has(pod: dict[str, Any], client: TestClient) -> None:
    (container,) = pod["containers"]
    (port,) = container["ports"]
    probes = [container[name]["httpGet"] for name in container if name.endswith("Probe")]
    assert len(probes) == 3
    checked = re.findall(r"127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE)
    assert [int(number) for number, _ in checked] == [port["containerPort"]]
    for path in [*(probe["path"] for probe in probes), *(path for _, path in checked)]:
        assert client.get(path).status_code == 200
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert f'"--port", "{port["containerPort"]}"' in DOCKERFILE


def test_the_service_finds_its_pods() -> None:
    service, deployment = manifests()["Service"]["spec"], manifests()["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == labels
    (port,) = deployment["template"]["spec"]["containers"][0]["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]


def test_a_pod_has_the_time_to_end(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + LONGEST_END_S
    serve = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"][
        "serve"
    ]
    assert int(serve["stop_grace_period"].removesuffix("s")) >= LONGEST_END_S


def test_it_runs_without_rights(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    user = pod["securityContext"]["runAsUser"]
    assert DOCKERFILE.count(f"USER {user}\n") == DOCKERFILE.count(f"--uid {user} ") == 2


def test_the_words_are_of_the_command(pod: dict[str, Any]) -> None:
    filled = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in services()["serve"]["command"]]
    for words in (pod["containers"][0]["args"], filled):
        arguments = _parser().parse_args(["--host", "0.0.0.0", "--port", "8000", *words])
        assert (arguments.model, arguments.budget_ms) == ("minilm-squad", 10.0)


def test_what_compose_waits_for_is_a_service() -> None:
    found = services()
    targets = re.findall(r"^FROM .* AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert found["mlflow"]["build"]["target"] in targets
    for service in found.values():
        for name in service.get("depends_on", {}):
            assert "healthcheck" in found[name]
