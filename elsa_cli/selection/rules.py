"""Roles, and what a rule is that tells a tensor's role by its name; `families` has the table.

A pattern is matched against one whole segment, in the form of `naming.canonical` (lower case, no
numbers): `leaf` is the parameter's own name, `module` what owns it, `above` any segment higher up,
`parent` the one right above the module. A change of this table that moves a tensor from one role to
another is a new VERSION, which every manifest records.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["ROLES", "VERSION", "Rule", "Test"]

VERSION = 2  # 1: any float of two dimensions but for ten globs, in format files before roles

# Role and what it is, for help texts and docs. Only a weight is prunable.
ROLES = {
    "weight": "a matrix or kernel of a linear or convolutional layer",
    "embedding": "rows that are looked up, and codebooks",
    "head": "the projection to a vocabulary",
    "router": "scores of experts",
    "norm": "scale, shift and statistics of a normalisation",
    "bias": "what a layer adds",
    "position": "position or token parameters",
    "constant": "a buffer that is not trained",
    "codes": "codes of quantised weights, or what belongs to them",
    "scale": "factors of quantised weights, and learned scales",
    "other": "anything else",
}


class Test(Enum):
    """What a rule may ask beyond the name; `selection.roles` answers."""

    MATRIX = "exactly two dimensions, as an embedding has"
    VECTOR = "fewer than two dimensions other than 1"
    NO_BIAS = "no bias beside it: an embedding never has one, a linear layer may"
    EXPERTS = "experts beside its module"
    VOCABULARY = "as many rows as an embedding, and more rows than columns"
    TO_VOCABULARY = "as many columns as an embedding has rows, and more columns than rows"
    TALL = "more rows than columns"
    VAST = "50,000 rows or more, 256 columns or more, and sixteen times as many rows as columns"
    NEAR_ROOT = "one segment above its module at most"


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        role: What a tensor is that fits.
        family: For which networks or libraries the rule is there.
        leaf: Pattern of the parameter's own name; empty for any.
        module: Pattern of the module that owns it; empty for any.
        parent: Pattern of the segment right above the module; empty for any.
        above: Pattern that some segment above the module has; empty for any.
        tests: What the shape or its companions have to be, from `Test`.
    """

    role: str
    family: str
    leaf: str = ""
    module: str = ""
    parent: str = ""
    above: str = ""
    tests: tuple[Test, ...] = ()
    _compiled: dict[str, re.Pattern[str]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Compile the patterns once."""
        for part in ("leaf", "module", "parent", "above"):
            if getattr(self, part):
                self._compiled[part] = re.compile(getattr(self, part))

    def names(self, leaf: str, module: str, above: tuple[str, ...]) -> bool:
        """Tell whether the segments of a name fit; the tests are another matter."""
        found = self._compiled
        return (
            ("leaf" not in found or bool(found["leaf"].fullmatch(leaf)))
            and ("module" not in found or bool(found["module"].fullmatch(module)))
            and ("parent" not in found or bool(above and found["parent"].fullmatch(above[0])))
            and ("above" not in found or any(found["above"].fullmatch(a) for a in above))
        )
