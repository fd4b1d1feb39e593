"""Along which dimension the inputs of a weight lie, which is where n:m groups run.

It is the second one for linear layers and convolutions, (out, in, ...). Others differ: Conv1D of
GPT-2 and kernels of Flax are (in, out), transposed convolutions (in, out, ...), convolutions of MLX
(out, ..., in), fused experts (experts, out, in) or (experts, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from elsa_cli.errors import Call, UsageError, Words
from elsa_cli.selection.naming import Name, Siblings, parent
from elsa_cli.selection.roles import Roles, matching
from elsa_cli.storage.container import TensorSpec

__all__ = ["Layout", "input_dims", "parse_dims"]

CONV1D = re.compile(r"c_attn|c_proj|c_fc|q_attn")  # GPT-2's names; nanoGPT has linear layers there
TRANSPOSED = re.compile(
    r"(?:.*_)?(?:deconv|conv_transpose.*|convtranspose.*|transposed?|conv_t|trans_conv|convt|tconv"
    r"|upscaling|output_upscaling)(?:_.*)?"
)
# These names are transposed convolutions where the kernel is even, as upsampling by 2 needs.
UPSAMPLING = re.compile(r"(?:.*_)?(?:up|ups|upsample|upsampler|upsampling|upconv|up_?sample.*)")
# Parameters of three dimensions that hold several matrices, by their own or their module's name.
MATRICES = re.compile(
    r"(?:.*_)?(?:experts?|local_experts|routed_experts|moe|linear|fc|dense|mlp|proj|gate|gate_up"
    r"|up_gate|w)(?:_.*)?"
)
CONV = re.compile(r"(?:.*_)?conv(?:.*)?|(?:.*_)?(?:to_)?(?:patch|pixel)(?:_.*)?")
DOWN = re.compile(r"down|w2|out|wo")  # the matrix of an expert that comes last


@dataclass(frozen=True)
class Layout:
    """Parameters whose input dimension their name tells, of a number of dimensions."""

    leaf: str
    module: str
    dimensions: int
    input_dim: int
    family: str


LAYOUTS = (
    Layout(r"(?:.*_)?(?:proj|projection)", r"(?!.*expert).*", 2, 0, "CLIP, open_clip"),
    Layout(r"w_[qkvo]", r"attn", 3, 1, "TransformerLens: (heads, in, out)"),
    Layout(r"[qkvr]", r".*", 3, 0, "XLNet: (in, heads, out)"),
    Layout(r"o", r".*", 3, 2, "XLNet: (out, heads, in)"),
    Layout(r"(?:input|recurrent)_gate_weight", r".*", 3, 1, "RecurrentGemma: (heads, in, out)"),
    Layout(r"kernel", r"query|key|value|[qkv]", 3, 0, "Flax attention: (in, heads, out)"),
)


def parse_dims(pairs: Sequence[str]) -> list[tuple[str, int]]:
    """Read DIM or NAME=DIM; DIM alone is for every tensor.

    Raises:
        UsageError: Not such a pair.
    """
    parsed = []
    for pair in pairs:
        pattern, equals, dim = pair.rpartition("=")
        try:
            parsed.append((pattern if equals else "*", int(dim)))
        except ValueError:
            raise UsageError(
                f"{pair!r} is neither a dimension nor NAME=DIMENSION",
                hint="such as 0, or 'h.*.mlp.*=0'",
            ) from None
    return parsed


def input_dims(
    tensors: Sequence[TensorSpec],
    roles: Roles,
    given: Sequence[tuple[str, int]] = (),
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Return the input dimension of each tensor, counted from 0.

    Args:
        tensors: The prunable tensors.
        roles: What the file's tensors are.
        given: Pairs of a pattern and a dimension, negative ones counted from the end; the last one
            that matches decides.
        metadata: The file's metadata, which names the layout of MLX.

    Raises:
        UsageError: A pattern matches no tensor, or a tensor has no such dimension.
    """
    names = {t.name for t in tensors}
    asked: dict[str, int] = {}
    for pattern, dim in given:
        meant = matching(names, pattern)
        if not meant:
            raise UsageError(
                f"the group dimension of {pattern!r} is given, which matches no prunable tensor",
                hint=Words("{} lists the names", Call("inspect")),
            )
        asked |= dict.fromkeys(meant, dim)
    mlx = _is_mlx(tensors, metadata or {})
    gpt2 = _is_gpt2(tensors, roles.siblings)
    dims = {}
    for t in tensors:
        own = asked.get(t.name)
        if own is not None:
            if not -len(t.shape) <= own < len(t.shape):
                raise UsageError(
                    f"has no dimension {own}, its shape is {list(t.shape)}", tensor=t.name
                )
            dims[t.name] = own % len(t.shape)
            continue
        told = roles.told[t.name].input_dim
        if told is not None:
            dims[t.name] = told
        else:
            dims[t.name] = _by_name(t, roles, mlx, gpt2)
    return dims


