"""More than one process, as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from elsa_cli import load_level, verify
from tests.commands.forkserver import Server
from tests.commands.tiny import LEVELS, write_model

torch = pytest.importorskip("torch")

BUFFERS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
TRAIN = (
    *("freeze-train", "model.elsa.safetensors", "--recipe", "recipe.py"),
    *("--epochs", "2", "--joint-epochs", "1", "--device", "cpu", "--threads", "1"),
)


def torchrun(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run two processes on this machine, which meet at a free port."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [sys.executable, *launcher, "-m", "elsa_cli", *TRAIN, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def two_forks(
    server: Server, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run two forks with the variables of torchrun, and a store as its agent has one."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        **(env or {}),
    }
    runs = [
        server.start(
            *TRAIN, *arguments, cwd=cwd, env={**launched, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]
    done = [run.finish() for run in runs]
    return subprocess.CompletedProcess(
        arguments,
        next((run.returncode for run in done if run.returncode), 0),
        "".join(run.stdout.decode() for run in done),
        "".join(run.stderr.decode() for run in done),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_processes_give_what_one_gives_at_the_same_global_batch(
    server: Server, tmp_path: Path, optimizer: str
) -> None:
    """With dropout, a batch norm and the joint phase; running statistics are the first one's."""
    write_model(tmp_path)
    keep = tmp_path / "keep"
    keep.mkdir()
    options = ("--optimizer", optimizer, "--weight-decay", "0.1")
    line, env = (*options, "-o", "two"), {"KEEP": str(keep)}
    if optimizer == "sgd":
        two = torchrun(*line, cwd=tmp_path, env=env)
    else:
        two = two_forks(server, *line, cwd=tmp_path, env=env)
    assert two.returncode == 0, two.stderr
    assert two.stdout == "two\n"  # one process talks
    assert verify(tmp_path / "two").ok
    one = server.run(*TRAIN, *options, "--accumulate", "2", "-o", "one", cwd=tmp_path)
    assert one.code == 0, one.err
    from safetensors.torch import load_file

    for number, level in enumerate(LEVELS):
        a, b = (load_level(tmp_path / name, level) for name in ("one", "two"))
        for name in a:
            if name not in BUFFERS:
                assert torch.equal(a[name], b[name]), (level, name)
        stage = load_file(keep / str(number))  # as the first process had it at the stage's end
        for name in b:
            assert torch.equal(stage[name], b[name]), (level, name)


def test_a_process_that_dies_ends_the_run_and_it_can_be_resumed(
    server: Server, tmp_path: Path
) -> None:
    write_model(tmp_path)
    dies = {"STOP_RANK": "1", "STOP_AT": "11", "STOP_BY": str(int(signal.SIGKILL))}
    done = torchrun("-o", "out", "--save-every", "3", cwd=tmp_path, env=dies)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == [
        "Error: another process of this run has ended; see what that process says, then start the "
        "run again with --resume"
    ], done.stderr
    assert not (tmp_path / "out").exists()
    again = two_forks(server, "-o", "out", "--save-every", "3", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "continuing from the save at step" in again.stderr
    whole = two_forks(server, "-o", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_signal_to_one_stops_all_and_saves(server: Server, tmp_path: Path) -> None:
    write_model(tmp_path)
    stops = {"STOP_RANK": "1", "STOP_AT": "11", "STOP_BY": str(int(signal.SIGTERM))}
    done = two_forks(server, "-o", "out", cwd=tmp_path, env=stops)
    assert done.returncode != 0
    errors = {line for line in done.stderr.splitlines() if line.startswith("Error: ")}
    assert errors == {
        "Error: interrupted after 11 of 36 steps, which are saved in out.resume; start it again "
        "with --resume to continue from there"
    }
    assert (tmp_path / "out.resume").exists()


def test_processes_that_were_not_started_by_a_launcher(tmp_path: Path, server: Server) -> None:
    write_model(tmp_path)
    done = server.run(*TRAIN, cwd=tmp_path, env={"WORLD_SIZE": "2"})
    assert done.code == 1
    assert "the 2 processes do not find each other" in done.err
    assert "torchrun --nproc-per-node" in done.err


@pytest.mark.parametrize("first", [1, 2])
def test_another_number_of_processes_goes_on(first: int, server: Server, tmp_path: Path) -> None:
    """From two to one and back: an epoch has then twice the steps, or half of them."""
    write_model(tmp_path)
    stops = {"STOP_AT": "11", "STOP_BY": str(int(signal.SIGUSR1))}

    def run(processes: int, *more: str, env: Mapping[str, str] | None = None) -> str:
        line = ("-o", "out", *more)
        if processes == 2:
            return two_forks(server, *line, cwd=tmp_path, env=env).stderr
        return server.run(*TRAIN, *line, "--log", "log", cwd=tmp_path, env=env).err

    stopped = run(first, env=stops)
    steps = {1: 72, 2: 36}[first]  # of the joint phase and the levels
    assert f"interrupted after 11 of {steps} steps, which are saved in out.resume" in stopped
    assert not (tmp_path / "out").exists()
    went_on = run(3 - first, "--resume")
    done, total = {1: (5, 36), 2: (22, 72)}[first]
    assert (
        f"processes was {first}, is {3 - first}: the bits may differ from those of an "
        f"uninterrupted run\ncontinuing from the save at step {done} of {total}\n"
    ) in went_on
    assert verify(tmp_path / "out").ok
    assert not (tmp_path / "out.resume").exists()
    if first == 1:
        return
    epochs = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    ends = [tick for tick in epochs if tick["kind"] == "epoch"]
    assert all(tick["step"] <= tick["steps"] for tick in ends)
    assert ends[-1]["done"] == total
