"""Where the classes of a checkpoint's modules can be learned: a recipe, or a config beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping

from elsa_cli.errors import Misfit
from elsa_cli.selection.roles import Classes
from elsa_cli.storage.container import Container

__all__ = ["classes_beside"]


def classes_beside(
    container: Container,
    recipe: str | os.PathLike[str] | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    config: bool = True,
) -> Classes | None:
    """Return what the modules' classes tell of a checkpoint, or None where they are not known.

    What the recipe or transformers prints on the way goes to standard error: the result alone
    belongs on standard output.

    Args:
        container: The checkpoint.
        recipe: A recipe; its model is built.
        settings: Settings of the recipe, as text.
        config: Look for a `config.json` beside the checkpoint. It is used where transformers is
            installed, and never needed.

    Raises:
        UsageError: The recipe does not exist, or has no such setting.
        RecipeError: It cannot be imported, or its model cannot be built.
        Misfit: Its model has no tensor of the checkpoint.
    """
    if recipe is not None:
        from elsa_cli.models.architecture import roles_of
        from elsa_cli.models.recipe import Recipe

        with contextlib.redirect_stdout(sys.stderr):
            model = Recipe(recipe, settings, "recipe_settings").build_model()
        names = model.state_dict().keys()
        if not any(t.name in names for t in container.tensors):
            raise Misfit(
                "does not fit the recipe's model: no tensor is in both",
                file=container.path,
                hint="build_model() must give the tensors the checkpoint's names",
            )
        return Classes("the recipe's model", roles_of(model))
    folder = os.path.dirname(os.path.abspath(container.path))
    if not config or not os.path.isfile(os.path.join(folder, "config.json")):
        return None
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return None
    from elsa_cli.models.architecture import model_of_config

    shapes = {t.name: t.shape for t in container.tensors}
    with contextlib.redirect_stdout(sys.stderr):
        found = model_of_config(folder, shapes)
    return None if found is None else Classes(f"the classes of {found[1]}", found[0])
