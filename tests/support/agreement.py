"""What the homes of a service agree on: Dockerfile, compose file, Swarm stack, manifests, units, script, options.

`disagreements` reads them all, as a cluster would see them, and says in a line each what does not fit.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Thing = dict[str, Any]  # one Kubernetes object
# Pages of the admin address, and the probe that has to ask for each: a restart does not help a service that is busy.
PROBES = {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
DOCKER_STOP = 10.0  # seconds that `docker stop` gives
ASK = """
import json
from {}.__main__ import SERVICE as service
print(json.dumps([service.prefix, service.defaults, {{option.key: option.default for option in service.options}}]))
"""


class Ledger:
    """Collects what does not fit."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def same(self, what: str, **values: Any) -> None:
        """All of these have to be equal."""
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            self.lines.append(f"{what}: {', '.join(f'{home} {value!r}' for home, value in values.items())}")

    def need(self, truth: object, line: str) -> None:
        if not truth:
            self.lines.append(line)


def kustomize(kubectl: str, directory: Path) -> list[Thing]:
    """The objects that an overlay makes."""
    done = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(things: list[Thing], kind: str, name: str) -> Thing:
    for thing in things:
        if thing["kind"] == kind and thing["metadata"]["name"] == name:
            return thing
    raise LookupError(f"there is no {kind} {name}")


def disagreements(project: Path, things: list[Thing]) -> list[str]:
    """`things` are what the production overlay makes of the project."""
    ledger = Ledger()
    homes = Homes(project, things)
    for check in (names, ports, probes, times, users, limits, environment, configuration, selectors, pods):
        check(ledger, homes)
    return ledger.lines


@functools.cache
def table(sources: Path, package: str) -> tuple[str, dict[str, Any]]:
    """The prefix of its variables, and the default of every option, from the service itself."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", ASK.format(package)], cwd=sources, check=True, capture_output=True, text=True
    )
    prefix, own, options = json.loads(done.stdout)
    return prefix, {**options, **own}


@functools.cache
def checked(sources: Path, package: str, text: str) -> str:
    """What the service says against a configuration file."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        command = [sys.executable, "-B", "-m", package, "--check", "-f", file.name]
        done = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stderr.strip()


class Homes:
    """The files, read."""

    def __init__(self, project: Path, things: list[Thing]) -> None:
        self.project, self.things = project, things
        self.slug = project.name
        self.package = next(path.parent.name for path in project.glob("src/*/__main__.py"))
        self.sources = (project / "src").resolve()
        self.prefix, self.options = table(self.sources, self.package)
        self.dockerfile = (project / "Dockerfile").read_text()
        self.unit = (project / f"deploy/systemd/{self.slug}.service").read_text()
        self.socket = (project / f"deploy/systemd/{self.slug}.socket").read_text()
        self.script = next(path for path in project.glob("deploy/rc.d/*") if path.suffix == "").read_text()
        self.makefile = (project / "Makefile").read_text()
        self.compose = yaml.safe_load((project / "compose.yaml").read_text())["services"][self.slug]
        parts = {
            name: yaml.safe_load((project / f"deploy/swarm/{name}.yaml").read_text())
            for name in ("stack", "ingress", "secrets")
        }
        self.stack = parts["stack"]["services"][self.slug]
        self.config = parts["stack"]["configs"]["config"]
        self.ingress = parts["ingress"]["services"][self.slug]
        self.secrets = parts["secrets"]
        self.deployment = one(things, "Deployment", self.slug)["spec"]
        self.pod = self.deployment["template"]["spec"]
        (self.container,) = self.pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.pages = set(
            re.findall(r'\("GET", "(/\w+)"\)', (project / f"src/{self.package}/runtime/ops/endpoints.py").read_text())
        )

    def found(self, text: str, pattern: str) -> str:
        """The first group of a pattern that has to be there."""
        match = re.search(pattern, text, re.MULTILINE)
        return match[1] if match else f"nothing like {pattern}"

    @property
    def image_env(self) -> dict[str, str]:
        """What the image sets of the service's options."""
        return dict(re.findall(rf"^ +({self.prefix}\w+)=([^\s\\]+)", self.dockerfile, re.MULTILINE))

    @property
    def pod_env(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container["env"]}

    def option(self, environment: Mapping[str, str], name: str) -> float:
        """Seconds, from the nearest that sets them: this home, the image, the table."""
        key = self.prefix + name.upper()
        return float({**self.image_env, **environment}.get(key, self.options[name]))


