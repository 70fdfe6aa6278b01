"""The files in deploy/ and the Dockerfile agree with the program: ports, variables, paths, users."""

from __future__ import annotations

import contextlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from starlette.routing import Route

from catalog.errors import NotPermitted
from server.app import create_app
from server.edge.heads import check_host
from server.settings import ServerSettings, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
MANIFESTS = sorted(file for file in DEPLOY.rglob("*.yaml") if "templates" not in file.parts)  # these are helm's
OWN_VARIABLES = {"ROUNDHOUSE_CONFIG"}


def services() -> list[Any]:
    return [
        pytest.param(service, id=f"{file.stem}:{name}")
        for file in COMPOSE
        for name, service in yaml.safe_load(file.read_text())["services"].items()
    ]


def kubernetes(kind: str) -> dict[str, Any]:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def container() -> dict[str, Any]:
    (only,) = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("file", MANIFESTS, ids=[str(file.relative_to(DEPLOY)) for file in MANIFESTS])
def test_it_parses(file: Path) -> None:
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text()))


def test_every_variable_that_is_set_is_a_setting() -> None:
    texts = [(ROOT / "Dockerfile").read_text(), *(file.read_text() for file in MANIFESTS)]
    named = {name for text in texts for name in re.findall(r"\bROUNDHOUSE_[A-Z_]+\b(?=\s*[:=])", text)}
    assert {"ROUNDHOUSE_DATA_DIR", "ROUNDHOUSE_API_KEYS", "ROUNDHOUSE_STATE__URL"} <= named
    for name in named - OWN_VARIABLES:
        section: Any = Settings
        for part in name.removeprefix("ROUNDHOUSE_").lower().split("__"):
            fields = section.model_fields
            assert part in fields, f"{name} is no setting"
            section = fields[part].annotation


def test_the_values_in_compose_are_good_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in COMPOSE:
        for service in yaml.safe_load(file.read_text())["services"].values():
            for name, value in service.get("environment", {}).items():
                if name.startswith("ROUNDHOUSE_"):
                    monkeypatch.setenv(name, re.sub(r"\$\{\w+:[?-][^}]*\}", "chosen", value))
        settings = Settings()
        assert settings.api_keys
        assert settings.server.allowed_hosts


@pytest.mark.parametrize("service", services())
def test_services_run_without_rights_they_do_not_need(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "nothing is published beyond this machine by default"


@pytest.mark.parametrize("service", services())
def test_files_that_are_mounted_exist(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", ()):
        if volume.startswith("./"):
            assert (DEPLOY / volume.partition(":")[0]).exists(), volume


def test_the_port_is_the_same_everywhere() -> None:
    port = Settings.model_fields["server"].get_default().port
    docker = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {port}" in docker
    assert f"127.0.0.1:{port}/health" in docker
    assert [one["containerPort"] for one in container()["ports"]] == [port]
    annotations = kubernetes("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port)
    assert yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["roundhouse"]["ports"] == [
        f"127.0.0.1:{port}:{port}"
    ]
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"roundhouse:{port}"]}]


def test_probes_and_scrapes_ask_for_paths_that_are_served() -> None:
    app = create_app(Settings.model_validate({"data_dir": "/nonexistent"}))
    served = {route.path for route in app.routes if isinstance(route, Route)}
    probes = {name: container()[name]["httpGet"]["path"] for name in container() if name.endswith("Probe")}
    assert probes == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert {*probes.values(), scrape["metrics_path"]} <= served


def test_the_gateway_answers_to_the_name_of_its_service() -> None:
    environment = {one["name"]: one["value"] for one in container()["env"]}
    allowed = tuple(json.loads(environment["ROUNDHOUSE_SERVER__ALLOWED_HOSTS"]))
    settings = ServerSettings(host="0.0.0.0", allowed_hosts=allowed)
    name = kubernetes("Service")["metadata"]["name"]
    for host in (name, f"{name}.default.svc", f"{name}.default.svc.cluster.local:80", "10.1.2.3:8000"):
        check_host(host, settings)
    with pytest.raises(NotPermitted):
        check_host("evil.example", settings)


def test_nothing_runs_as_root() -> None:
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]["securityContext"]
    docker = (ROOT / "Dockerfile").read_text()
    users = re.findall(r"^USER (.+)$", docker, re.MULTILINE)
    user = users[0]
    assert {*users} == {user}, "every image runs as the same user"
    assert docker.count(f"--uid {user}") == len(users)
    assert (pod["runAsNonRoot"], pod["runAsUser"]) == (True, int(user))
    assert container()["securityContext"]["allowPrivilegeEscalation"] is False
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_stop_is_waited_for_longer_than_a_drain_takes() -> None:
    drain = Settings.model_fields["server"].get_default().drain
    assert kubernetes("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain
    for file in COMPOSE:
        for service in yaml.safe_load(file.read_text())["services"].values():
            if service["image"] == "roundhouse":
                assert int(service["stop_grace_period"].removesuffix("s")) > drain


def test_the_image_holds_what_the_manifests_use() -> None:
    lock = (DEPLOY / "requirements.lock").read_text()
    for package in ("redis", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "xllamacpp"):
        assert re.search(rf"^{package}==", lock, re.MULTILINE), package


def test_what_is_locked_runs_on_every_python_that_pyproject_admits() -> None:
    """A later release of Python on the machine that made the lock hides that an older one is refused by pip."""
    oldest = "3.11.0"
    refused = {}
    for name in re.findall(r"^([\w.-]+)==", (DEPLOY / "requirements-dev.lock").read_text(), re.MULTILINE):
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another system
            wanted = str(metadata.metadata(name).json.get("requires_python", ""))
            if not SpecifierSet(wanted).contains(oldest):
                refused[name] = wanted
    assert not refused


def test_the_locks_have_hashes_and_name_no_index() -> None:
    for lock in DEPLOY.glob("*.lock"):
        text = lock.read_text()
        assert "://" not in text
        assert "--hash=sha256:" in text
        pinned = re.findall(r"^[a-z0-9][\w.-]*==\S+(.*)$", text, re.MULTILINE)
        assert pinned
        assert all(rest.strip().endswith("\\") for rest in pinned), "every pin is followed by its hashes"


def test_the_dashboard_is_where_grafana_looks() -> None:
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/roundhouse.yaml").read_text())
    (folder,) = [one["options"]["path"] for one in provider["providers"]]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/roundhouse.json:{folder}/roundhouse.json:ro" in volumes
    assert json.loads((DEPLOY / "grafana" / "roundhouse.json").read_text())["uid"] == "roundhouse"


@pytest.mark.parametrize(
    "page",
    sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("[a-z]*/**/*.md")),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
