"""Recipes: a recipe is a Python file that defines the model, the data and the loss.

The contract is in docs/recipes.md.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elsa_cli.core.settings import Setting, read_settings, settings_of
from elsa_cli.errors import ElsaError, Param, RecipeError, UsageError, Words
from elsa_cli.models.distributed import is_peer_error

__all__ = ["SIGNATURES", "Recipe"]

# Every function of a recipe: how it is called, and whether it is required.
SIGNATURES = {
    "build_model": ("build_model() -> torch.nn.Module", True),
    "train_data": ("train_data() -> an iterable of batches", True),
    "loss": ("loss(model, batch) -> a tensor of one number", True),
    "evaluate": ("evaluate(model) -> a number, or a dict of them", False),
    "optimizer": ("optimizer(params) -> torch.optim.Optimizer", False),
    "schedule": ("schedule(optimizer, steps) -> a scheduler with step()", False),
}
SHARE = ("rank", "world")  # keyword parameters of train_data that the tool sets if it has them


class Recipe:
    """A recipe, loaded and checked.

    Args:
        path: The Python file.
        settings: Values for the recipe's settings, as the user wrote them.
        parameter: The parameter of the public function that gives them, for errors.

    Attributes:
        path: The file.
        settings: The value of every setting.
        digest: SHA-256 of the file.

    Raises:
        UsageError: The file does not exist, or has no such setting.
        RecipeError: It cannot be imported, or a function is missing or has another signature.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, str] | None = None,
        parameter: str = "settings",
    ) -> None:
        """Import the file and check its functions."""
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise UsageError("there is no such recipe", file=self.path, hint="name a Python file")
        module = self._import()
        self._functions = {
            name: function
            for name, (_, required) in SIGNATURES.items()
            if (function := self._find(module, name, required)) is not None
        }
        known = self._settings()
        chosen = read_settings(known, settings or {}, f"recipe {self.path}", parameter)
        self.settings = chosen
        self._keywords = {
            name: {key: chosen[key] for key in self._taken(function) if key in chosen}
            for name, function in self._functions.items()
        }

    def _import(self) -> types.ModuleType:
        folder = os.path.dirname(os.path.abspath(self.path))
        if folder not in sys.path:
            sys.path.insert(0, folder)  # as for a script, so that it finds files beside it
        module = types.ModuleType(os.path.splitext(os.path.basename(self.path))[0])
        module.__file__ = os.path.abspath(self.path)
        # Worker processes of a DataLoader unpickle what the recipe defines by this name.
        sys.modules[module.__name__] = module
        try:
            with open(self.path, "rb") as file:
                text = file.read()
            self.digest = hashlib.sha256(text).hexdigest()
            exec(compile(text, module.__file__, "exec"), module.__dict__)
        except Exception as error:
            raise self._blame("import", error) from error
        return module

    def _find(
        self, module: types.ModuleType, name: str, required: bool
    ) -> Callable[..., Any] | None:
        function = getattr(module, name, None)
        signature = SIGNATURES[name][0]
        if function is None:
            if required:
                raise RecipeError(
                    f"has no function {name}", file=self.path, hint=f"define {signature}"
                )
            return None
        if not callable(function):
            raise RecipeError(
                f"{name} is {_kind(function)}, which cannot be called",
                file=self.path,
                hint=f"define {signature}",
            )
        wanted = signature[signature.index("(") + 1 : signature.index(")")]
        names = [word.strip() for word in wanted.split(",") if word.strip()]
        try:
            inspect.signature(function).bind(*names)
        except TypeError:
            defined = f"{name}{inspect.signature(function)}"
            raise RecipeError(
                f"{defined} cannot be called as {name}({wanted})",
                file=self.path,
                hint=f"define {signature}, further parameters keyword-only with a default",
            ) from None
        except ValueError:  # a built-in callable without a signature
            pass
        return function  # type: ignore[no-any-return]

    def _taken(self, function: Callable[..., Any]) -> dict[str, Setting]:
        try:
            return {k: s for k, s in settings_of(function).items() if k not in SHARE}
        except TypeError as error:
            raise RecipeError(str(error)) from error

    def _settings(self) -> dict[str, Setting]:
        """Return all settings; a setting that several functions have must have one default."""
        known: dict[str, Setting] = {}
        for name, function in self._functions.items():
            for key, setting in self._taken(function).items():
                if known.setdefault(key, setting) != setting:
                    raise RecipeError(
                        f"setting {key} of {name} has another type or default elsewhere",
                        file=self.path,
                        hint="use one constant for both",
                    )
        return known

    def has(self, name: str) -> bool:
        """Tell whether the recipe defines an optional function."""
        return name in self._functions

    def require(self, name: str) -> None:
        """Raise RecipeError unless the recipe defines an optional function."""
        if name not in self._functions:
            raise RecipeError(
                f"has no function {name}", file=self.path, hint=f"define {SIGNATURES[name][0]}"
            )

    def _call(self, name: str, *arguments: Any, **more: Any) -> Any:
        try:
            return self._functions[name](*arguments, **self._keywords[name], **more)
        except Exception as error:
            raise self.blame(name, error) from error

    def blame(self, name: str, error: Exception) -> ElsaError:
        """Return what to raise for an error inside a function of the recipe."""
        if isinstance(error, ElsaError):
            return error
        lost = is_peer_error(error)
        if lost is not None:
            return lost
        return self._blame(name, error)

    def _blame(self, name: str, error: Exception) -> RecipeError:
        """Put an exception into one line: file and line, kind, text."""
        file = os.path.abspath(self.path)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        line = lines[-1] if lines else None
        if isinstance(error, SyntaxError) and error.filename == file:
            line = error.lineno
        where = self.path if line is None else f"{self.path}:{line}"
        text = str(error)
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.split(".")[0]
            return RecipeError(
                f"needs the package {package}, which is not installed",
                file=where,
                hint=f"install it, as with `pip install {package}`",
            )
        if isinstance(error, torch.OutOfMemoryError):
            text = text.split(". ")[0]
            hint = {
                "loss": Words(
                    "use smaller batches and {}, or {}",
                    Param("accumulate"),
                    Param("precision", "bf16"),
                ),
                "evaluate": "use smaller batches",
            }.get(name)
            return RecipeError(f"{name}: {text}", file=where, hint=hint)
        return RecipeError(f"{name}: {type(error).__name__}: {text}", file=where)

    def build_model(self) -> nn.Module:
        """Return a new model."""
        model = self._call("build_model")
        if not isinstance(model, nn.Module):
            raise RecipeError(f"build_model gave {_kind(model)}, not a Module", file=self.path)
        return model

    def train_data(self, rank: int, world: int) -> tuple[Iterable[Any], bool]:
        """Return the batches of an epoch, and whether they are the share of this process alone."""
        parameters = inspect.signature(self._functions["train_data"]).parameters
        shares = all(name in parameters for name in SHARE)
        data = self._call("train_data", **({"rank": rank, "world": world} if shares else {}))
        if not isinstance(data, Iterable):
            raise RecipeError(
                f"train_data gave {_kind(data)}, which cannot be iterated", file=self.path
            )
        return data, shares

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch, 0-d."""
        loss = self._call("loss", model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise RecipeError(
                f"loss gave {_kind(loss)}, not a tensor of one number", file=self.path
            )
        return loss.reshape(())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of a model, by name; the model is in evaluation mode meanwhile."""
        was = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                metrics = self._call("evaluate", model)
        finally:
            for module, training in was.items():
                module.training = training
        try:
            if isinstance(metrics, Mapping):
                return {str(key): float(value) for key, value in metrics.items()}
            return {"metric": float(metrics)}
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"evaluate gave {_kind(metrics)}, not a number or a dict of numbers", file=self.path
            ) from error

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the recipe's optimizer for some parameters."""
        optimizer = self._call("optimizer", parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise RecipeError(f"optimizer gave {_kind(optimizer)}", file=self.path)
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        """Return the recipe's learning rate scheduler, whose step() is called after every step."""
        schedule = self._call("schedule", optimizer, steps)
        if not callable(getattr(schedule, "step", None)):
            raise RecipeError(
                f"schedule gave {_kind(schedule)}, not a scheduler with step()", file=self.path
            )
        return schedule


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}" if value is not None else "None"
