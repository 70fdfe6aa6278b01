"""The Helm chart: wrong values are refused, and what it renders is valid, the same as last time, made of real
settings, and has no rights that it does not need.

``make charts`` fetches helm and the validator; elsewhere the tests that render are skipped. A golden file that
should change is written by ``ROUNDHOUSE_GOLDEN=write make charts``.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings
from tests.docs.chart_page import CHART

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "helm"
VARIANTS = sorted(path.stem for path in CASES.glob("*.yaml"))
HELM = os.environ.get("ROUNDHOUSE_HELM", "")
TOOLS = Path(os.environ.get("ROUNDHOUSE_CHARTS", "/nonexistent"))
KUBERNETES = ("1.29.0", "1.33.0", "1.37.0")
KEY = "secrets.ROUNDHOUSE_API_KEYS=choose-one"
rendering = pytest.mark.skipif(not HELM, reason="helm is not named: make charts")

Document = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False, timeout=60)


def rendered(*arguments: str) -> str:
    answer = helm("template", "release", str(CHART), "--namespace", "models", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def golden(variant: str) -> Path:
    return CASES / f"{variant}.golden"


def documents(variant: str) -> list[Document]:
    return [each for each in yaml.safe_load_all(golden(variant).read_text("utf-8")) if each]


def pods(variant: str) -> Iterator[Any]:
    """The name and the spec of each pod that a variant makes."""
    for document in documents(variant):
        name, spec = f"{document['kind']} {document['metadata']['name']}", document.get("spec", {})
        if "template" in spec:
            yield name, spec["template"]["spec"]
        if document["kind"] == "RayCluster":
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]


def gateway(variant: str) -> Document:
    found: Document
    (found,) = [
        each["spec"]["template"]["spec"]
        for each in documents(variant)
        if each.get("spec", {})
        .get("template", {})
        .get("metadata", {})
        .get("labels", {})
        .get("app.kubernetes.io/component")
        == "gateway"
    ]
    return found


@rendering
def test_it_is_linted() -> None:
    answer = helm("lint", "--strict", str(CHART), "--set", KEY)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@rendering
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_renders_what_its_golden_file_has(variant: str) -> None:
    text = rendered("--values", str(CASES / f"{variant}.yaml"))
    if os.environ.get("ROUNDHOUSE_GOLDEN") == "write":
        golden(variant).write_text(text, "utf-8")
    assert text == golden(variant).read_text("utf-8"), "look at the difference, then ROUNDHOUSE_GOLDEN=write"


@rendering
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", [*VARIANTS, "kubernetes.yaml"])
def test_kubernetes_own_schemas_take_all_of_it_strictly(variant: str, version: str, tmp_path: Path) -> None:
    if variant == "kubernetes.yaml":
        every = [*yaml.safe_load_all((ROOT / "deploy" / variant).read_text("utf-8"))]
    else:
        every = documents(variant)
    own = [
        each for each in every if each["apiVersion"].partition("/")[0] not in ("ray.io", "monitoring.coreos.com")
    ]
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(own), "utf-8")
    validator = [str(TOOLS / "kubernetes-validate"), "--strict", "-k", version, str(file)]
    answer = subprocess.run(validator, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@rendering
def test_the_dockerfile_is_linted() -> None:
    linter = [str(TOOLS / "hadolint"), str(ROOT / "Dockerfile")]
    answer = subprocess.run(linter, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@rendering
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "refuses to start without API keys"),
        ([KEY, "replicas=2"], "set redis.mode"),
        ([KEY, "autoscaling.enabled=true"], "set redis.mode"),
        ([KEY, "kind=DaemonSet"], "set redis.mode"),
        ([KEY, "redis.mode=external"], "wants redis.url"),
        ([KEY, "redis.mode=bundled"], "wants redis.password"),
        ([KEY, "ingress.enabled=true"], "wants ingress.host"),
        ([KEY, "serviceMonitor.enabled=true"], "wants a key for /metrics"),
        (
            [KEY, "kind=DaemonSet", "autoscaling.enabled=true", "redis.mode=external", "redis.url=redis://x"],
            "DaemonSet",
        ),
        ([KEY, "replica=2"], "replica"),
        ([KEY, "kind=Pod"], "kind"),
        ([KEY, "data.size=much"], "size"),
    ],
    ids=lambda each: " ".join(each[1:]) if isinstance(each, list) else None,
)
def test_values_that_cannot_be_are_refused_with_what_to_do(values: list[str], told: str) -> None:
    answer = helm("template", "release", str(CHART), *(part for value in values for part in ("--set", value)))
    assert answer.returncode != 0
    assert told in answer.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_variables_are_good_settings(variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        each["name"]: each.get("value", "redis://10.0.0.5:6379/0")  # of a Secret: the address of Redis
        for container in gateway(variant)["containers"]
        for each in container["env"]
        if each["name"] != "REDIS_PASSWORD"
    }
    for document in documents(variant):
        given |= document.get("stringData", {}) if document["metadata"]["name"] == "release-roundhouse" else {}
        if "roundhouse.toml" in document.get("data", {}):
            (tmp_path / "roundhouse.toml").write_text(document["data"]["roundhouse.toml"], "utf-8")
            given["ROUNDHOUSE_CONFIG"] = str(tmp_path / "roundhouse.toml")
    given.setdefault("ROUNDHOUSE_API_KEYS", "of-an-existing-secret")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.api_keys
    assert "release-roundhouse" in settings.server.allowed_hosts


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pod_has_rights_that_it_does_not_need(variant: str) -> None:
    """Pod Security's level *restricted*, a root file system that is read only, and bounded memory."""
    for name, pod in pods(variant):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= container["resources"].keys(), name
            assert container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_volume_that_is_mounted_is_there(variant: str) -> None:
    claims = {
        claim["metadata"]["name"]
        for document in documents(variant)
        for claim in document.get("spec", {}).get("volumeClaimTemplates", ())
    }
    for name, pod in pods(variant):
        there = {volume["name"] for volume in pod.get("volumes", ())} | claims
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert {mount["name"] for mount in container["volumeMounts"]} <= there, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stop_is_waited_for_longer_than_the_drain_takes(variant: str) -> None:
    pod = gateway(variant)
    (drain,) = [
        each["value"] for each in pod["containers"][0]["env"] if each["name"] == "ROUNDHOUSE_SERVER__DRAIN"
    ]
    assert pod["terminationGracePeriodSeconds"] > float(drain)


