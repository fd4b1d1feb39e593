"""What the scripts of this folder share: a case, the list of cases, and how tensors are gathered.

A case is a small file of tensors as a package from PyPI makes or ships them, and what each tensor
is. Packages are imported by name when a case is made, so that no package is needed to read, lint or
type-check this folder.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROLES = frozenset(
    ["weight", "embedding", "head", "router", "norm", "bias", "position", "constant", "codes"]
) | {"scale", "adapter", "other"}
LARGEST = 40_000  # bytes of one file


@dataclass(frozen=True)
class Made:
    """The tensors of a case, the role of each (or its input dimension), and what else is said."""

    tensors: dict[str, Tensor]
    expect: dict[str, str | int]
    more: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One input found in the wild; `where` is the file and the class that it comes from."""

    kind: str
    name: str
    package: str
    where: str
    note: str
    make: Callable[[], Made]

    @property
    def file(self) -> str:
        """The file of this case, from the folder of all cases."""
        return f"{self.kind}/{self.name}.safetensors"


CASES: list[Case] = []


def case(
    kind: str, name: str, package: str, where: str, note: str
) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """Put the function that makes a case on the list."""

    def add(make: Callable[[], Made]) -> Callable[[], Made]:
        CASES.append(Case(kind, name, package, where, note, make))
        return make

    return add


def use(name: str) -> Any:
    """Import a module, or take an attribute of one: `package.module:Class`."""
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


def shipped(package: str, path: str) -> Path:
    """A file inside an installed package."""
    top = importlib.util.find_spec(package)
    assert top is not None
    assert top.submodule_search_locations
    return Path(next(iter(top.submodule_search_locations))) / path


def version(package: str) -> str:
    """`package==version`, as it is installed."""
    return f"{package}=={metadata.version(package)}"


def state(module: Any, keep: str = "", drop: str = "(?!)", rows: int = 0) -> dict[str, Tensor]:
    """A module's tensors of at least one dimension, tied ones once, as safetensors would save them.

    `keep` and `drop` are regular expressions on names; `rows` cuts the first dimension of what is
    larger.
    """
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or tensor.numel() == 0:
            continue
        if tensor.data_ptr() in seen or not re.search(keep, name) or re.search(drop, name):
            continue
        seen.add(tensor.data_ptr())
        cut = tensor[:rows] if rows else tensor
        out[name] = cut.detach().clone().contiguous()
    return out


def by(
    tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str | int]], **more: object
) -> Made:
    """Give every tensor the role of the first rule that matches its name; none may be left over."""
    listed = list(rules)
    expect: dict[str, str | int] = {}
    for name, tensor in tensors.items():
        role = next((role for rule, role in listed if re.search(rule, name)), None)
        assert role is not None, f"no rule for {name} {tuple(tensor.shape)}"
        assert isinstance(role, int) or role in ROLES, role
        expect[name] = role
    return Made(dict(tensors), expect, more)


def numpy_to_torch(array: Any) -> Tensor:
    """A numpy, jax or mlx array as a tensor of its own."""
    numpy = use("numpy")
    return torch.from_numpy(numpy.array(array)).clone()
