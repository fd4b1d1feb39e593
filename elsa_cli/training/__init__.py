"""Training level by level, sparsest first, with everything that is done frozen bit for bit.

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
