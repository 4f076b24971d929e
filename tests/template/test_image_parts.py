"""What the image is made from, judged without an engine: its size with each answer, its context, its rights."""

import compileall
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from baking import OPTIONS, bake

# Newer Pythons write larger compiled forms than the one that runs this: 3.15 takes a fifth more than 3.11.
ROOM = 1.2
KEPT_OUT = (
    ".env",
    "hello_server/.env.local",
    "hello_server/.handlers.py.swp",
    "hello_server/.idea/workspace.xml",
    "hello_server/handlers.py~",
    "hello_server/#handlers.py#",
    "hello_server/handlers.py.orig",
    "hello_server/handlers.py.rej",
    "hello_server/production.env",
    "hello_server/server.key",
    "hello_server/certificates/chain.pem",
    "hello_server/id_ed25519",
)


@pytest.mark.parametrize("pool", OPTIONS["pool"])
@pytest.mark.parametrize("protocol", OPTIONS["protocol"])
def test_layer_is_small(protocol: str, pool: str, template: Path, tmp_path: Path) -> None:
    """The sources and their compiled forms; tests/container measures an image."""
    project = bake(template, tmp_path, protocol=protocol, pool=pool)
    assert compileall.compile_dir(project / "src", quiet=2)
    found = [path for path in (project / "src").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size * (ROOM if path.suffix == ".pyc" else 1) for path in found)
    print(f"{protocol}-{pool}: {size / 2**20:.2f} MiB")
    (claimed,) = re.findall(r"less than (\d) MiB", (project / "Dockerfile").read_text())
    assert size < int(claimed) * 2**20


def test_context_has_no_secrets(project: Path, tmp_path: Path) -> None:
    """.dockerignore's patterns, read as git's, which agree for those that are used there."""
    patterns = (project / ".dockerignore").read_text().splitlines()
    below = [line for line in patterns if line not in ("*", "!src")]
    (tmp_path / ".gitignore").write_text("\n".join(below).replace("**/#", "**/\\#"))
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    sources = [str(path.relative_to(project / "src")) for path in (project / "src").rglob("*.*") if path.is_file()]
    asked = "\n".join([*KEPT_OUT, *sources])
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"], cwd=tmp_path, input=asked, capture_output=True, text=True
    )
    ignored = [line.strip('"') for line in done.stdout.splitlines()]
    assert [name for name in ignored if "__pycache__" not in name] == list(KEPT_OUT)


@pytest.mark.parametrize(("port", "asked"), [("80", True), ("1023", True), ("1024", False), ("1966", False)])
def test_low_ports_in_a_cluster(port: str, asked: bool, template: Path, tmp_path: Path) -> None:
    deployment = bake(template, tmp_path, port=port) / "deploy/kubernetes/base/deployment.yaml"
    context = yaml.safe_load(deployment.read_text())["spec"]["template"]["spec"]["securityContext"]
    wanted = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}] if asked else None
    assert context.get("sysctls") == wanted


def test_rights_in_the_manual_and_for_work(project: Path) -> None:
    manual = (project / "docs/manual.md").read_text()
    (command,) = re.findall(r"`(docker run .*?)`", manual)
    for option in ("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges"):
        assert option in command
    compose = yaml.safe_load((project / "compose.yaml").read_text())
    assert compose["services"]["hello-server-dev"]["volumes"] == ["./src:/app:ro,z"]
    recipe = subprocess.run(["make", "-n", "dev"], cwd=project, capture_output=True, text=True, check=True).stdout
    assert recipe.index("chmod -R go+rX src") < recipe.index("docker compose --profile dev up --build hello-server-dev")