def names(ledger: Ledger, homes: Homes) -> None:
    slug = homes.slug
    for kind in ("HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"):
        one(homes.things, kind, slug)
    image = homes.compose["image"]
    version = homes.found((homes.project / f"src/{homes.package}/__init__.py").read_text(), r'^__version__ = "(.*)"')
    ledger.same(
        "image",
        compose=image,
        makefile=homes.found(homes.makefile, r"^IMAGE \?= (.*)"),
        stack=homes.found(homes.stack["image"], r"^\$\{IMAGE:-([^}]*)\}:\$\{VERSION:-latest\}$"),
        deployment=homes.container["image"].removesuffix(":" + version),
    )
    ledger.same("title", dockerfile=homes.found(homes.dockerfile, r'image\.title="(.*?)"'), project=slug)
    ledger.same("command", unit=homes.found(homes.unit, r"^ExecStart=/usr/local/bin/(\S+) -x$"), project=slug)
    ledger.same("command", script=homes.found(homes.script, r'^command="/usr/local/bin/(\S+)"$'), project=slug)
    ledger.same(
        "module",
        dockerfile=homes.found(homes.dockerfile, r'ENTRYPOINT \["python", "-m", "(\w+)", "-x"\]'),
        project=homes.package,
    )
    ledger.same("account", pod=homes.pod["serviceAccountName"], project=slug)
    ledger.need(homes.config["name"].startswith(slug + "-$"), f"names: the stack's config is {homes.config['name']}")
    ledger.need(homes.secrets["secrets"]["token"]["name"].startswith(slug + "-"), "names: the stack's secret")
    target = one(homes.things, "HorizontalPodAutoscaler", slug)["spec"]["scaleTargetRef"]
    ledger.same(
        "scaled",
        autoscaler=[target["apiVersion"], target["kind"], target["name"]],
        project=["apps/v1", "Deployment", slug],
    )


def ports(ledger: Ledger, homes: Homes) -> None:
    (port,) = one(homes.things, "Service", homes.slug)["spec"]["ports"]
    (admin,) = one(homes.things, "Service", homes.slug + "-admin")["spec"]["ports"]
    (published,) = homes.ingress["ports"]
    (monitored,) = one(homes.things, "ServiceMonitor", homes.slug)["spec"]["endpoints"]
    policy = one(homes.things, "NetworkPolicy", homes.slug)["spec"]["ingress"]
    opened = [[where["port"] for where in rule["ports"]] for rule in policy]
    ledger.same(
        "port",
        options=homes.options["port"],
        dockerfile=int(homes.found(homes.dockerfile, r"^EXPOSE (\d+)$")),
        compose=int(homes.compose["ports"][0].rpartition(":")[2]),
        ingress=published["target"],
        published=published["published"],
        socket=int(homes.found(homes.socket, r"^ListenStream=(\d+)$")),
        pod=homes.ports.get(port["targetPort"]),
        service=port["port"],
        policy=homes.ports.get(opened[0][0]),
    )
    ledger.same(
        "admin port",
        dockerfile=int(homes.image_env[homes.prefix + "ADMIN"].rpartition(":")[2]),
        environment=int(homes.pod_env[homes.prefix + "ADMIN"].rpartition(":")[2]),
        pod=homes.ports["admin"],
        service=admin["port"],
        target=homes.ports.get(admin["targetPort"]),
        policy=homes.ports.get(opened[1][0]),
        monitor=admin["port"] if monitored["port"] == admin["name"] else monitored["port"],
        **{probe: homes.ports.get(homes.container[probe]["httpGet"]["port"]) for probe in PROBES},
    )
    ledger.need(
        homes.pod_env[homes.prefix + "ADMIN"].startswith(":"), "admin port: probes do not reach a loopback address"
    )
    ledger.need("from" in policy[1] and "from" not in policy[0], "admin port: the network policy opens it to all")
    ledger.same("metrics path", monitor=monitored["path"], service="/metrics" if "/metrics" in homes.pages else "none")