def test_the_volume_that_hides_the_images_models_is_given_them_first() -> None:
    first, *_ = gateway("minimal")["initContainers"]
    assert first["command"] == ["cp", "--recursive", "--no-clobber", "/data/.", "/volume"]
    assert first["volumeMounts"] == [{"name": "data", "mountPath": "/volume"}]
    assert "ROUNDHOUSE_DATA_DIR=/data" in (ROOT / "Dockerfile").read_text("utf-8")


def test_dashboards_and_alerts_are_those_of_deploy() -> None:
    shared = {each["metadata"]["name"]: each for each in documents("shared-folder")}
    dashboard = shared["release-roundhouse-dashboard"]["data"]["roundhouse.json"]
    assert json.loads(dashboard) == json.loads((ROOT / "deploy/grafana/roundhouse.json").read_text("utf-8"))
    alerts = (ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8")
    assert shared["release-roundhouse-alerts"]["data"]["alerts.yaml"] == alerts
    (rule,) = [each for each in documents("several") if each["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(alerts)


def test_no_value_is_without_words_and_every_default_is_described() -> None:
    def compare(schema: Document, values: Document, path: str) -> None:
        assert values.keys() <= schema["properties"].keys(), path
        for name, value in schema["properties"].items():
            assert value["description"], f"{path}{name}"
            if "properties" in value and name in values:
                compare(value, values[name], f"{path}{name}.")

    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text("utf-8")), "")


def test_the_chart_has_the_version_of_the_program() -> None:
    from importlib.metadata import version

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == version("roundhouse-server")
