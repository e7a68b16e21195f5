"""What memory a process may have, as the system tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from beholder.generation import machine

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 GiB, of which 12 are available, that tells it in files."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(
        machine.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 4 * 2**20, "SC_PAGE_SIZE": 4096}[name]
    )
    put(tmp_path / "proc/meminfo", f"MemTotal: {16 * 2**20} kB\nMemAvailable:   {12 * 2**20} kB\n")
    put(tmp_path / "proc/self/status", f"VmRSS:\t   900 kB\nRssAnon:\t    {2**20} kB\nRssFile:\t  5 kB\n")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def told() -> tuple[float, float, float]:
    return machine.total_memory() / GIB, machine.free_memory() / GIB, machine.own_memory() / GIB


@pytest.mark.usefixtures("system")
def test_a_machine_without_a_container():
    assert told() == (16, 12, 1)


@pytest.mark.parametrize("inside", ["", "box/"])
def test_a_container_of_today(system, inside):
    """The limit is its own group's, which may be seen as the root, or that of one above."""
    put(system / "proc/self/cgroup", "0::/box/deep\n")
    put(system / "groups" / inside / "memory.max", f"{8 * GIB}\n")
    put(system / "groups" / inside / "memory.current", f"{5 * GIB}\n")
    put(system / "groups" / inside / "memory.stat", f"anon {2 * GIB}\nfile {3 * GIB}\nfile_mapped 7\n")
    put(system / "groups/box/deep/memory.max", "max\n")
    put(system / "groups/box/deep/memory.current", f"{5 * GIB}\n")
    assert told() == (8, 6, 1)


def test_a_container_of_before(system):
    put(system / "proc/self/cgroup", "5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n")
    group = system / "groups/memory/docker/abc"
    put(group / "memory.limit_in_bytes", f"{4 * GIB}\n")
    put(group / "memory.usage_in_bytes", f"{5 * GIB}\n")
    put(group / "memory.stat", f"cache 1\ntotal_cache {GIB}\n")
    put(system / "groups/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(system / "groups/memory/memory.usage_in_bytes", "7\n")
    assert told() == (4, 0, 1)


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.delattr(machine.os, "sysconf")
    assert told() == (4, 4, 0)
