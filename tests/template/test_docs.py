"""What two files must agree on is compared, not trusted."""

import importlib
import json
import re
import runpy
import subprocess
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
import yaml
from baking import OPTIONS, REPOSITORY, RUNTIME, TREE, bake


def targets(directory: Path) -> set[str]:
    """The targets that `make help` lists."""
    help_text = subprocess.run(["make", "-s", "help"], cwd=directory, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^  make (\S+)", help_text, re.MULTILINE))


def commands(text: str) -> set[str]:
    """The targets of make that a text names."""
    return set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[`\s]|$)", "\n".join(code(text)), re.MULTILINE))


def code(text: str) -> list[str]:
    """The code of a Markdown text: blocks and spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n(.*?)^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return blocks + re.findall(r"`([^`\n]+)`", rest)


def test_help_lists_every_target(project: Path) -> None:
    for directory in (REPOSITORY, project):
        text = (directory / "Makefile").read_text().replace("\\\n", "")
        defined = set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))
        (phony,) = re.findall(r"^\.PHONY: (.*)", text, re.MULTILINE)
        assert defined == set(phony.split()) == targets(directory)


def test_pages_name_targets_that_exist(project: Path) -> None:
    """Those of the template; its pages speak of a project's own targets too."""
    ours, theirs = targets(REPOSITORY), targets(project)
    assert {"demo", "test"} <= commands((REPOSITORY / "README.md").read_text())
    assert {"run", "test"} <= commands((project / "README.md").read_text())
    for page in [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *(REPOSITORY / "docs").rglob("*.md")]:
        assert commands(page.read_text()) <= ours | theirs, page
    assert commands((REPOSITORY / "CONTRIBUTING.md").read_text()) <= ours
    for page in project.rglob("*.md"):
        assert commands(page.read_text()) <= (ours | theirs if page.name == "sizing.md" else theirs), page


def test_ci_runs_the_commands_of_the_readme(project: Path) -> None:
    assert re.findall(r"make (\S+)$", (REPOSITORY / ".ci/run").read_text(), re.MULTILINE) == ["test"]
    for directory, command in ((REPOSITORY, "sudo make test"), (project, "make test")):
        workflow = yaml.safe_load((directory / ".github/workflows/ci.yml").read_text())
        steps = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
        assert command in steps
        assert {step.rpartition("make ")[2] for step in steps} <= targets(directory)
        assert "make test" in "\n".join(code((directory / "README.md").read_text()))


def test_gitlab_runs_targets_that_exist(template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, ci="gitlab")
    jobs = yaml.safe_load((project / ".gitlab-ci.yml").read_text())
    lines = [line for job in jobs.values() if "script" in job and job["stage"] == "test" for line in job["script"]]
    assert {line.removeprefix("make ") for line in lines} == {"lint", "test-unit", "test-integration"}
    assert {"lint", "test-unit", "test-integration"} <= targets(project)
    assert "timeout" in jobs["default"]


def test_readme_lists_the_options() -> None:
    """`python docs/options.py` writes them."""
    text = (REPOSITORY / "README.md").read_text()
    written = runpy.run_path(str(REPOSITORY / "docs/options.py"))["written"]
    assert text == written(text)


def test_versions_agree() -> None:
    version = re.findall(r'^__version__ = "(.*)"', (REPOSITORY / RUNTIME / "__init__.py").read_text(), re.MULTILINE)
    changes = (REPOSITORY / "CHANGELOG.md").read_text()
    sections = re.split(r"^## ", changes, flags=re.MULTILINE)[1:]
    assert sections[0].startswith(version[0])
    assert all("To do in a project that takes it" in section for section in sections)


def test_every_option_is_explained() -> None:
    for name, value in OPTIONS.items():
        if not name.startswith("_"):
            prompt = OPTIONS["__prompts__"][name]
            if isinstance(prompt, dict):
                assert list(prompt) == ["__prompt__", *value]
            else:
                assert prompt
    assert [name for name in OPTIONS["__prompts__"] if name not in OPTIONS] == []


@pytest.fixture(scope="session")
def moved(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose port is not the default one."""
    return bake(template, tmp_path_factory.mktemp("moved"), port="8123")


def test_port_is_the_same_everywhere(moved: Path) -> None:
    dockerfile = (moved / "Dockerfile").read_text()
    assert "EXPOSE 8123\n" in dockerfile
    assert "HELLO_SERVER_ADMIN=127.0.0.1:8124 " in dockerfile
    assert yaml.safe_load((moved / "compose.yaml").read_text())["services"]["hello-server"]["ports"] == [
        "127.0.0.1:8123:8123"
    ]
    assert "curl http://127.0.0.1:8123/" in (moved / "README.md").read_text()
    assert 'PORT = "8123/tcp"' in (moved / "tests/integration/conftest.py").read_text()
    assert re.search(r"\b8123\b", (moved / "src/hello_server/__main__.py").read_text())
    for file in moved.rglob("*"):
        if file.is_file() and "runtime" not in file.parts:
            assert "1966" not in file.read_text(), file


def test_stop_times_fit_together(project: Path) -> None:
    """A drain ends before docker, compose or systemd kill."""
    drain = int(re.findall(r"DRAIN_TIMEOUT=(\d+)", (project / "Dockerfile").read_text())[0])
    compose = yaml.safe_load((project / "compose.yaml").read_text())["services"]["hello-server"]
    assert drain < 10  # what `docker stop` gives
    assert drain < int(compose["stop_grace_period"].removesuffix("s"))
    unit = (project / "deploy/systemd/hello-server.service").read_text()
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > 30  # the default of --drain-timeout
    assert int(re.findall(r"TimeoutStartSec=(\d+)", unit)[0]) > 30  # the default of --start-timeout


def test_image_facts_name_the_peers_as_pinned() -> None:
    text = (REPOSITORY / TREE / "README.md").read_text()
    table = re.findall(r"<!-- begin image facts: .*? -->\n(.*?)\n<!-- end image facts -->", text, re.DOTALL)[0]
    pins = dict(line.split("==") for line in (REPOSITORY / "ci/bench/peers.txt").read_text().split() if "==" in line)
    names = table.splitlines()[0].strip("| ").split(" | ")
    assert names == ["this service", f"gunicorn {pins['gunicorn']}", f"uvicorn {pins['uvicorn']}"]
    for row in table.splitlines()[2:]:
        assert all(float(cell.split()[0]) > 0 for cell in row.strip("| ").split(" | ")[1:])


def test_default_python_is_the_same_everywhere(project: Path) -> None:
    version = OPTIONS["python_version"][0]
    image = f"python:{version}-slim"
    assert f"ARG PYTHON_IMAGE={image}\n" in (project / "Dockerfile").read_text()
    assert f"PYTHON_IMAGE ?= {image}\n" in (project / "Makefile").read_text()
    assert f'or "{image}"' in (project / "tests/integration/conftest.py").read_text()


def test_tools_are_the_same_in_template_and_project() -> None:
    ours, theirs = (pins(REPOSITORY / below / "requirements-dev.txt") for below in ("", TREE))
    assert theirs.items() <= ours.items()


def test_architecture_names_every_module() -> None:
    """In its table, each once; and what the text calls a module is one."""
    paths = [path.relative_to(REPOSITORY / RUNTIME) for path in (REPOSITORY / RUNTIME).rglob("*.py")]
    modules = {(str(path.parent), path.stem) for path in paths if path.stem != "__init__"}
    text = (REPOSITORY / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| ([\w.]+) \| .* \| (`.*`) \|$", text, re.MULTILINE)
    listed = [(folder, name) for folder, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(listed) == sorted(modules), "docs/architecture.md: the table of modules"
    introduction = text.partition("\n## A connection\n")[0]
    words = set(re.findall(r"`([a-z][a-z0-9_]*)`", introduction))
    assert words <= {name for pair in modules for name in pair} | {"ctl"}


@pytest.mark.parametrize(("pool", "protocol"), [("prefork", "http"), ("threaded", "http"), ("threaded", "line")])
def test_pages_of_a_project_name_its_modules(template: Path, tmp_path: Path, pool: str, protocol: str) -> None:
    project = bake(template, tmp_path, pool=pool, protocol=protocol)
    (runtime,) = project.glob("src/*/runtime")
    for page in ("architecture.md", "debugging.md"):
        text = (project / "docs" / page).read_text()
        named = re.findall(r"`((?:[a-z0-9_]+/)?[a-z0-9_]+\.py)`", text)
        assert [name for name in named if name != "handlers.py" and not (runtime / name).is_file()] == [], page


@pytest.mark.parametrize(("module", "table"), [("http1.states", "TRANSITIONS"), ("process.states", "GENERATION")])
def test_pictures_show_the_tables_of_states(module: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / RUNTIME / ".."))
    rows = getattr(importlib.import_module(f"runtime.{module}"), table)
    edges = {
        (state.name, following.name)
        for state, row in rows.items()
        for following in (row.values() if isinstance(row, dict) else row)
        if state is not following
    }
    pictures = re.findall(
        r"^stateDiagram-v2\n(.*?)^```", (REPOSITORY / TREE / "docs/architecture.md").read_text(), re.M | re.S
    )
    drawn = [set(re.findall(r"^    ([A-Z]+) --> ([A-Z]+):", picture, re.M)) for picture in pictures]
    assert edges in drawn, [sorted(edges ^ one) for one in drawn]


@pytest.fixture
def quoting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "ci/bench"))
    return importlib.import_module("pages")


def test_pages_quote_the_benchmark(quoting: ModuleType) -> None:
    """`python ci/bench/pages.py` writes what they quote; so does the making of the report."""
    for page in quoting.PAGES:
        assert page.read_text() == quoting.written(page, quoting.results()), f"{page.name}: run ci/bench/pages.py"


def test_what_the_comparison_says_was_measured(quoting: ModuleType) -> None:
    """Its sentences, not only its tables."""
    measured = quoting.results()["workloads"]

    def cpu(load: str, server: str) -> float:
        return float(quoting.median(measured[load][server], "cpu"))

    ours = cpu("small", "ours-prefork")
    for python in ("gunicorn-sync", "gunicorn-gthread", "waitress", "cheroot", "uvicorn-h11"):
        assert cpu("small", python) > 3 * ours  # far cheaper
    for other in ("uvicorn-httptools", "granian", "uwsgi"):
        assert cpu("small", other) > ours
    assert cpu("small", "bjoern") < ours
    for smaller in ("waitress", "bjoern"):  # half, or not much more
        assert quoting.median(measured["small"][smaller], "pss") < 0.6 * quoting.median(
            measured["small"]["ours-prefork"], "pss"
        )
    assert cpu("sleep-5ms", "uvicorn-httptools") < cpu("sleep-5ms", "ours-prefork-32")


def test_every_page_can_be_found() -> None:
    """From the README by way of the index; and no link between pages leads nowhere."""
    pages = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += sorted((REPOSITORY / "docs").rglob("*.md"))
    linked: set[Path] = set()
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" not in target:
                file = (page.parent / unquote(path)).resolve() if path else page
                assert file.exists(), f"{page.name}: {target}"
                if anchor:
                    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                    assert anchor in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, target
                linked.add(file)
    assert {page for page in pages if "decisions" not in page.parts} <= linked | {REPOSITORY / "README.md"}


def pins(file: Path) -> dict[str, str]:
    text = file.read_text()
    assert "://" not in text  # no address of an index
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def test_cookiecutter_json_is_tidy() -> None:
    """In the order of the questions, each followed by its check."""
    names = list(json.loads((REPOSITORY / "cookiecutter.json").read_text()))
    for name in names:
        if name.startswith("__check_"):
            assert names[names.index(name) - 1] == name.removeprefix("__check_")