def _by_name(t: TensorSpec, roles: Roles, mlx: bool, gpt2: bool) -> int:
    siblings = roles.siblings
    name = siblings.names[t.name]
    if len(t.shape) < 2:
        return 0
    for layout in LAYOUTS:
        if (
            len(t.shape) == layout.dimensions
            and re.fullmatch(layout.leaf, name.leaf)
            and re.fullmatch(layout.module, name.module)
        ):
            return layout.input_dim
    if name.leaf.endswith("kernel"):  # Flax: (..., in, out); Keras' transposed ones: (..., out, in)
        up = "/" in t.name and len(t.shape) > 2 and _transposes(name, t.shape[:-2])
        return len(t.shape) - (1 if up else 2)
    if len(t.shape) == 3 and _several(name):
        return _of_several(t, name, roles)
    if mlx and len(t.shape) > 2:
        return len(t.shape) - 1
    bias = siblings.bias_of(t)
    outputs = bias.shape[-1] if bias is not None and bias.shape else None
    if len(t.shape) == 2:
        if CONV1D.fullmatch(name.module) and gpt2:
            return 0
        # A bias has as many values as a layer has outputs, so it tells (in, out) from (out, in).
        return 0 if outputs is not None and t.shape[0] != outputs == t.shape[1] else 1
    if outputs in t.shape[:2] and t.shape[0] != t.shape[1]:
        return 0 if outputs == t.shape[1] else 1  # a transposed convolution, or none
    return 0 if _transposes(name, t.shape[2:]) else 1


def _transposes(name: Name, kernel: Sequence[int]) -> bool:
    """Tell by its name whether a layer is a transposed convolution."""
    even = all(size % 2 == 0 for size in kernel)
    return bool(TRANSPOSED.fullmatch(name.module) or (even and UPSAMPLING.fullmatch(name.module)))


def _is_mlx(tensors: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bool:
    """Tell whether convolutions are (out, height, width, in), as in MLX.

    The metadata says so, or, where it says nothing, the shapes: kernels are small and mostly
    square, so (64, 3, 3, 32) is one of MLX, (64, 32, 3, 3) one of torch.
    """
    if "format" in metadata:
        return metadata["format"] == "mlx"
    votes = 0
    for t in tensors:
        if len(t.shape) == 4 and t.shape[1] != t.shape[3]:
            first = t.shape[1] == t.shape[2] < t.shape[3]
            last = t.shape[2] == t.shape[3]
            votes += int(first and not last) - int(last and not first)
    return votes > 0


def _is_gpt2(tensors: Sequence[TensorSpec], siblings: Siblings) -> bool:
    """Tell whether layers with GPT-2's names are its Conv1D, (in, out), and not linear layers.

    `c_attn` and `c_fc` widen: as Conv1D they have more columns than rows.
    """
    votes = 0
    for t in tensors:
        if len(t.shape) == 2 and siblings.names[t.name].module in ("c_attn", "c_fc"):
            votes += (t.shape[1] > t.shape[0]) - (t.shape[1] < t.shape[0])
    return votes > 0


def _several(name: Name) -> bool:
    """Tell whether a tensor of three dimensions holds several matrices, and no kernels."""
    near = (name.leaf, name.module, *name.above[:1])
    if any(CONV.fullmatch(part) for part in near[:2]):
        return False
    return any(MATRICES.fullmatch(part) for part in near)


def _of_several(t: TensorSpec, name: Name, roles: Roles) -> int:
    """Tell (experts, in, out) from (experts, out, in).

    The bias has the outputs. What goes into the router goes into the experts, and comes out of
    them. Else `gate_up_proj` (E, a, b) and `down_proj` (E, c, d) tell: what goes into the one comes
    out of the other. As (out, in), b = c; as (in, out), a = d.
    """
    if t.shape[1] == t.shape[2]:
        return 2
    bias = roles.siblings.bias_of(t)
    outputs = bias.shape[-1] if bias is not None and bias.shape else None
    if outputs in t.shape[1:]:
        return 1 if outputs == t.shape[2] else 2
    width = _width(t, roles)
    if width in t.shape[1:]:
        narrow = DOWN.search(_own(t, name)) is not None
        return 2 if (width == t.shape[2]) != narrow else 1
    pair: dict[bool, TensorSpec] = {}
    for other in roles.siblings.beside(t).values():
        if len(other.shape) == 3:
            down = DOWN.search(_own(other, roles.siblings.names[other.name])) is not None
            pair.setdefault(down, other)
    if len(pair) == 2:
        (_, a, b), (_, c, d) = pair[False].shape, pair[True].shape
        # a against d as well: gate and up together have twice the width that goes down.
        as_rows, as_columns = b == c and a in (d, 2 * d), a == d and b in (c, 2 * c)
        if as_columns and not as_rows:
            return 1
    return 2


def _own(t: TensorSpec, name: Name) -> str:
    """Return what a matrix of experts is called, `w2` or `output_linear`, with its numbers."""
    return name.module if name.leaf == "weight" else t.name[len(parent(t.name)) :]


def _width(t: TensorSpec, roles: Roles) -> int | None:
    """Return how much goes into the router beside some experts, or None if none is there."""
    count, owner = t.shape[0], roles.siblings.names[t.name].owner
    for _ in range(3):
        owner = parent(owner)
        for name in roles.routers:
            shape = roles.siblings.by_name[name].shape
            if name.startswith(owner) and len(shape) == 2 and count in shape:
                return shape[0] if shape[1] == count else shape[1]
    return None
