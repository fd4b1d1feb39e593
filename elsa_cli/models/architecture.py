"""What the classes of a model's modules say about its tensors: roles and input dimensions."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elsa_cli.selection.roles import Told

__all__ = ["model_of_config", "roles_of"]

# The first class that a module is an instance of decides. Each row gives the role of the module's
# tensors of two dimensions or more, and the dimension along which a weight's inputs lie.
CLASSES: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str, int | None], ...] = (
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "weight", 0),
    ((nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d), "weight", 1),
    ((nn.RNNBase, nn.RNNCellBase), "weight", 1),
    ((nn.Embedding, nn.EmbeddingBag), "embedding", None),
    (
        (
            nn.LayerNorm,
            nn.GroupNorm,
            nn.modules.batchnorm._NormBase,
            nn.RMSNorm,
            nn.CrossMapLRN2d,
        ),
        "norm",
        None,
    ),
    (nn.PReLU, "scale", None),
)
# Classes of other libraries, by name, so that these need not be imported.
NAMED = {"Conv1D": ("weight", 0)}  # transformers: (in, out)
NORMS = re.compile(
    r".*Norm(?:ali[sz]ation)?(?:\d*[dD]?|Gated)"
)  # MyNorm, LayerNorm2d, RMSNormGated
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def roles_of(model: nn.Module) -> dict[str, Told]:
    """Return what the classes say, by the names of the state dict.

    Parameters of modules of an unknown class are left out: their names have to decide. Buffers are
    constants, except the statistics of norms.
    """
    told: dict[str, Told] = {}
    head = _head_of(model)
    for prefix, module in model.named_modules(remove_duplicate=False):  # as a state dict names them
        kind = type(module).__name__
        dot = f"{prefix}." if prefix else ""
        for name, buffer in module.named_buffers(recurse=False):
            if isinstance(buffer, Tensor) and name not in module._non_persistent_buffers_set:
                norm = _class_of(module)[0] == "norm" or name.startswith("running_")
                told[dot + name] = Told(
                    "norm" if norm else "constant", f"its module: buffer of {kind}"
                )
        role, dim = ("head", 1) if module is head else _class_of(module)
        for name, parameter in module.named_parameters(recurse=False):
            if nn.parameter.is_lazy(parameter):
                continue  # no shape yet
            if isinstance(module, nn.MultiheadAttention) and name in ATTENTION:
                told[dot + name] = Told("weight", f"its module: {kind}", input_dim=1)
            elif role is not None and name not in ("weight_g", "weight_u"):
                told[dot + name] = _parameter(name, parameter, role, dim, kind)
    return told


def _head_of(model: nn.Module) -> object:
    """Return the output projection of a model of transformers, or None."""
    output = getattr(model, "get_output_embeddings", None)
    try:
        return output() if callable(output) else None
    except Exception:  # code of another library, or of a model without a head
        return None


def _class_of(module: nn.Module) -> tuple[str | None, int | None]:
    for classes, role, dim in CLASSES:
        if isinstance(module, classes):
            return role, dim
    name = type(module).__name__
    if name in NAMED and hasattr(module, "nf"):
        return NAMED[name]
    if NORMS.fullmatch(name):
        return "norm", None
    return None, None


def _parameter(name: str, parameter: Tensor, role: str, dim: int | None, kind: str) -> Told:
    if role in ("norm", "scale"):
        return Told(role, f"its module: {kind}")
    if "bias" in name:
        return Told("bias", f"its module: {kind}")
    if sum(size != 1 for size in parameter.shape) < 2:
        return Told("other", f"its module: {kind}, fewer than two dimensions other than 1")
    return Told(role, f"its module: {kind}", input_dim=dim)


def model_of_config(
    folder: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Told], str] | None:
    """Return what a folder's `config.json` says about a checkpoint's tensors, and the class's name.

    The model is built by transformers on the meta device: no memory, no network, no code from the
    folder. Any failure means that nothing is known: None is returned.

    Args:
        folder: Where the `config.json` is.
        shapes: Shape of each tensor of the checkpoint, by name; tensors that have another shape in
            the model are left out.
    """
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            fields = json.load(file)
        import transformers

        names = fields.get("architectures") or []
        kind = getattr(transformers, names[0], None) if names else None
        with _quiet(transformers), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            if kind is None:
                model = transformers.AutoModel.from_config(config, trust_remote_code=False)
            elif isinstance(kind, type) and issubclass(kind, nn.Module):
                model = kind(config)
            else:
                raise TypeError(f"{names[0]} is no model")  # a config may name anything
        told = roles_of(model)
        sizes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    except Exception:  # a config of another library, a class with more arguments, …
        return None
    base = str(getattr(model, "base_model_prefix", "") or "")
    matched = {
        name: told[spelling]
        for name, shape in shapes.items()
        for spelling in _spellings(name, base)
        if spelling in told and sizes.get(spelling) == shape
    }
    return (matched, type(model).__name__) if matched else None


def _spellings(name: str, base: str) -> Iterable[str]:
    """Yield the names that a checkpoint's tensor can have in a model; the last that fits decides.

    They are the name with the prefix of the base model, without it, and as it is.
    """
    if base:
        yield f"{base}.{name}"
        if name.startswith(f"{base}."):
            yield name[len(base) + 1 :]
    yield name


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from printing warnings about a config; its errors are still raised."""
    log = getattr(transformers, "logging", None)
    verbosity = log.get_verbosity() if log else None
    if log:
        log.set_verbosity_error()
    try:
        yield
    finally:
        if log:
            log.set_verbosity(verbosity)
