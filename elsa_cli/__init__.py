"""Several sparse networks inside one dense network, shipped as one safetensors checkpoint.

The names below are the public interface; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elsa_cli.errors import ElsaError
    from elsa_cli.operations.evaluate import evaluate
    from elsa_cli.operations.extract import extract
    from elsa_cli.operations.freeze_train import freeze_train
    from elsa_cli.operations.inspect import inspect
    from elsa_cli.operations.load import load_level, open_nested
    from elsa_cli.operations.pack import pack, unpack
    from elsa_cli.operations.sparsify import sparsify
    from elsa_cli.operations.verify import verify
    from elsa_cli.training.freeze import FrozenMask
    from elsa_cli.training.options import TrainOptions

__all__ = [
    "ElsaError",
    "FrozenMask",
    "TrainOptions",
    "evaluate",
    "extract",
    "freeze_train",
    "inspect",
    "load_level",
    "open_nested",
    "pack",
    "sparsify",
    "unpack",
    "verify",
]

_HOME = {
    "ElsaError": "elsa_cli.errors",
    "FrozenMask": "elsa_cli.training.freeze",
    "TrainOptions": "elsa_cli.training.options",
    "evaluate": "elsa_cli.operations.evaluate",
    "extract": "elsa_cli.operations.extract",
    "freeze_train": "elsa_cli.operations.freeze_train",
    "inspect": "elsa_cli.operations.inspect",
    "load_level": "elsa_cli.operations.load",
    "open_nested": "elsa_cli.operations.load",
    "pack": "elsa_cli.operations.pack",
    "sparsify": "elsa_cli.operations.sparsify",
    "unpack": "elsa_cli.operations.pack",
    "verify": "elsa_cli.operations.verify",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
