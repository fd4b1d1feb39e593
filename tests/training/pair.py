"""Two gloo processes: `python -m tests.training.pair FOLDER`.

What each process finds goes to FOLDER/RANK.json; the tests look at it. One interpreter that forks
is half as long as two.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from elsa_cli.errors import ElsaError, FrozenChanged
from elsa_cli.models.distributed import BUCKET, Group, is_peer_error, local_rank, world_size
from elsa_cli.training.events import PhaseReport, Watcher
from elsa_cli.training.freeze import FrozenMask
from elsa_cli.training.options import TrainOptions
from elsa_cli.training.stepping import Setup
from elsa_cli.training.trainer import Trainer
from tests.training.test_freeze import Hold, batches, loss_of, make, masks_of, net
from tests.training.tiny import CPU, DATA, LOSS, MODEL, PLAIN, digest, load_recipe, make_ladder

OWN_SHARE = """
def train_data(*, rank: int = 0, world: int = 1):
    generator = torch.Generator().manual_seed(rank)
    return [(torch.randn(8, 6, generator=generator), torch.arange(8) % 3) for _ in range(6)]
"""
PAST_THE_WRAPPER = """
def loss(model, batch):
    parameters = dict(model.named_parameters())
    return F.cross_entropy(torch.func.functional_call(model, parameters, batch[0]), batch[1])
"""
UNUSED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))
        self.aux = nn.Linear(12, 4)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        h = torch.tanh(self.inp(x))
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.5:
                h = h + torch.relu(block(h))
        return self.head(h)


def build_model():
    return Net()
"""


def freezing(rank: int) -> dict[str, Any]:
    """Train a wrapped model, with a mask and frozen weights."""
    model = net()
    masks, frozen = masks_of(model)
    hold, held = Hold(model, masks, frozen), FrozenMask(model, masks, frozen)
    alone = copy.deepcopy(model)
    wrapped = DistributedDataParallel(model)
    optimizer = make("sgd-momentum", model)
    held.attach(optimizer)
    grads = 0
    for at, batch in enumerate(batches(8)[rank::2]):
        if not at:
            loss_of(alone, batch).backward()
        loss_of(wrapped, batch).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            grads += int(torch.count_nonzero(parameter.grad[~hold.free[name]]))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        hold.check()
        optimizer.zero_grad()
    held.check()
    grad = alone.first.weight.grad
    assert grad is not None
    return {
        "held": "held in every step",
        "held gradients": grads,
        "moved": hold.moved()["first.weight"],
        "weights": digest({n: p.detach() for n, p in model.named_parameters()}),
        "own gradient": digest({"": grad}),
    }


def group_calls(group: Group, rank: int) -> dict[str, Any]:
    """Call everything that a group offers."""
    found: dict[str, Any] = {"size": group.size, "rank": group.rank, "writes": group.writes}
    found["launcher"] = [world_size(), local_rank()]
    found["sum"] = group.reduce(torch.tensor([1.5, rank], dtype=torch.float64)).tolist()
    tensors = [torch.tensor([1.0, rank]), torch.tensor([rank])]
    group.broadcast(tensors)
    found["of the first"] = [tensor.tolist() for tensor in tensors]
    group.agree({"w": torch.tensor([-0.0])}, "level 0.9")
    try:
        group.agree({"w": torch.tensor([-0.0 if rank else 0.0])}, "level 0.9")
    except FrozenChanged as error:
        found["differ"] = str(error)
    group.barrier()
    found["lost"] = str(is_peer_error(RuntimeError("Connection closed by peer [127.0.0.1]")))
    found["late"] = [
        f"{type(late).__name__}: {late}"
        for late in map(
            is_peer_error,
            (
                RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
                RuntimeError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)"),
                torch.distributed.DistStoreError("Socket Timeout"),
            ),
        )
    ]
    found["others"] = [
        str(is_peer_error(other))
        for other in (RuntimeError("a bug"), ValueError("socket"), ValueError("timed out"))
    ]
    return found


