"""What holds for every test."""

from __future__ import annotations

import os
import runpy
import signal
import tempfile
import threading

import pytest
from hypothesis import settings

from tests.commands.forkserver import close_shared
from tests.refusing import FOLDER

# The networks of the tests are too small for threads, which would wait for each other instead of
# working where several tests run side by side. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, and none fails for being slow.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("ci")

# A shell starts what runs in its background with SIGINT ignored, and processes inherit that: those
# that the tests interrupt would not notice.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-modern-calls",
        action="store_true",
        help="Run on a Python that lacks copy_file_range, O_TMPFILE and the like.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--no-modern-calls"):
        return
    runpy.run_path(str(FOLDER / "sitecustomize.py"))
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]  # it has looked already
    # And so do the processes that tests start.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(FOLDER) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *filter(None, paths)])


def pytest_sessionfinish() -> None:
    close_shared()
