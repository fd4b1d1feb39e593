"""Checkpoints as torch writes them, and what the command line says of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.commands.forkserver import Done, Server, shared

__all__ = ["Choice", "Field", "normal", "octets", "sinusoids"]

State = Mapping[str, Tensor]


def normal(*shape: int, seed: int = 0, scale: float = 0.05) -> Tensor:
    """Return what a trained weight looks like."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def sinusoids(places: int, width: int) -> Tensor:
    """Return the table of positions of "Attention is all you need", (places, width)."""
    angles = torch.arange(float(places))[:, None] * torch.exp(
        torch.arange(0.0, width, 2) * (-math.log(10_000) / width)
    )
    return torch.stack((angles.sin(), angles.cos()), -1).reshape(places, width)


def octets(tensor: Tensor) -> Tensor:
    """Return the bytes of each element, (elements, size)."""
    return tensor.contiguous().flatten().view(torch.uint8).view(-1, tensor.element_size())


@dataclass(frozen=True)
class Choice:
    """What `elsa sparsify --json` said.

    Attributes:
        json: The object on standard output.
        err: Standard error.
    """

    json: dict[str, Any]
    err: str

    @property
    def pruned(self) -> set[str]:
        """Names of the tensors that are pruned."""
        return {row["name"] for row in self.json["tensors"]}

    @property
    def dense(self) -> dict[str, str]:
        """The roles of the tensors that are left dense."""
        return {row["name"]: row["role"] for row in self.json["left"]}

    @property
    def roles(self) -> dict[str, str]:
        """The roles of all tensors."""
        return {row["name"]: row["role"] for row in self.json["tensors"] + self.json["left"]}

    @property
    def reasons(self) -> dict[str, str]:
        """The reasons for the roles of all tensors."""
        return {row["name"]: row["reason"] for row in self.json["tensors"] + self.json["left"]}

    @property
    def dims(self) -> dict[str, int | None]:
        """Along which dimension groups run."""
        return {row["name"]: row["group_dim"] for row in self.json["tensors"]}

    def kept(self, name: str) -> list[int]:
        """Return how many weights of a tensor each level keeps, sparsest first."""
        (found,) = [row["kept"] for row in self.json["tensors"] if row["name"] == name]
        return list(found)

    @property
    def warned(self) -> list[str]:
        """The warnings on standard error, which are those of the report."""
        lines = [line for line in self.err.splitlines() if line.startswith("Warning: ")]
        found = [line.removeprefix("Warning: ") for line in lines]
        assert found == self.json["warnings"], self.err
        return found


@dataclass(frozen=True)
class Field:
    """A folder to work in, and the command line.

    Attributes:
        server: Runs the command line in processes of their own.
        folder: Where they run.
    """

    server: Server
    folder: Path

    def save(
        self, tensors: State, name: str = "model", metadata: Mapping[str, str] | None = None
    ) -> str:
        """Write a checkpoint; return the file's name."""
        copies = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
        save_file(copies, self.folder / f"{name}.safetensors", dict(metadata or {"format": "pt"}))
        return f"{name}.safetensors"

    def write(self, name: str, text: str) -> str:
        """Write a text file; return its name."""
        (self.folder / name).write_text(text)
        return name

    def run(self, *arguments: str) -> Done:
        """Run `elsa`; with a recipe, in a fork that has torch already."""
        server = shared("torch") if "--recipe" in arguments else self.server
        return server.run(*arguments, cwd=self.folder)

    def sparsify(
        self,
        tensors: State,
        *options: str,
        levels: str = "0.9",
        metadata: Mapping[str, str] | None = None,
    ) -> Choice:
        """Sparsify tensors, and return what was said of them."""
        file = self.save(tensors, metadata=metadata)
        done = self.run("sparsify", file, "--levels", levels, "--json", *options)
        assert done.code == 0, done.err
        return Choice(json.loads(done.out), done.err)

    def refused(self, tensors: State, *options: str, levels: str = "0.9", code: int) -> str:
        """Sparsify tensors, which has to fail; return the one line of the error."""
        file = self.save(tensors)
        done = self.run("sparsify", file, "--levels", levels, *options)
        lines = done.err.splitlines()
        assert (done.code, done.out, len(lines)) == (code, "", 1), done
        assert sorted(path.name for path in self.folder.glob("*.elsa.*")) == []
        return lines[0].removeprefix("Error: ")

    def extract(self, level: str, file: str = "model.elsa.safetensors") -> dict[str, Tensor]:
        """Return a level as the command line extracts it."""
        done = self.run("extract", file, "--level", level, "-o", "level.safetensors")
        assert done.code == 0, done.err
        return load_file(self.folder / "level.safetensors")

    def manifest(self, file: str = "model.elsa.safetensors") -> dict[str, Any]:
        """Return the manifest of a nested file, read without the package."""
        raw = (self.folder / file).read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        found = json.loads(header["__metadata__"]["elsa"])
        assert isinstance(found, dict)
        return found

    def check_levels(self, tensors: State, choice: Choice) -> None:
        """Check each level of model.elsa.safetensors: how many weights are zero, all others kept.

        Args:
            tensors: What was sparsified.
            choice: What was said of them.
        """
        for at, level in enumerate(choice.json["levels"]):
            found = self.extract(level)
            assert found.keys() == tensors.keys()
            for name, dense in tensors.items():
                before, after = octets(dense), octets(found[name])
                changed = (before != after).any(1)
                assert not after[changed].any(), (level, name)
                kept = choice.kept(name)[at] if name in choice.pruned else dense.numel()
                others = int((~before.any(1)).sum())  # zero in the dense network already
                assert kept - others <= int(after.any(1).sum()) <= kept, (level, name)