def averages(group: Group, rank: int) -> dict[str, Any]:
    """Average gradients that the processes have in different ways."""

    def parameter(value: torch.Tensor, grad: torch.Tensor | None) -> nn.Parameter:
        made = nn.Parameter(value)
        made.grad = grad
        return made

    image = torch.ones(1, 2, 2, 2).to(memory_format=torch.channels_last)
    rows = torch.tensor([[0.0], [1.0], [2.0]]).mul(rank).to_sparse(1)
    rows = rows if rank else torch.tensor([[0.0], [1.0], [0.0]]).to_sparse(1)
    some = {
        "both": parameter(torch.zeros(1, 2), torch.tensor([[2.0 + 2 * rank, 4.0]])),
        "second": parameter(torch.zeros(1), torch.tensor([4.0]) if rank else None),
        "none": parameter(torch.zeros(1), None),
        "double": parameter(torch.zeros(1).double(), torch.tensor([1.0]).double() * rank),
        "sparse": parameter(torch.zeros(3, 1), rows),
        "channels last": parameter(image, image * (1 + rank)),
        "large": parameter(torch.zeros(BUCKET // 4), torch.full((BUCKET // 4,), 1.0 + rank)),
    }
    group.average(list(some.values()))
    found: dict[str, Any] = {}
    for name, one in some.items():
        grad = one.grad
        found[name] = None if grad is None else grad.to_dense().tolist() if name != "large" else 0
        if name == "channels last":
            assert grad is not None
            last = grad.is_contiguous(memory_format=torch.channels_last)
            found[name] = [last, float(grad.mean())]
        if name == "large":
            assert grad is not None
            found[name] = [float(grad.min()), float(grad.max())]
    return found


def shared_out(group: Group, rank: int) -> list[str]:
    """Share out a tensor of each kind of dtype."""
    some = [
        torch.tensor(bool(rank)),
        torch.tensor([1.5 + rank]).to(torch.float8_e5m2),
        torch.tensor([1 + 2j + rank]),
        torch.tensor([7 + rank], dtype=torch.int16),
        torch.tensor([]),
    ]
    group.broadcast(some)
    return [
        str(t.float().item() if t.dtype.itemsize == 1 and t.is_floating_point() else t.item())
        if t.numel()
        else "0"
        for t in some
    ]


def waiting(group: Group, rank: int) -> dict[str, str]:
    """Let the first one take longer than the others' group waits."""
    short = torch.distributed.new_group(backend="gloo", timeout=timedelta(milliseconds=300))
    try:
        if rank:
            group._asking(lambda: torch.distributed.barrier(group=short))
        else:
            time.sleep(1.5)
            group._asking(lambda: torch.distributed.barrier(group=short))
        impatient = "no error"
    except ElsaError as late:
        impatient = f"{type(late).__name__}: {late}"
    torch.distributed.distributed_c10d._set_pg_timeout(
        timedelta(milliseconds=300), torch.distributed.group.WORLD
    )
    if not rank:
        time.sleep(1.5)  # measures
    group.barrier()
    return {"impatient": impatient, "patient": "waited"}


class Keep(Watcher):
    """Keeps a digest of the network at the end of each stage."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: dict[str, str] = {}
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, report: PhaseReport) -> None:
        self.found[report.phase] = digest(self.model.state_dict())


def training(folder: Path, group: Group, rank: int) -> dict[str, Any]:
    """Train levels in several ways."""
    found: dict[str, Any] = {}
    runs: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("shared out", (MODEL, DATA, LOSS), {}),
        ("own share", (MODEL, OWN_SHARE, LOSS), {"accumulate": 2}),
        ("joint", (MODEL, DATA, LOSS), {"joint_epochs": 2.0, "clip_norm": 0.1}),
        ("recalibrate", (MODEL, DATA, LOSS), {"norm": "recalibrate"}),
        ("as one", (PLAIN, DATA, LOSS), {"clip_norm": 0.1}),
        ("past", (MODEL, DATA, PAST_THE_WRAPPER), {}),
        ("unused", (UNUSED, DATA, LOSS), {"steps": (6,)}),
        ("unused joint", (UNUSED, DATA, LOSS), {"steps": (6,), "joint_epochs": 2.0}),
    ]
    for name, parts, chosen in runs:
        options = TrainOptions(**{"steps": (3,), "joint_epochs": 0.0, **chosen})
        recipe = load_recipe(folder, *parts, name=f"recipe{rank}.py")
        ladder = make_ladder(recipe, options)
        keep = Keep(ladder.network.model)
        try:
            reports = Trainer(Setup(recipe, ladder, options, group, CPU), watcher=keep).run()
        except ElsaError as error:
            found[name] = [type(error).__name__, error.hint]
            continue
        keep.found.pop("joint", None)
        ends = {str(level): digest(ladder.nested.state(level)) for level in ladder.stages}
        found[name] = {
            "kept": keep.found,
            "ends": ends,
            "losses": [r.loss for r in reports],
            "without gradient": [r.without_gradient for r in reports],
            "notes": keep.notes,
        }
    return found


def run(folder: Path, rank: int) -> None:
    """Be one of the two processes."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    group = Group(CPU)
    found = freezing(rank) | {"group": group_calls(group, rank)}
    found |= {"average": averages(group, rank), "shared": shared_out(group, rank)}
    found["training"] = training(folder, group, rank)
    found |= waiting(group, rank)
    if rank == 1:
        (folder / "1.json").write_text(json.dumps(found))
        os._exit(0)  # without a word to the other
    try:
        group.barrier()
    except ElsaError as lost:
        found["lost"] = f"{type(lost).__name__}: {lost}"
    (folder / "0.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    """Fork, and be the first of the two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    child = os.fork()
    try:
        run(folder, 0 if child else 1)
    except BaseException:
        if not child:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        raise
    os.waitpid(child, 0)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
