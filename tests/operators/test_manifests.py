"""`ops/kubernetes/` and `ops/compose.yaml`: every name, address and time fits the service."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from starlette.routing import Route

from bench.ports import free_port
from service.app import ROUTES
from service.command import check
from service.command.main import main
from service.database.driver import Connection
from service.http.urls import METRICS
from service.settings import FIELDS, MASKED, read
from tests.conftest import NOW, ROOT
from tests.database.test_pool import PGBOUNCER, pooler
from tests.family import SECRET
from tests.operators.prometheus import programs

FOLDER: Final = ROOT / "ops" / "kubernetes"
CRDS: Final = {"ServiceMonitor"}  # no part of Kubernetes, so its schemas do not have them
VERSIONS: Final = ("1.29.0", "1.34.0")
DEFAULTS: Final = {name.upper(): field.default for name, field in FIELDS.items()}
PATHS: Final = {route.path for route in ROUTES if isinstance(route, Route)}
SECRETS: Final = "/run/secrets"
IMAGE_PORT: Final = re.compile(r"^EXPOSE (\d+)$", re.MULTILINE)
IMAGE_USER: Final = re.compile(r"^USER (\d+):(\d+)$", re.MULTILINE)
CONTAINERFILE: Final = (ROOT / "ops" / "Containerfile").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "ops" / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.iterdir()):
        yield from yaml.safe_load_all(path.read_text())


KINDS: Final = {each["kind"]: each for each in manifests()}
DEPLOYMENT: Final[dict[str, Any]] = KINDS["Deployment"]["spec"]
POD: Final[dict[str, Any]] = DEPLOYMENT["template"]["spec"]
JOB: Final[dict[str, Any]] = KINDS["Job"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
PODS: Final = pytest.mark.parametrize("pod", [POD, JOB], ids=["service", "migration"])


def variables(container: dict[str, Any]) -> dict[str, str]:
    """The environment of a container."""
    return {each["name"]: each["value"] for each in container["env"]}


def checked(environment: dict[str, str]) -> set[str]:
    """The files of secrets in an environment, in which everything else must be a plain setting."""
    files = {name: value for name, value in environment.items() if name.endswith("_FILE")}
    assert {name.removesuffix("_FILE").lower() for name in files} <= MASKED
    others = {name: value for name, value in environment.items() if name not in files}
    assert not {name.lower() for name in others} & MASKED
    read({"DATABASE_URL": "postgresql://db.example/vt", "JWT_SECRET": SECRET, **others})
    assert others.keys() <= DEFAULTS.keys()
    return {*files.values()}


def stop_seconds(environment: dict[str, str]) -> float:
    """How long a process with these settings takes to stop at most."""
    names = ("SHUTDOWN_DRAIN_SECONDS", "SHUTDOWN_GRACE_SECONDS")
    return sum(float(environment.get(name, DEFAULTS[name])) for name in names)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(version: str) -> None:
    validation = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate (108 MiB) is not installed"
    )
    for manifest in manifests():
        if manifest["kind"] not in CRDS:
            validation.validate(manifest, version, strict=True)


def test_the_service_monitor_scrapes_the_port_of_the_metrics() -> None:
    monitor = KINDS["ServiceMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    service = KINDS["Service"]
    labels = service["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels
    # The rules select series by `job`, which is the name of the Service.
    assert f'job="{service["metadata"]["name"]}"' in (ROOT / "ops" / "rules.yml").read_text()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["path"] == METRICS
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_selectors_find_the_pods_of_the_service() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    [spread] = POD["topologySpreadConstraints"]
    assert KINDS["Service"]["spec"]["selector"] == labels
    for selector in (DEPLOYMENT, KINDS["PodDisruptionBudget"]["spec"]):
        assert selector["selector"]["matchLabels"] == labels
    assert spread["labelSelector"]["matchLabels"] == labels
    assert KINDS["Job"]["spec"]["template"]["metadata"]["labels"] != labels


def test_ports_are_those_of_the_service() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    environment = variables(CONTAINER)
    assert ports == {"http": DEFAULTS["PORT"], "metrics": int(environment["METRICS_PORT"])}
    assert IMAGE_PORT.findall(CONTAINERFILE) == [str(ports["http"])]
    assert "PORT" not in environment
    assert {port["targetPort"] for port in KINDS["Service"]["spec"]["ports"]} == ports.keys()


def test_probes_ask_what_their_names_say() -> None:
    paths = {name: CONTAINER[name]["httpGet"]["path"] for name in CONTAINER if "Probe" in name}
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    assert {*paths.values()} <= PATHS
    assert {CONTAINER[name]["httpGet"]["port"] for name in paths} == {"http"}


def test_a_pod_is_out_of_the_load_balancer_before_its_drain_ends_and_stops_in_time() -> None:
    environment, readiness = variables(CONTAINER), CONTAINER["readinessProbe"]
    noticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    drain = float(environment["SHUTDOWN_DRAIN_SECONDS"])
    assert noticed + readiness["timeoutSeconds"] < drain
    assert POD["terminationGracePeriodSeconds"] >= stop_seconds(environment) + 5
    assert "lifecycle" not in CONTAINER


@PODS
def test_a_pod_is_the_user_of_the_image_and_may_do_nothing_else(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    ids = (str(security["runAsUser"]), str(security["runAsGroup"]))
    assert IMAGE_USER.findall(CONTAINERFILE) == [ids]
    assert security["fsGroup"] == security["runAsGroup"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}


@PODS
def test_a_pod_runs_a_command_with_the_secrets_of_the_example(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    program, name = container["command"]
    assert program == "viewing-time"
    assert name in main.commands
    [volume] = [each["secret"] for each in pod["volumes"] if "secret" in each]
    [place] = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "secrets"]
    examples = {
        each["metadata"]["name"]: each["stringData"]
        for each in manifests()
        if each["kind"] == "Secret"
    }
    keys = examples[volume["secretName"]]
    assert checked(variables(container)) == {f"{place}/{key}" for key in keys}
    assert {*keys.values()} == {""}


def test_compose_publishes_ports_on_this_machine_only() -> None:
    published = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    inside = {port.split(":")[2] for name in instances() for port in SERVICES[name]["ports"]}
    assert inside == {str(DEFAULTS["PORT"])}


def test_compose_pins_the_images_of_others() -> None:
    images = {each["image"] for each in SERVICES.values() if "build" not in each}
    assert len(images) == 3
    assert all(re.fullmatch(r"docker\.io/[a-z/]+:v?\d+\.[\w.-]+", image) for image in images)


def instances() -> list[str]:
    """The names of the processes of the service in the file of compose."""
    return [name for name in SERVICES if name.startswith("service-")]


@pytest.mark.parametrize("name", [*instances(), "migrate"])
def test_compose_gives_the_service_its_secrets_as_files(name: str) -> None:
    service = SERVICES[name]
    files = checked(service["environment"])
    assert files == {f"{SECRETS}/{secret}" for secret in service["secrets"]}
    assert service["command"][1] in main.commands if "command" in service else True
    assert service["read_only"] is True
    assert (ROOT / "ops" / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_compose_keeps_every_secret_outside_the_image_and_the_repository() -> None:
    used = {secret for each in SERVICES.values() for secret in each.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("../.data/compose/")
    assert ".data/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_commands_for_the_secrets_of_compose_make_what_the_service_needs(
    tmp_path: Path,
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    guide = (ROOT / "ops" / "README.md").read_text()
    [commands] = [block for block in guide.split("```") if "> pgbouncer_users" in block]
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
    folder = tmp_path / ".data" / "compose"
    assert {path.name for path in folder.iterdir()} == COMPOSE["secrets"].keys()
    pairs = SERVICES["service-1"]["environment"].items()
    settings = read({name: value.replace(SECRETS, str(folder)) for name, value in pairs})
    pooled, direct = (
        urlsplit(url) for url in (settings.database_url, settings.database_direct_url)
    )
    password = (folder / "database_password").read_text().strip()
    assert pooled.password == direct.password == password
    users = (folder / "pgbouncer_users").read_text().strip()
    assert users == f'"{pooled.username}" "{password}"'
    parser = ConfigParser()
    parser.read_string(COMPOSE["configs"]["pgbouncer"]["content"])
    assert {pooled.hostname, direct.hostname} <= SERVICES.keys()
    assert pooled.port == parser.getint("pgbouncer", "listen_port")
    database = SERVICES["database"]["environment"]
    assert pooled.path == direct.path == f"/{database['POSTGRES_DB']}"
    assert pooled.username == database["POSTGRES_USER"]


def test_compose_gives_the_service_time_to_stop() -> None:
    for name in instances():
        seconds = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert seconds > stop_seconds(SERVICES[name]["environment"]) + 5


def test_prometheus_of_compose_scrapes_every_instance(tmp_path: Path) -> None:
    configuration = COMPOSE["configs"]["prometheus"]["content"]
    [job] = yaml.safe_load(configuration)["scrape_configs"]
    port = SERVICES["service-1"]["environment"]["METRICS_PORT"]
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in instances()]}]
    (tmp_path / "prometheus.yml").write_text(configuration)
    rules = (ROOT / "ops" / COMPOSE["configs"]["rules"]["file"]).read_text()
    (tmp_path / "rules.yml").write_text(rules)
    promtool, _ = programs()
    command = [promtool, "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
async def test_the_pooler_of_compose_fits_the_service(
    database: str, connection: Connection
) -> None:
    parser = ConfigParser()
    parser.read_string(COMPOSE["configs"]["pgbouncer"]["content"])
    ours = {k: v for k, v in parser["pgbouncer"].items() if not re.match("listen|auth", k)}
    user = parse_qs(urlsplit(database).query)["user"][0]
    name = urlsplit(database).path.removeprefix("/")
    role = COMPOSE["configs"]["role"]["content"]
    role += "alter role viewing set synchronous_commit = on;"  # which the server of tests is not
    await connection.execute(
        role.replace("alter role viewing", f'alter role "{user}" in database "{name}"')
    )
    async with pooler(database, **ours) as url:
        environment = {
            **SERVICES["service-1"]["environment"],
            "DATABASE_URL": url,
            "DATABASE_DIRECT_URL": database,
            "JWT_SECRET": SECRET,
            "PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
        }
        kept = {k: v for k, v in environment.items() if not k.endswith("_FILE")}
        checking = partial(check.findings, kept, len(instances()), lambda: NOW)
        found = await asyncio.to_thread(lambda: [str(each) for each in checking()])
    faults = [line for line in found if not line.startswith("ok")]
    assert [line for line in faults if "role" in line or "pooler" in line] == []