def probes(ledger: Ledger, homes: Homes) -> None:
    for probe, path in PROBES.items():
        asked = homes.container[probe]["httpGet"]["path"]
        ledger.need(asked in homes.pages, f"probes: {probe} asks for {asked}, which the admin address does not have")
        ledger.same(f"path of {probe}", manifest=asked, meaning=path)
    ledger.need("test" not in homes.stack["healthcheck"], "probes: the stack replaces the image's own health check")
    ledger.same(
        "health check",
        dockerfile=homes.found(homes.dockerfile, r'CMD \["python", "-m", "(.*)"\]$'),
        module=f'{homes.package}", "ctl", "health',
    )


def times(ledger: Ledger, homes: Homes) -> None:
    """A stop: not ready, stop delay, drain, and only then loses the one who asked for it patience. All in seconds."""
    unit_env = {
        f"{homes.prefix}{key}": value
        for key, value in re.findall(rf"^Environment={homes.prefix}(\w+)=(.*)$", homes.unit, re.MULTILINE)
    }
    stops: dict[str, tuple[Mapping[str, str], float]] = {
        "image": ({}, DOCKER_STOP),
        "compose": (homes.compose.get("environment", {}), seconds(homes.compose["stop_grace_period"])),
        "stack": (homes.stack["environment"], seconds(homes.stack["stop_grace_period"])),
        "deployment": (homes.pod_env, float(homes.pod["terminationGracePeriodSeconds"])),
    }
    for home, (environment, grace) in stops.items():
        delay, drain = homes.option(environment, "stop_delay"), homes.option(environment, "drain_timeout")
        ledger.need(drain > 0, f"times: {home} has a drain without an end")
        ledger.need(
            delay + drain < grace, f"times: {home} kills after {grace:g} s, but a stop takes {delay:g} + {drain:g} s"
        )
    drains = {home: homes.option(stops[home][0], "drain_timeout") for home in ("stack", "deployment")}
    ledger.same("drain timeout", **drains, unit=float(unit_env[homes.prefix + "DRAIN_TIMEOUT"]))
    delays = {home: homes.option(stops[home][0], "stop_delay") for home in ("stack", "deployment")}
    ledger.same("stop delay", **delays)
    ready = homes.container["readinessProbe"]
    noticed = ready["periodSeconds"] * ready["failureThreshold"]
    ledger.need(
        noticed < delays["deployment"], f"times: a pod that is not ready is noticed after {noticed} s, too late"
    )
    started = homes.container["startupProbe"]
    start = float(homes.options["start_timeout"])
    patience = {
        "startupProbe": float(started["periodSeconds"] * started["failureThreshold"]),
        "unit": float(homes.found(homes.unit, r"^TimeoutStartSec=(\d+)$")),
        "dockerfile": seconds(homes.found(homes.dockerfile, r"--start-period=(\w+)")) + 1,
        "stack": seconds(homes.stack["healthcheck"]["start_period"]) + 1,
    }
    for home, most in patience.items():
        ledger.need(most > start, f"times: {home} waits {most:g} s for a start that may take {start:g} s")
    ledger.same(
        "timeout of a probe",
        dockerfile=seconds(homes.found(homes.dockerfile, r"--timeout=(\w+)")),
        stack=seconds(homes.stack["healthcheck"]["timeout"]),
        **{probe: float(homes.container[probe]["timeoutSeconds"]) for probe in PROBES},
    )
    ledger.need("STOPSIGNAL SIGTERM" in homes.dockerfile, "times: the image is not stopped by TERM")


