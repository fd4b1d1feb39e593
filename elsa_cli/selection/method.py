"""What a manifest says about how masks were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elsa_cli.selection.eligible import Eligible
from elsa_cli.selection.masks import Rule, Traits

__all__ = ["method_of"]


def method_of(
    name: str, options: Mapping[str, Any], rule: Rule, eligible: Eligible, traits: Traits
) -> dict[str, Any]:
    """Return what a manifest says about how masks were chosen.

    Args:
        name: The sparsifier's name.
        options: Its options.
        rule: Scope, distribution, pattern.
        eligible: The prunable tensors, and what told their roles.
        traits: Their input dimensions. Those other than 1 are recorded, for n:m patterns.
    """
    method: dict[str, Any] = {
        "name": name,
        "options": dict(options),
        "scope": rule.scope,
        "distribution": rule.distribution,
        "group": rule.group,
        "roles": eligible.recorded(),
    }
    if rule.group is not None:
        fits = [t.name for t in eligible.tensors if rule.fits(t, traits)]
        method["group_dims"] = {n: traits.dims[n] for n in fits if traits.dims[n] != 1}
    return method
