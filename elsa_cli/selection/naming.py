"""Names of tensors taken apart: segments, the module that owns a tensor, what stands beside it.

`model.layers.0.mlp.down_proj.weight` has the leaf `weight`, the module `down_proj`, and above it
`mlp`, `layers`, `model`. Rules look at whole segments, never at a part of the path: a network that
is called `embedding_net` has no embeddings for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from elsa_cli.storage.container import TensorSpec

__all__ = ["Name", "Siblings", "canonical", "parent", "real_dims", "take_apart"]

# Segments that wrappers of modules add, and that say nothing of what is inside.
WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "base_layer",  # peft
        "modules_to_save",  # peft
        "original_module",  # peft
    }
)
# What a parametrization keeps instead of a weight: one tensor, or the norm's two.
ORIGINALS = {"original": "weight_orig", "original0": "weight_g", "original1": "weight_v"}
_OUTPUT = re.compile(r":\d+$")  # of Keras: `dense/kernel:0`
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DIGITS = re.compile(r"\d+$")
_SEPARATOR = re.compile(r"[./]")


@lru_cache(maxsize=1 << 16)
def canonical(segment: str) -> str:
    """Return a segment in lower case, words joined by `_`, without numbers at their ends.

    `LayerNorm_1` and `layer_norm2` are both `layer_norm`; a number alone is the empty string.
    """
    words = _CAMEL.sub("_", segment).lower().replace("-", "_").split("_")
    return "_".join(filter(None, (_DIGITS.sub("", word) for word in words)))


def real_dims(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the dimensions other than 1: a (1, 1, 768) token has one, a (64, 1, 3) kernel two."""
    return tuple(size for size in shape if size != 1)


@dataclass(frozen=True)
class Name:
    """A tensor's name, taken apart; every segment as `canonical` gives it.

    Attributes:
        leaf: The last segment, the parameter's own name: `weight`, `bias`, `pos_embed`.
        module: The module that owns it, the last segment above that is no number; may be empty.
        above: The other segments above, the nearest first, without numbers and wrappers.
        owner: The full name of whatever owns the tensor, as it is written, up to the leaf.
    """

    leaf: str
    module: str
    above: tuple[str, ...]
    owner: str


def take_apart(name: str) -> Name:
    """Take a name apart at its dots, or at its slashes as in Flax and Keras.

    What torch's parametrizations add is taken back: `conv.parametrizations.weight.original1` is
    the leaf `weight_v` of the module `conv`, as in torch's older weight norm.
    """
    text = _OUTPUT.sub("", name) if "/" in name else name
    segments = _SEPARATOR.split(text)
    if "parametrizations" in segments[:-1]:
        last = ORIGINALS.get(segments[-1], segments[-1])
        segments = [*segments[: segments.index("parametrizations")], last]
    words = [canonical(s) for s in segments if s not in WRAPPERS]
    while len(words) > 1 and not words[-1]:  # a list of parameters: `weights.0`
        words.pop()
    leaf = words.pop() if words else ""
    above = tuple(word for word in reversed(words) if word)
    return Name(leaf, above[0] if above else "", above[1:], parent(text))


def parent(name: str) -> str:
    """Return a name, or the name of a module, without its last segment; empty at the root."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


class Siblings:
    """The tensors of a file by their names and by the modules that own them."""

    def __init__(self, tensors: Iterable[TensorSpec]) -> None:
        """Sort the tensors once, so that each look takes no longer in a large file."""
        self.by_name = {t.name: t for t in tensors}
        self.names = {name: take_apart(name) for name in self.by_name}

    @cached_property
    def owned(self) -> dict[str, dict[str, TensorSpec]]:
        """The tensors of each owner by their last segment, as it is written."""
        found: dict[str, dict[str, TensorSpec]] = {}
        for name, t in self.by_name.items():
            owner = self.names[name].owner
            found.setdefault(owner, {})[name[len(owner) + 1 :] if owner else name] = t
        return found

    @cached_property
    def with_experts(self) -> frozenset[str]:
        """Owners, as they are written, that have a segment `experts` or `expert` below them."""
        found = set()
        for owner in self.owned:
            inner = owner
            while inner:
                inner, segment = parent(inner), inner[len(parent(inner)) :].lstrip("./")
                if canonical(segment) in ("experts", "expert", "local_experts", "routed_experts"):
                    found.add(inner)
        return frozenset(found)

    def beside(self, tensor: TensorSpec) -> dict[str, TensorSpec]:
        """Return the tensors of the same owner, the tensor itself included, by last segment."""
        return self.owned[self.names[tensor.name].owner]

    def bias_of(self, tensor: TensorSpec) -> TensorSpec | None:
        """Return the bias that belongs to a weight, or None.

        `fc.weight` has `fc.bias`, the fused `experts.down_proj` has `experts.down_proj_bias`.
        """
        beside = self.beside(tensor)
        owner = self.names[tensor.name].owner
        last = tensor.name[len(owner) + 1 :] if owner else tensor.name
        number = last[last.index(":") :] if "/" in tensor.name and ":" in last else ""  # Keras
        for candidate in (f"{last}_bias", last.replace("weight", "bias"), f"bias{number}"):
            found = beside.get(candidate)
            if found is not None and found is not tensor:
                return found
        module, parametrized, inner = owner.rpartition("parametrizations.weight")
        if parametrized and not inner:
            for candidate in ("bias", f"parametrizations.bias.{last}"):
                found = self.by_name.get(module + candidate)
                if found is not None:
                    return found
        return None