def users(ledger: Ledger, homes: Homes) -> None:
    context = homes.pod["securityContext"]
    secret = homes.secrets["services"][homes.slug]["secrets"][0]
    ledger.same(
        "user and group",
        dockerfile=homes.found(homes.dockerfile, r"^USER (\S+)$"),
        pod=f"{context['runAsUser']}:{context['runAsGroup']}",
        files=f"{context['runAsUser']}:{context['fsGroup']}",
        secret=f"{secret['uid']}:{secret['gid']}",
    )
    for home in (homes.compose, homes.stack):
        ledger.need("user" not in home, "user and group: a compose file replaces the image's own")


def limits(ledger: Ledger, homes: Homes) -> None:
    given = homes.container["resources"]
    swarm = homes.stack["deploy"]["resources"]
    ledger.same(
        "memory limit",
        compose=size(homes.compose["mem_limit"]),
        stack=size(swarm["limits"]["memory"]),
        pod=size(given["limits"]["memory"]),
    )
    ledger.same("reserved memory", stack=size(swarm["reservations"]["memory"]), pod=size(given["requests"]["memory"]))
    ledger.same(
        "processors",
        compose=float(homes.compose["cpus"]),
        stack=float(swarm["limits"]["cpus"]),
        pod=float(given["limits"]["cpu"]),
    )
    ledger.same("processes", compose=homes.compose["pids_limit"], stack=swarm["limits"]["pids"])
    least = one(homes.things, "HorizontalPodAutoscaler", homes.slug)["spec"]["minReplicas"]
    ledger.same("replicas", stack=homes.stack["deploy"]["replicas"], autoscaler=least)
    surge = homes.deployment["strategy"]["rollingUpdate"]
    ledger.same("a roll", deployment=[surge["maxSurge"], surge["maxUnavailable"]], promise=[1, 0])
    for action in ("update_config", "rollback_config"):
        ledger.same("a roll", stack=homes.stack["deploy"][action]["order"], promise="start-first")


def environment(ledger: Ledger, homes: Homes) -> None:
    """Every variable is an option's."""
    homes_env = {
        "Dockerfile": homes.image_env,
        "compose file": homes.compose.get("environment", {}),
        "stack": homes.stack["environment"],
        "deployment": homes.pod_env,
        "unit": dict.fromkeys(re.findall(r"^Environment=(\w+)=", homes.unit, re.MULTILINE)),
        "script": dict.fromkeys(re.findall(rf"\b{homes.prefix}\w+", homes.script)),
    }
    known = {homes.prefix + key.upper() for key in homes.options}
    for home, variables in homes_env.items():
        for name in sorted(set(variables) - known):
            ledger.lines.append(f"environment: the {home} sets {name}, which is no option")


def configuration(ledger: Ledger, homes: Homes) -> None:
    (mount,) = (mount for mount in homes.container["volumeMounts"] if mount["name"] == "config")
    (config,) = homes.stack["configs"]
    volume = next(volume for volume in homes.pod["volumes"] if volume["name"] == "config")["configMap"]["name"]
    data = one(homes.things, "ConfigMap", volume)["data"]
    (name,) = data
    variable = homes.prefix + "CONFIG"
    ledger.same(
        "configuration file",
        mounted=f"{mount['mountPath']}/{name}",
        deployment=homes.pod_env[variable],
        config=config["target"],
        stack=homes.stack["environment"][variable],
    )
    ledger.need(
        re.fullmatch(rf"{homes.slug}-\w{{10}}", volume), f"configuration file: a changed one does not roll {volume}"
    )
    files = {
        "stack": homes.project / "deploy/swarm" / homes.config["file"],
        "base": homes.project / "deploy/kubernetes/base" / name,
    }
    ledger.same("configuration", **{home: path.read_text() for home, path in files.items()}, manifest=data[name])
    for path in files.values():
        complaint = checked(homes.sources, homes.package, path.read_text())
        ledger.need(not complaint, f"configuration: {complaint}")


