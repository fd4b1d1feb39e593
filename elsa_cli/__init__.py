"""Several sparse networks inside one dense network, shipped as one safetensors checkpoint.

The names below are the public interface; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elsa_cli.core.level import Level
    from elsa_cli.core.work import Progress
    from elsa_cli.errors import ElsaError
    from elsa_cli.operations.chosen import LeftRow, RoleRow
    from elsa_cli.operations.evaluate import EvaluateReport, EvaluateRow, evaluate
    from elsa_cli.operations.extract import Extracted, ExtractReport, extract
    from elsa_cli.operations.freeze_train import FreezeTrainReport, LevelRow, freeze_train
    from elsa_cli.operations.inspect import InspectReport, LevelInfo, TensorDetail, inspect
    from elsa_cli.operations.load import NestedCheckpoint, load_level, open_nested
    from elsa_cli.operations.pack import PackReport, pack, unpack
    from elsa_cli.operations.sparsify import SparsifyReport, TensorRow, sparsify
    from elsa_cli.operations.verify import Problem, VerifyReport, verify
    from elsa_cli.training.events import PhaseReport, Tick, Watcher
    from elsa_cli.training.freeze import FrozenMask
    from elsa_cli.training.options import TrainOptions

    __version__: str

__all__ = [
    "ElsaError",
    "EvaluateReport",
    "EvaluateRow",
    "ExtractReport",
    "Extracted",
    "FreezeTrainReport",
    "FrozenMask",
    "InspectReport",
    "LeftRow",
    "Level",
    "LevelInfo",
    "LevelRow",
    "NestedCheckpoint",
    "PackReport",
    "PhaseReport",
    "Problem",
    "Progress",
    "RoleRow",
    "SparsifyReport",
    "TensorDetail",
    "TensorRow",
    "Tick",
    "TrainOptions",
    "VerifyReport",
    "Watcher",
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
    "EvaluateReport": "elsa_cli.operations.evaluate",
    "EvaluateRow": "elsa_cli.operations.evaluate",
    "ExtractReport": "elsa_cli.operations.extract",
    "Extracted": "elsa_cli.operations.extract",
    "FreezeTrainReport": "elsa_cli.operations.freeze_train",
    "FrozenMask": "elsa_cli.training.freeze",
    "InspectReport": "elsa_cli.operations.inspect",
    "LeftRow": "elsa_cli.operations.chosen",
    "Level": "elsa_cli.core.level",
    "LevelInfo": "elsa_cli.operations.inspect",
    "LevelRow": "elsa_cli.operations.freeze_train",
    "NestedCheckpoint": "elsa_cli.operations.load",
    "PackReport": "elsa_cli.operations.pack",
    "PhaseReport": "elsa_cli.training.events",
    "Problem": "elsa_cli.operations.verify",
    "Progress": "elsa_cli.core.work",
    "RoleRow": "elsa_cli.operations.chosen",
    "SparsifyReport": "elsa_cli.operations.sparsify",
    "TensorDetail": "elsa_cli.operations.inspect",
    "TensorRow": "elsa_cli.operations.sparsify",
    "Tick": "elsa_cli.training.events",
    "TrainOptions": "elsa_cli.training.options",
    "VerifyReport": "elsa_cli.operations.verify",
    "Watcher": "elsa_cli.training.events",
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
    """Import a public name on first use (PEP 562).

    Raises:
        AttributeError: There is no such name.
        MissingPackage: It needs torch, which is not installed.
    """
    if name == "__version__":
        from importlib.metadata import version

        return version("elsa-cli")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ImportError:
        if _HOME[name].startswith(f"{__name__}.training."):
            import_module(f"{__name__}.models")  # which says so where torch is missing
        raise


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted({*__all__, "__version__", *(n for n in globals() if n.startswith("__"))})
