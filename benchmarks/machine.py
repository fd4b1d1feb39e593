"""Where the benchmarks run, in words; nothing is imported to find out a version."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["available_memory", "describe", "describe_training"]

PACKAGES = ("elsa-cli", "numpy", "safetensors", "click", "torch", "compressed-tensors")
ONLY_FILES = ("file system", "cp", "click", "compressed-tensors")  # say nothing about training


def describe(folder: Path) -> dict[str, str]:
    """Describe the machine and the file system of `folder`."""
    found = {
        "CPU": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory('MemTotal') / 1e9:.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(folder),
        "cp": _cp(),
        "Python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe_training(device: str, threads: int) -> dict[str, str]:
    """Describe the machine for a benchmark of training.

    Args:
        device: What computes, in words.
        threads: Threads of torch.
    """
    found = {k: v for k, v in describe(Path()).items() if k not in ONLY_FILES}
    return {**found, "device": device, "threads": str(threads)}


def available_memory() -> int:
    """Return the bytes a new process can use without swapping."""
    return _memory("MemAvailable")


def _memory(key: str) -> int:
    return int(_first(rf"{key}:\s*(\d+) kB", "/proc/meminfo") or 0) * 1024


def _first(pattern: str, path: str) -> str | None:
    found = re.search(pattern, Path(path).read_text())
    return found[1].strip() if found else None


def _file_system(folder: Path) -> str:
    """Return the type of the file system whose mount point is the longest prefix of `folder`."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = folder.resolve().is_relative_to(point)
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _cp() -> str:
    done = subprocess.run(["cp", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else "unknown"
