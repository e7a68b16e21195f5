"""How much memory this process may have: the machine's, or less where a container bounds it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
# Where nothing tells it.
FALLBACK_BYTES = 4 * 2**30
# By version of control groups: folder of the hierarchy, the limit, what is used, and, in memory.stat, how
# much of that are pages of files, which are given up when memory is wanted.
FILES = {
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    2: ("", "memory.max", "memory.current", "file"),
}


def total_memory() -> int:
    """Bytes of main memory that this process may ever use."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return FALLBACK_BYTES
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit, _ in _bounds())])


def free_memory() -> int:
    """Bytes that could be taken now; pages of files count as free. `total_memory` where nothing tells it."""
    available = _kilobytes(PROC / "meminfo", "MemAvailable")
    rests = [limit - used for limit, used in _bounds()]
    return max(0, min([total_memory() if available is None else available, *rests]))


def own_memory() -> int:
    """Bytes that this process holds outside of files; 0 where nothing tells it."""
    return _kilobytes(PROC / "self" / "status", "RssAnon") or 0


def _kilobytes(path: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _bounds() -> Iterator[tuple[int, int]]:
    """(limit, used) of every control group that this process is in and that has a limit."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        version = 2 if number == "0" else 1
        if version == 1 and "memory" not in kinds.split(","):
            continue
        folder, limit, used, files = FILES[version]
        root = GROUPS / folder
        # In a container the hierarchy may begin at its own group, and the path is told as from outside.
        for group in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
            if group != root and root not in group.parents:
                break
            most, now = _text(group / limit).strip(), _text(group / used).strip()
            if most.isdigit() and now.isdigit():
                kept = re.search(rf"^{files} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                yield int(most), max(0, int(now) - (int(kept[1]) if kept else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
