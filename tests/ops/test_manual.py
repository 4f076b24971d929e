"""The operator's manual says what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from baking import REPOSITORY, TREE
from harness import ROOT
from prometheus_client.parser import text_string_to_metric_families
from watched import Watched

TEXT = (REPOSITORY / TREE / "docs/manual.md").read_text()


@pytest.fixture(scope="module")
def manual() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("manual", REPOSITORY / "ci/manual.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:  # no other test uses the runtime of the template
        del sys.modules[name]


def test_tables_are_those_of_the_code(manual: ModuleType) -> None:
    """Options, signals, exit statuses: `python3 ci/manual.py` writes them."""
    assert manual.written(TEXT) == TEXT, "run python3 ci/manual.py"


def test_every_metric(either: Watched) -> None:
    """Name, type and help, in the order of /metrics."""
    either.watch()
    listed = re.findall(r"^\| `(service_\w+)` \| (\w+) \| (.+) \|$", TEXT, re.MULTILINE)
    found = []
    for family in text_string_to_metric_families(either.page("/metrics")[1]):
        found.append((family.name + "_total" * (family.type == "counter"), family.type, family.documentation))
    assert listed == found


def test_every_command_of_ctl(service: Watched) -> None:
    listed = re.findall(r"^\| `ctl (\w+)", TEXT, re.MULTILINE)
    offered = re.findall(r"^  (\w+) ", service.run("ctl", "--help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(offered)


def test_every_page_answers(service: Watched) -> None:
    service.watch()
    pages = re.findall(r"^\| `(/\w*)` \|", TEXT, re.MULTILINE)
    assert sorted(pages) == ["/", "/livez", "/metrics", "/readyz", "/status"]
    for page in pages:
        assert service.page(page)[0] == 200


@pytest.mark.skipif(not ROOT, reason="the default files are root's")
def test_files_and_log(service: Watched) -> None:
    assert "/var/run/{{ cookiecutter.project_slug }}.pid" in TEXT
    assert "/var/run/{{ cookiecutter.project_slug }}.ctl" in TEXT
    service.start_detached()
    left = {path.name for path in service.run_directory.iterdir()}
    assert left == {"hello-server.pid", "hello-server.ctl"}
    assert (service.run_directory / "hello-server.ctl").stat().st_mode & 0o777 == 0o600
    service.stop()


def test_names_options_that_exist(manual: ModuleType) -> None:
    known = {f"--{one.name}" for one in manual.runtime("config.options").OPTIONS}
    foreign = {"--json", "--watch", "--read-only", "--cap-drop", "--security-opt", "--ulimit", "--now", "--kustomize",
               "--dispatcher-heartbeat"}  # fmt: skip
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) - foreign <= known
