"""A user's model and data, whoever asks: recipes, networks, tensors, devices, processes.

Needs torch, and says so in one line where it is missing.
"""

from __future__ import annotations

from elsa_cli.errors import ElsaError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ElsaError(
        "training needs torch, which is not installed", hint="pip install 'elsa-cli[train]'"
    ) from error
