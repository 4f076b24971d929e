"""How a release gets into a registry: what `make publish` refuses; nothing goes to a public one by accident."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from baking import REPOSITORY, TREE, bake

DOCKER = """\
#!/bin/sh
case "$*" in
"buildx inspect") echo "Driver: $DRIVER" ;;
"buildx build"*) echo '"containerimage.digest": "sha256:0123"' >build/metadata.json ;;
esac
echo "$*" >>said
"""


def make(project: Path, *arguments: str, driver: str = "docker-container") -> tuple[int, str, list[str]]:
    """Run a target with a stand-in of docker: the status, what it said, and how docker was called."""
    docker = project / "bin/docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    surroundings = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "DRIVER": driver}
    done = subprocess.run(
        ["make", "-s", *arguments], cwd=project, env=os.environ | surroundings, capture_output=True, text=True
    )
    said = project / "said"
    return done.returncode, done.stderr, said.read_text().splitlines() if said.exists() else []


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """In a repository, because a release's image bears the time of its commit."""
    copy = shutil.copytree(project, tmp_path / project.name)
    identity = ("-c", "user.name=owner", "-c", "user.email=owner@example.org")
    subprocess.run(["git", "init", "--quiet", copy], check=True)
    commit = ("commit", "--quiet", "--allow-empty", "--message", "All")
    subprocess.run(["git", "-C", copy, *identity, *commit], check=True)
    return copy


@pytest.mark.parametrize(
    ("arguments", "driver", "said"),
    [
        ([], "docker-container", "IMAGE=hello-server names no registry"),
        (["IMAGE=r.example/x", "TAG=v9.9.9"], "docker-container", "the tag is v9.9.9, but __version__ says 0.1.0"),
        (["IMAGE=r.example/x"], "docker", "docker buildx create --use"),
    ],
)
def test_publish_refuses_in_one_line(arguments: list[str], driver: str, said: str, copy: Path) -> None:
    status, line, called = make(copy, "publish", *arguments, driver=driver)
    assert status != 0
    assert said in line.splitlines()[0]
    assert not [call for call in called if call.startswith("buildx build")]


def test_versions_cannot_drift(copy: Path) -> None:
    overlay = copy / "deploy/kubernetes/overlays/prod/kustomization.yaml"
    right = overlay.read_text()
    overlay.write_text(right.replace("newTag: 0.1.0", "newTag: 0.2.0"))
    status, line, _ = make(copy, "publish", "IMAGE=r.example/x")
    assert status != 0
    assert "newTag 0.2.0, but __version__ says 0.1.0" in line
    overlay.write_text(right.replace("newTag: 0.1.0", "digest: sha256:0123"))
    assert make(copy, "publish", "IMAGE=r.example/x")[0] == 0


def test_latest_moves_last(copy: Path) -> None:
    assert make(copy, "publish", "IMAGE=r.example/x", "PLATFORMS=linux/amd64")[0] == 0
    _, _, called = make(copy, "publish-latest", "IMAGE=r.example/x")
    built, moved = [call for call in called if call.startswith(("buildx build", "buildx imagetools"))]
    assert "--platform linux/amd64 " in built and "--tag r.example/x:0.1.0 " in built and "latest" not in built
    assert moved == "buildx imagetools create --tag r.example/x:latest r.example/x@sha256:0123"


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_release_job_signs_before_latest_moves(ci: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, ci=ci)
    text = (project / {"github": ".github/workflows/ci.yml", "gitlab": ".gitlab-ci.yml"}[ci]).read_text()
    release = text[text.rindex("\nrelease:" if ci == "gitlab" else "\n  release:") :]
    order = [release.rindex(step) for step in ("make publish TAG", "only-fixed", "cosign sign", "make publish-latest")]
    assert order == sorted(order)


def test_registry_of_the_answers_is_that_of_the_release(template: Path, tmp_path: Path) -> None:
    registry = "registry.example:5000/team"
    project = bake(template, tmp_path, ci="gitlab", registry=registry)
    variables = yaml.safe_load((project / ".gitlab-ci.yml").read_text())["release"]["variables"]
    assert variables["IMAGE"] == f"{registry}/hello-server"
    assert "$CI_REGISTRY_PASSWORD" not in str(variables)  # which is no other registry's business
    done = subprocess.run(["make", "-s", "image-name"], cwd=project, check=True, capture_output=True, text=True)
    assert done.stdout == f"{registry}/hello-server\n"


@pytest.mark.parametrize(("given", "registry"), [("", "r.example/a"), ("v.example/B", ""), ("", "")])
def test_where_the_workflow_pushes(given: str, registry: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path / "baked", registry=registry)
    steps = yaml.safe_load((project / ".github/workflows/ci.yml").read_text())["jobs"]["release"]["steps"]
    (where,) = [step for step in steps if step.get("id") == "where"]
    surroundings = {"GIVEN": given, "GITHUB_REPOSITORY": "Acme/Orders", "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-ec", where["run"]], cwd=project, env=os.environ | surroundings, check=True)
    image = given.lower() or (f"{registry}/hello-server" if registry else "ghcr.io/acme/orders")
    assert (tmp_path / "output").read_text().splitlines() == [f"image={image}", f"registry={image.partition('/')[0]}"]


@pytest.mark.parametrize("registry", ["", "r.example/a"])
def test_a_name_without_a_registry_is_not_looked_for(registry: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, registry=registry)
    (deployment,) = yaml.safe_load_all((project / "deploy/kubernetes/base/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container.get("imagePullPolicy") == (None if registry else "Never")
    service = yaml.safe_load((project / "compose.yaml").read_text())["services"]["hello-server"]
    assert service.get("pull_policy") == (None if registry else "build")
    assert ("--resolve-image never" in (project / "Makefile").read_text()) == (not registry)


def test_requirements_have_hashes() -> None:
    for below in ("", TREE):
        text = (REPOSITORY / below / "requirements-dev.txt").read_text()
        pinned = re.findall(r"^[\w.-]+==.*\n(?:    (.*)\n)", text, re.MULTILINE)
        assert pinned and all(line.startswith("--hash=sha256:") for line in pinned)


@pytest.mark.parametrize(("ci", "file"), [("github", ".github/dependabot.yml"), ("gitlab", "renovate.json")])
def test_updates_are_asked_for(ci: str, file: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, ci=ci)
    assert (project / file).exists()
    assert "in private" in (project / "SECURITY.md").read_text()


def test_tools_of_gitlab_are_pinned(template: Path, tmp_path: Path) -> None:
    text = (bake(template, tmp_path, ci="gitlab") / ".gitlab-ci.yml").read_text()
    images = re.findall(r"(?:docker|tonistiigi/binfmt):\S+", text.replace("tcp://docker:2375", ""))
    assert all(re.search(r"\d+\.\d+\.\d+", image) for image in images) and len(images) == 3
    assert text.count("--privileged") == 1  # to register the emulator of the other architecture
