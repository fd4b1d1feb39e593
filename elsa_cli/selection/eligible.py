"""Which tensors are prunable."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from elsa_cli.checkpoint.container import TensorInfo
from elsa_cli.errors import UsageError

__all__ = ["DEFAULT_EXCLUDE", "prunable_tensors"]

# Embeddings and heads are looked up or compared as a whole; scales belong to quantised weights.
DEFAULT_EXCLUDE = (
    "*embed*",
    "*embd*",
    "*wte*",
    "*wpe*",
    "*lm_head*",
    "*relative_attention_bias*",
    "shared.weight",
    "*_scale",
    "*.scale",
    "*_scale_inv",
)


def prunable_tensors(
    tensors: Sequence[TensorInfo], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[TensorInfo]:
    """Return the tensors that take part, in the order given.

    By default those are the floating-point tensors of at least two dimensions whose name matches
    none of DEFAULT_EXCLUDE. With `include`, they are the floating-point tensors that match one of
    its globs, whatever their dimensions. `exclude` takes away from either.

    Raises:
        UsageError: A glob matches no tensor, or `include` names one that cannot be pruned, or
            nothing is left.
    """
    for option, globs in (("--include", include), ("--exclude", exclude)):
        for glob in globs:
            if not any(fnmatchcase(t.name, glob) for t in tensors):
                raise UsageError(
                    f"{option} {glob!r} matches no tensor",
                    hint="`elsa inspect` lists the names",
                )
    chosen = []
    for t in tensors:
        wanted = _matches(t.name, include) if include else _by_default(t)
        if not wanted or not t.numel or _matches(t.name, exclude):
            continue
        if t.dtype.float_bits is None:
            # A glob such as 'layer.*' may well cover a counter; a name written out is meant.
            if t.name in include:
                raise UsageError(f"{t.dtype.name} weights cannot be pruned", tensor=t.name)
            continue
        chosen.append(t)
    if not chosen:
        raise UsageError(
            "no tensor is prunable: none is a float of two or more dimensions, by name and options",
            hint="choose some with --include; `elsa inspect` lists the names",
        )
    return chosen


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _by_default(tensor: TensorInfo) -> bool:
    return (
        tensor.dtype.float_bits is not None
        and len(tensor.shape) >= 2
        and not _matches(tensor.name.lower(), DEFAULT_EXCLUDE)
    )
