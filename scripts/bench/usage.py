"""What a process and its descendants use, from /proc: CPU time, and memory counted in the three ways that matter.

PSS divides a page that n processes map by n, so it depends on what else runs; private (USS) is what would be free again
if the tree ended; resident (RSS) counts shared pages wholly, once for each process of the tree.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MIB = 1024.0  # KiB


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB."""

    pss: float = 0.0
    private: float = 0.0
    resident: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.private + other.private, self.resident + other.resident)


def tree(pid: int) -> list[int]:
    """The process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has just ended
                continue
    return found


def cpu_s(pids: list[int]) -> float:
    """User and system time since each process began; what has ended counts nothing."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def memory(pids: list[int]) -> Memory:
    return sum(map(_memory, pids), Memory())


def _memory(pid: int) -> Memory:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory()
    sizes = {name: int(size.split()[0]) / MIB for name, size in (line.split(":", 1) for line in lines)}
    return Memory(sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Rss"])


def words(pid: int) -> str:
    """The command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def descriptors(pid: int) -> int:
    """Open ones."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0
