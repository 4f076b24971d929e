"""Clusters: the manifests are what the schemas allow, and agree with all other homes of the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from agreement import Thing, disagreements, kustomize
from baking import REPOSITORY, bake
from kubernetes_validate.utils import all_versions  # type: ignore[import-untyped]

NEWEST = sorted({tuple(map(int, version.split(".")[:2])) for version in all_versions()})[-3:]
OVERLAYS = "deploy/kubernetes/overlays"
# As far as our ServiceMonitor goes: the schemas have Kubernetes' own kinds alone.
OBJECT = {"type": "object", "additionalProperties": False}
TEXT: Thing = {"type": "string", "minLength": 1}
SERVICE_MONITOR = {
    **OBJECT,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object"},
        "spec": {
            **OBJECT,
            "required": ["selector", "endpoints"],
            "properties": {
                "selector": {**OBJECT, "properties": {"matchLabels": {"type": "object", "minProperties": 1}}},
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        **OBJECT,
                        "required": ["port"],
                        "properties": {"port": TEXT, "path": TEXT, "interval": TEXT, "scrapeTimeout": TEXT},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="session")
def kubectl() -> str:
    """CI has it (REQUIRE_TOOLS); elsewhere the tests are skipped."""
    found = subprocess.run(
        [sys.executable, REPOSITORY / "ci/kubectl.py", "find"], capture_output=True, text=True, timeout=60
    )
    if found.returncode != 0:
        advice = "kubectl is missing: `python3 ci/kubectl.py` fetches it"
        pytest.fail(advice) if os.environ.get("REQUIRE_TOOLS") else pytest.skip(advice)
    return found.stdout.strip()


def misfits(things: list[Thing], version: tuple[int, ...] = NEWEST[-1]) -> list[str]:
    """What the schemas do not allow."""
    found = []
    for thing in things:
        try:
            if thing["kind"] == "ServiceMonitor":
                jsonschema.validate(thing, SERVICE_MONITOR)
            else:
                kubernetes_validate.validate(thing, ".".join(map(str, version)), strict=True)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            found.append(f"{thing['kind']}: {error}")
    return found


@pytest.mark.parametrize("version", NEWEST, ids=lambda version: "{}.{}".format(*version))
@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_manifests_fit_the_schemas(overlay: str, version: tuple[int, ...], project: Path, kubectl: str) -> None:
    things = kustomize(kubectl, project / OVERLAYS / overlay)
    assert len(things) > 5
    assert misfits(things, version) == []


def test_three_versions() -> None:
    assert len(NEWEST) == 3
    assert NEWEST[-1] >= (1, 37)


@pytest.mark.parametrize(("protocol", "pool"), [("http", "threaded"), ("line", "prefork"), ("stream", "prefork")])
def test_all_homes_agree(protocol: str, pool: str, template: Path, tmp_path: Path, kubectl: str) -> None:
    answers = {"project_slug": "other-name", "package_name": "thing", "registry": "registry.example:5000/team"}
    project = bake(template, tmp_path, protocol=protocol, pool=pool, port="8123", **answers)
    things = kustomize(kubectl, project / OVERLAYS / "prod")
    assert disagreements(project, things) == []
    assert misfits(things) == []


def test_dev_is_small(project: Path, kubectl: str) -> None:
    things = {thing["kind"]: thing for thing in kustomize(kubectl, project / OVERLAYS / "dev")}
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor"} & set(things)
    assert things["Deployment"]["spec"]["replicas"] == 1


@pytest.mark.parametrize(("registry", "policy"), [("", "Never"), ("r.example/team", "IfNotPresent")])
def test_dev_takes_an_image_that_the_node_has(
    registry: str, policy: str, template: Path, tmp_path: Path, kubectl: str
) -> None:
    things = kustomize(kubectl, bake(template, tmp_path, registry=registry) / OVERLAYS / "dev")
    assert template_of(things)["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_names_are_looked_up_at_both_ports(sound: list[Thing]) -> None:
    (policy,) = [thing for thing in sound if thing["kind"] == "NetworkPolicy"]
    (rule,) = policy["spec"]["egress"]
    asked = {(one["protocol"], one["port"]) for one in rule["ports"]}
    assert asked == {(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)}


def test_a_changed_file_rolls_the_pods(project: Path, tmp_path: Path, kubectl: str) -> None:
    before = template_of(kustomize(kubectl, project / OVERLAYS / "prod"))
    changed = shutil.copytree(project, tmp_path / project.name)
    with (changed / "deploy/kubernetes/base/config.toml").open("a") as file:
        file.write("# a word more\n")
    assert template_of(kustomize(kubectl, changed / OVERLAYS / "prod")) != before


def template_of(things: list[Thing]) -> Any:
    return next(thing for thing in things if thing["kind"] == "Deployment")["spec"]["template"]


BASE = "deploy/kubernetes/base"
MONITOR = "deploy/kubernetes/components/servicemonitor"
STACK = "deploy/swarm/stack.yaml"
# File, what stands there, what drifts in, and what has to be said of it.
DRIFTS = [
    (f"{BASE}/deployment.yaml", "livenessProbe:", "livenesProbe:", "livenesProbe"),
    (f"{BASE}/deployment.yaml", "readOnlyRootFilesystem", "readonlyRootFilesystem", "readonlyRootFilesystem"),
    (f"{BASE}/deployment.yaml", "terminationGracePeriodSeconds: 40", "terminationGracePeriod: 40", "GracePeriod"),
    (f"{BASE}/deployment.yaml", "maxSurge: 1", "maxSurge: one more", "one more"),
    (f"{BASE}/horizontalpodautoscaler.yaml", "averageUtilization", "averageUtilisation", "averageUtilisation"),
    (f"{BASE}/networkpolicy.yaml", "policyTypes", "policyType", "policyType"),
    (f"{MONITOR}/servicemonitor.yaml", "scrapeTimeout", "scrapeTimeOut", "scrapeTimeOut"),
    (f"{BASE}/deployment.yaml", "containerPort: 1966", "containerPort: 1965", "port: "),
    (f"{BASE}/deployment.yaml", "containerPort: 1967", "containerPort: 1968", "admin port: "),
    (f"{BASE}/deployment.yaml", 'value: ":1967"', 'value: ":1968"', "admin port: "),
    (f"{BASE}/deployment.yaml", 'value: ":1967"', 'value: "127.0.0.1:1967"', "do not reach a loopback"),
    (f"{BASE}/service.yaml", "targetPort: http", "targetPort: admin", "port: "),
    (f"{BASE}/service.yaml", "port: 1966", "port: 80", "port: "),
    (f"{BASE}/networkpolicy.yaml", "- port: http", "- port: admin", "port: "),
    (f"{MONITOR}/servicemonitor.yaml", "port: admin", "port: http", "admin port: "),
    ("deploy/swarm/ingress.yaml", "target: 1966", "target: 1967", "port: "),
    ("Dockerfile", "EXPOSE 1966", "EXPOSE 80", "port: "),
    ("Dockerfile", "127.0.0.1:1967", "127.0.0.1:1999", "admin port: "),
    ("compose.yaml", ":1966:1966", ":1966:1965", "port: "),
    ("deploy/systemd/hello-server.socket", "ListenStream=1966", "ListenStream=80", "port: "),
    ("src/hello_server/__main__.py", '"port": 1966', '"port": 1967', "port: "),
    (f"{BASE}/deployment.yaml", "path: /livez", "path: /healthz", "/healthz, which the admin address does not have"),
    (f"{BASE}/deployment.yaml", "path: /livez", "path: /readyz", "path of livenessProbe"),
    (f"{MONITOR}/servicemonitor.yaml", "path: /metrics", "path: /metric", "metrics path"),
    ("src/hello_server/runtime/ops/endpoints.py", '"/readyz")', '"/ready")', "which the admin address does not have"),
    (f"{BASE}/deployment.yaml", "PeriodSeconds: 40", "PeriodSeconds: 35", "times: deployment kills after 35 s"),
    (f"{BASE}/deployment.yaml", 'value: "30"', 'value: "60"', "times: deployment kills after 40 s"),
    (f"{BASE}/deployment.yaml", "failureThreshold: 40", "failureThreshold: 20", "times: startupProbe waits 20 s"),
    (f"{BASE}/deployment.yaml", "failureThreshold: 2\n", "failureThreshold: 5\n", "is noticed after 10 s"),
    (f"{BASE}/deployment.yaml", "timeoutSeconds: 3", "timeoutSeconds: 1", "timeout of a probe"),
    (STACK, "stop_grace_period: 40s", "stop_grace_period: 30s", "times: stack kills after 30 s"),
    (STACK, 'STOP_DELAY: "5"', 'STOP_DELAY: "15"', "times: stack kills after 40 s"),
    (STACK, "start_period: 30s", "start_period: 3s", "times: stack waits"),
    (STACK, "order: start-first", "order: stop-first", "a roll: "),
    ("Dockerfile", "DRAIN_TIMEOUT=8", "DRAIN_TIMEOUT=12", "times: image kills after 10 s"),
    ("compose.yaml", "stop_grace_period: 10s", "stop_grace_period: 8s", "times: compose kills after 8 s"),
    ("deploy/systemd/hello-server.service", "DRAIN_TIMEOUT=30", "DRAIN_TIMEOUT=20", "drain timeout: "),
    ("deploy/systemd/hello-server.service", "TimeoutStartSec=40", "TimeoutStartSec=20", "times: unit waits 20 s"),
    (f"{BASE}/deployment.yaml", "runAsUser: 65532", "runAsUser: 65534", "user and group: "),
    (f"{BASE}/deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "pod security: runAsNonRoot"),
    ("Dockerfile", "USER 65532:65532", "USER 1000:1000", "user and group: "),
    ("deploy/swarm/secrets.yaml", 'uid: "65532"', 'uid: "0"', "user and group: "),
    (STACK, "- ALL", "- NET_RAW", "rights: "),
    (STACK, "memory: 256M", "memory: 512M", "memory limit: "),
    ("compose.yaml", "cpus: 1", "cpus: 2", "processors: "),
    ("compose.yaml", "pids_limit: 128", "pids_limit: 64", "processes: "),
    (f"{BASE}/deployment.yaml", "HELLO_SERVER_STOP_DELAY", "HELLO_SERVER_STOPDELAY", "STOPDELAY, which is no option"),
    (STACK, "HELLO_SERVER_DRAIN_TIMEOUT", "HELLO_DRAIN_TIMEOUT", "HELLO_DRAIN_TIMEOUT, which is no option"),
    (STACK, "IMAGE:-hello-server", "IMAGE:-hello", "image: "),
    (f"{BASE}/deployment.yaml", "image: hello-server", "image: hello", "image: "),
    (f"{OVERLAYS}/prod/kustomization.yaml", "newTag: 0.1.0", "newTag: 0.2.0", "image: "),
    (f"{BASE}/horizontalpodautoscaler.yaml", "    name: hello-server", "    name: hello", "scaled: "),
    (
        f"{BASE}/poddisruptionbudget.yaml",
        "  name: hello-server",
        "  name: hello",
        "no PodDisruptionBudget hello-server",
    ),
    (f"{BASE}/poddisruptionbudget.yaml", "/name: hello-", "/name: hallo-", "PodDisruptionBudget selects other pods"),
    (f"{BASE}/service.yaml", "/name: hello-server", "/name: hello", "the Service selects other pods"),
    (f"{BASE}/config.toml", "idle = 5", "idle = 50", "configuration: "),
    (f"{BASE}/config.toml", "idle = 5", "idel = 5", "configuration: "),
    (STACK, "target: /etc/hello-server/", "target: /run/hello-server/", "configuration file: "),
    ("deploy/rc.d/hello_server", "/usr/local/bin/hello-server", "/usr/local/bin/hello", "command: "),
]


@pytest.fixture(scope="session")
def sound(project: Path, kubectl: str) -> list[Thing]:
    return kustomize(kubectl, project / OVERLAYS / "prod")


@pytest.mark.parametrize(
    ("file", "right", "wrong", "said"),
    DRIFTS,
    ids=[f"{Path(file).name}: {wrong.strip()}" for file, _, wrong, _ in DRIFTS],
)
def test_drift_is_noticed(
    file: str, right: str, wrong: str, said: str, project: Path, sound: list[Thing], tmp_path: Path, kubectl: str
) -> None:
    drifted = tmp_path / project.name
    in_sources = file.startswith("src/")
    shutil.copytree(project, drifted, ignore=None if in_sources else shutil.ignore_patterns("src"))
    if not in_sources:
        (drifted / "src").symlink_to(project / "src")
    text = (drifted / file).read_text()
    assert right in text
    (drifted / file).write_text(text.replace(right, wrong))
    things = kustomize(kubectl, drifted / OVERLAYS / "prod")
    found = misfits([thing for thing in things if thing not in sound])
    try:
        found += disagreements(drifted, things)
    except LookupError as error:  # so wrong that it cannot be compared; what the schema says has to do
        found.append(f"cannot be compared: {error!r}")
    assert any(said in line for line in found), found


def test_stack_fits_its_schema(project: Path) -> None:
    for name in ("stack", "ingress", "secrets"):
        judge_stack(project / f"deploy/swarm/{name}.yaml")


@pytest.mark.parametrize(("right", "wrong"), [("replicas:", "replica:"), ("start_period:", "start-period:")])
def test_misspelt_stack_is_noticed(right: str, wrong: str, project: Path, tmp_path: Path) -> None:
    text = (project / STACK).read_text()
    assert right in text
    (tmp_path / "stack.yaml").write_text(text.replace(right, wrong))
    with pytest.raises(AssertionError, match=wrong.rstrip(":")):
        judge_stack(tmp_path / "stack.yaml")


def judge_stack(file: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
