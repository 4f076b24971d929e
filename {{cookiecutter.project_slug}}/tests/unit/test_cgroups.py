"""Limits of the control group: read from files that look like the kernel's, of versions 1 and 2."""

import logging
import math
import os
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.runtime.config.service import Service
from {{ cookiecutter.package_name }}.runtime.config.settings import Config, load
from {{ cookiecutter.package_name }}.runtime.system import cgroups

MIB = 2**20
# With the runtime's own defaults, whatever __main__.py says.
SERVICE = Service("test", "test", "0", pool="{{ cookiecutter.pool }}", protocol="{{ cookiecutter.protocol }}")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system with no control group yet, on a machine with 16 processors."""
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return tmp_path


def write(root: Path, groups: str, **files: str) -> None:
    """/proc/self/cgroup, and files below /sys/fs/cgroup: `a__b_c` is a/b.c."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        directory, _, file = name.rpartition("__")
        path = root / "sys/fs/cgroup" / directory.replace("__", "/") / file.replace("_", ".", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_nothing_is_limited_without_control_groups() -> None:
    assert cgroups.cpu_quota() == math.inf
    assert cgroups.cpus() == 16
    assert cgroups.memory() == (0, 0)


def test_version_2_in_a_container(root: Path) -> None:
    stat = f"anon 1\ninactive_file {8 * MIB}"
    sizes = {"memory_max": f"{64 * MIB}", "memory_current": f"{50 * MIB}", "memory_stat": stat}
    write(root, "0::/\n", cpu_max="150000 100000", **sizes)
    assert cgroups.cpu_quota() == 1.5
    assert cgroups.cpus() == 2
    assert cgroups.memory() == (64 * MIB, 42 * MIB)


def test_version_2_without_limits(root: Path) -> None:
    write(root, "0::/\n", cpu_max="max 100000", memory_max="max", memory_current="5")
    assert cgroups.cpu_quota() == math.inf
    assert cgroups.memory() == (0, 0)


def test_the_tightest_group_on_the_way_up_decides(root: Path) -> None:
    """A unit of systemd in a slice; the root of version 2 has no such files."""
    outer = {"a__cpu_max": "50000 100000", "a__memory_max": f"{80 * MIB}", "a__memory_current": f"{70 * MIB}"}
    write(root, "0::/a/b\n", a__b__cpu_max="300000 100000", a__b__memory_max=f"{90 * MIB}", **outer)
    assert cgroups.cpu_quota() == 0.5
    assert cgroups.cpus() == 1
    assert cgroups.memory() == (80 * MIB, 70 * MIB)


@pytest.mark.parametrize("path", ["/docker/1f", "/"], ids=["the host's path", "a path of its own"])
def test_version_1_in_a_container(root: Path, path: str) -> None:
    """The container's group is the root of the mount, whatever path the kernel names. «cpu» links to «cpu,cpuacct»."""
    groups = f"5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}\n0::{path}\n"
    write(root, groups, cpu__cpu_cfs_quota_us="50000", cpu__cpu_cfs_period_us="100000")
    stat = f"inactive_file 0\ntotal_inactive_file {2 * MIB}"
    sizes = {"limit": f"{32 * MIB}", "usage": f"{30 * MIB}"}
    write(root, groups, memory__memory_stat=stat, **{f"memory__memory_{n}_in_bytes": s for n, s in sizes.items()})
    assert cgroups.cpu_quota() == 0.5
    assert cgroups.memory() == (32 * MIB, 28 * MIB)


def test_version_1_without_limits(root: Path) -> None:
    groups = "5:cpu,cpuacct:/\n4:memory:/\n"
    write(root, groups, cpu__cpu_cfs_quota_us="-1", cpu__cpu_cfs_period_us="100000")
    write(root, groups, memory__memory_limit_in_bytes="9223372036854771712", memory__memory_usage_in_bytes="5")
    assert cgroups.cpu_quota() == math.inf
    assert cgroups.memory() == (0, 0)


@pytest.mark.parametrize("text", ["", "what", "100000", "max", "100000 0", "1 2 3", "-1 5"])
def test_what_the_kernel_never_says_limits_nothing(root: Path, text: str) -> None:
    write(root, "0::/../..\n", cpu_max=text, memory_max=text.replace("100000", "x"))
    assert cgroups.cpu_quota() == math.inf
    assert cgroups.memory() == (0, 0)


def fitted(*flags: str) -> Config:
    """The configuration of a service that takes 20 MiB by itself."""
    config = load(SERVICE, ["-x", *flags], {})
    cgroups.fit(SERVICE, config, 20 * MIB)
    return config


def test_fewer_workers_where_there_is_no_room(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    each = SERVICE.pool.MEMORY
    write(root, "0::/\n", memory_max=f"{40 * MIB}")
    room = (36 * MIB - 20 * MIB) // each
    with caplog.at_level(logging.INFO):
        config = fitted("-m", "1000", "-n", "800")
    assert (config.max, config.idle) == (room, room)
    assert caplog.messages[0].startswith("limits of the control group: 40 MiB of memory")
    assert f"-m (max) is lowered from 1000 to {room}" in caplog.messages[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # it was asked for


@pytest.mark.parametrize("limit", [10, 20, 22])
def test_one_worker_at_least(limit: int, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is needed is said, and is enough."""
    write(root, "0::/\n", memory_max=f"{limit * MIB}")
    config = fitted()
    assert (config.max, config.idle) == (1, 1)
    assert caplog.messages[0].startswith(f"{limit} MiB of memory are too few: ")
    assert caplog.messages[0].endswith(" MiB for itself and a worker")
    needed = caplog.messages[0].split()[-7]
    caplog.clear()
    write(root, "0::/\n", memory_max=f"{int(needed) * MIB}")
    fitted()
    assert "too few" not in caplog.text


def test_enough_room_changes_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root, "0::/\n", memory_max=f"{4096 * MIB}", cpu_max="50000 100000")
    with caplog.at_level(logging.INFO):
        config = fitted("-m", "7")
    assert (config.max, config.idle) == (7, 5)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("limits of the control group: 0.5 CPUs, 4096 MiB of memory")
    assert "lowered" not in caplog.messages[0]
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.skipif(SERVICE.protocol_name != "http", reason="there -m is the limit")
def test_fewer_connections_where_there_is_no_room(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root, "0::/\n", memory_max=f"{40 * MIB}")
    with caplog.at_level(logging.INFO):
        config = fitted()
    assert (config.max_connections, config.budget) == (16 * MIB // 2 // cgroups.CONNECTION, 5 * MIB)
    assert f"--max-connections is lowered from 10000 to {config.max_connections}" in caplog.messages[0]
    assert fitted("--max-connections", "50").max_connections == 50
    write(root, "0::/\n", memory_max=f"{10 * MIB}")
    assert fitted().max_connections == cgroups.LEAST


def test_no_limit_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fitted().max == 25
    assert caplog.messages == []


def test_automatic_number_of_processes(root: Path) -> None:
    """It is decided when a generation starts, not when the configuration is read."""
    write(root, "0::/\n", cpu_max="250000 100000")
    config = load(SERVICE, [], {})
    config.processes = 0  # as `--processes auto` has it
    cgroups.fit(SERVICE, config, 20 * MIB)
    assert config.processes == 3
    assert fitted().processes == 1
