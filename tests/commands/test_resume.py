"""Interrupted trainings: whatever stops one, `--resume` ends with the same bits."""

from __future__ import annotations

import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from elsa_cli import verify
from tests.commands.forkserver import Server
from tests.commands.shell import names, one_line, sh
from tests.commands.tiny import write_model

pytest.importorskip("torch")

LINE = (
    *("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py", "-o", "out"),
    *("--joint-epochs", "1", "--reselect", "--epochs", "2", "--save-every", "3", "--log", "log"),
)
MOMENTS = 20


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str, float]:
    """The output and the log of a run that nothing interrupts, and the seconds it trains."""
    folder = tmp_path_factory.mktemp("whole")
    write_model(folder)
    done = server.run(*LINE, cwd=folder)
    assert done.code == 0, done.err
    assert not (folder / "out.resume").exists()
    log = (folder / "log").read_text()
    seconds = sum(map(float, re.findall(r'"seconds": ([0-9.e-]+)', log)))
    return (folder / "out").read_bytes(), without_times(folder / "log"), seconds


def without_times(log: Path) -> str:
    return re.sub(r'"seconds": [0-9.e-]+', "", log.read_text())


def test_a_kill_at_any_moment(
    server: Server, tmp_path: Path, whole: tuple[bytes, str, float]
) -> None:
    expected, log, seconds = whole
    moments = random.Random(0)
    number = interrupted = saved = 0
    while number < MOMENTS or interrupted < MOMENTS // 2 or saved < MOMENTS // 4:
        assert number < 10 * MOMENTS, (interrupted, saved)
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        write_model(folder)
        # From the first step to a little past the last one; it may be done by then.
        dies = {"DIES_AFTER": str(moments.uniform(0.02, 1.1) * seconds)}
        killed = server.run(*LINE, cwd=folder, env=dies)
        assert killed.code in (0, -signal.SIGALRM), killed.err
        interrupted += killed.code != 0
        if killed.code:
            saved += (folder / "out.resume").exists()
            again = server.run(*LINE, "--resume", cwd=folder)
            assert again.code == 0, again.err
        else:
            seconds *= 0.8  # the machine may have been busier when they were measured
        assert (folder / "out").read_bytes() == expected, number
        assert without_times(folder / "log") == log, number
        left = set(names(folder)) - {"__pycache__"}
        assert left == {"log", "model.elsa.safetensors", "model.safetensors", "out", "recipe.py"}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
)
def test_a_signal_saves_and_says_how_to_go_on(
    server: Server, tmp_path: Path, whole: tuple[bytes, str, float], number: int
) -> None:
    expected, *_ = whole
    write_model(tmp_path)
    line = [*LINE[: LINE.index("--save-every")], "-q"]
    at = {"STOP_AT": "40", "STOP_BY": str(int(number))}
    stopped = server.run(*line, cwd=tmp_path, env=at)
    assert stopped.code == 128 + number, stopped.err
    assert re.search(
        r"^Error: interrupted after 40 of 72 steps, which are saved in out.resume; "
        r"start it again with --resume to continue from there$",
        one_line(stopped.err),
    )
    assert not (tmp_path / "out").exists()
    forgotten = server.run(*line, cwd=tmp_path)
    assert forgotten.code == 2
    assert one_line(forgotten.err) == (
        "Error: out.resume: is the save of an interrupted run; add --resume to continue it, or "
        "delete it"
    )
    other = server.run(*line, "--resume", "--lr", "0.5", "--set", "hidden=24", cwd=tmp_path)
    assert other.code == 2
    assert "out.resume: is the save of another run: --lr was None, is (0.5,)" in one_line(other.err)
    again = server.run(*line, "--resume", cwd=tmp_path)
    assert again.code == 0, again.err
    assert (tmp_path / "out").read_bytes() == expected
    assert not (tmp_path / "out.resume").exists()


def test_a_damaged_save(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "out.resume").write_bytes(b"not a save")
    done = server.run(*LINE, "--resume", "-q", cwd=tmp_path)
    assert done.code == 1
    assert re.search(
        r"^Error: out.resume: cannot be read \(.*\); delete it to start from the beginning$",
        one_line(done.err),
    )
    assert (tmp_path / "out.resume").read_bytes() == b"not a save"


def test_nothing_to_resume_begins_anew(
    server: Server, tmp_path: Path, whole: tuple[bytes, str, float]
) -> None:
    write_model(tmp_path)
    done = server.run(*LINE, "--resume", cwd=tmp_path)
    assert done.code == 0
    assert (tmp_path / "out").read_bytes() == whole[0]


def test_another_number_of_threads_goes_on_with_a_line(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    at = {"STOP_AT": "40", "STOP_BY": str(int(signal.SIGTERM))}
    stopped = server.run(*LINE, "--threads", "1", cwd=tmp_path, env=at)
    assert stopped.code == 128 + signal.SIGTERM, stopped.err
    again = server.run(*LINE, "--threads", "2", "--resume", cwd=tmp_path)
    assert again.code == 0, again.err
    lines = again.err.splitlines()
    assert lines[0] == (
        "threads was 1, is 2: the bits may differ from those of an uninterrupted run"
    )
    assert lines[1] == "continuing from the save at step 40 of 72"
    assert verify(tmp_path / "out").ok


def test_signals_that_are_ignored_stay_ignored(tmp_path: Path) -> None:
    """As under nohup; the run goes on to its end."""
    write_model(tmp_path)
    line = "elsa freeze-train model.elsa.safetensors --recipe recipe.py --steps 2 -o out"
    at = {"STOP_AT": "1", "STOP_BY": str(int(signal.SIGHUP))}
    done = sh(f"trap '' HUP; {line}", tmp_path, at)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "out").ok


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """What is said then reaches nobody, but the run is saved, and ends with the signal's code."""
    write_model(tmp_path)
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "elsa_cli", *LINE],
        cwd=tmp_path,
        env={**os.environ, "STOP_AT": "40", "STOP_BY": str(int(signal.SIGSTOP))},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    hang_up = threading.Event()
    drain = threading.Thread(target=_read, args=(master, hang_up))
    drain.start()
    os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WNOWAIT)  # in the middle of a step
    running.send_signal(signal.SIGHUP)
    hang_up.set()
    drain.join()
    running.send_signal(signal.SIGCONT)
    assert running.wait(60) == 128 + signal.SIGHUP
    assert (tmp_path / "out.resume").exists()


def _read(terminal: int, hang_up: threading.Event) -> None:
    """Read what comes to a terminal, and close it when that is asked."""
    while not hang_up.is_set():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)