def selectors(ledger: Ledger, homes: Homes) -> None:
    """Each selector of pods selects these."""
    labels = homes.deployment["template"]["metadata"]["labels"].items()
    selected: dict[str, Mapping[str, str]] = {
        "Deployment": homes.deployment["selector"]["matchLabels"],
        "Service": one(homes.things, "Service", homes.slug)["spec"]["selector"],
        "admin Service": one(homes.things, "Service", homes.slug + "-admin")["spec"]["selector"],
        "PodDisruptionBudget": one(homes.things, "PodDisruptionBudget", homes.slug)["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": one(homes.things, "NetworkPolicy", homes.slug)["spec"]["podSelector"]["matchLabels"],
    }
    for number, spread in enumerate(homes.pod["topologySpreadConstraints"]):
        selected[f"spread {number}"] = spread["labelSelector"]["matchLabels"]
    for home, wanted in selected.items():
        ledger.need(wanted and wanted.items() <= labels, f"selectors: the {home} selects other pods: {wanted}")
    admin = one(homes.things, "Service", homes.slug + "-admin")["metadata"]["labels"].items()
    wanted = one(homes.things, "ServiceMonitor", homes.slug)["spec"]["selector"]["matchLabels"]
    ledger.need(wanted.items() <= admin, f"selectors: the ServiceMonitor selects other services: {wanted}")
    ledger.need(not wanted.items() <= labels, "selectors: the ServiceMonitor selects the clients' service too")


def pods(ledger: Ledger, homes: Homes) -> None:
    """What the namespace enforces (Pod Security Standards, «restricted»), and what the other homes have of it."""
    namespaces = [thing for thing in homes.things if thing["kind"] == "Namespace"]
    enforced = [space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") for space in namespaces]
    ledger.same("pod security", namespace=enforced, promise=["restricted"])
    context, own = homes.pod["securityContext"], homes.container["securityContext"]
    ledger.need(context.get("runAsNonRoot") is True, "pod security: runAsNonRoot")
    ledger.need(context.get("seccompProfile") == {"type": "RuntimeDefault"}, "pod security: seccompProfile")
    ledger.need(own.get("allowPrivilegeEscalation") is False, "pod security: allowPrivilegeEscalation")
    kinds = {kind for volume in homes.pod["volumes"] for kind in volume if kind != "name"}
    ledger.need(kinds <= {"configMap", "emptyDir", "secret"}, f"pod security: volumes {kinds}")
    ledger.need(homes.pod.get("enableServiceLinks") is False, "pod: enableServiceLinks")
    ledger.same(
        "rights",
        compose=[homes.compose.get("cap_drop"), homes.compose.get("read_only")],
        stack=[homes.stack.get("cap_drop"), homes.stack.get("read_only")],
        pod=[own.get("capabilities", {}).get("drop"), own.get("readOnlyRootFilesystem")],
        promise=[["ALL"], True],
    )


def seconds(text: str) -> float:
    """Docker's durations: 40s, 1m30s."""
    return sum(
        float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"([\d.]+)([smh])", text)
    )


def size(text: str) -> int:
    """Bytes: Docker's 256m and 256M are Kubernetes' 256Mi."""
    number, unit = re.fullmatch(r"(\d+)([kKmMgG])i?", text).groups()  # type: ignore[union-attr]
    return int(number) << {"k": 10, "m": 20, "g": 30}[unit.lower()]
