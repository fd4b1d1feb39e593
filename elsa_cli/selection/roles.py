"""What each tensor of a checkpoint is: its role, and the reason for it.

The first of these that knows decides: what the user says, what stands beside it if it is quantised,
the class of its module, its name and shape, and for what these take for a weight, its values. Only
weights are prunable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from functools import cached_property, lru_cache

from elsa_cli.errors import Call, UsageError, Words
from elsa_cli.selection.families import RULES
from elsa_cli.selection.naming import Name, Siblings, parent, real_dims
from elsa_cli.selection.quantised import Found, find_quantised
from elsa_cli.selection.rules import ROLES, Rule, Test
from elsa_cli.selection.values import computed, equal
from elsa_cli.storage.container import Container, TensorSpec

__all__ = ["ASKED", "Classes", "Roles", "Told", "by_name", "matching", "parse_roles", "tell"]

ASKED = "as it was asked for"  # the reason for a role that the user gave
NAMED_FROM = 4096  # elements; below, a weight's name is believed without a look at its values


@dataclass(frozen=True)
class Told:
    """What a tensor is.

    Attributes:
        role: A key of `rules.ROLES`.
        reason: What told it, in a few words.
        known: Whether a rule knew it; False for a weight that is one by its shape alone.
        input_dim: The dimension along which a weight's inputs lie, if its module's class told it.
    """

    role: str
    reason: str
    known: bool = True
    input_dim: int | None = None


@dataclass(frozen=True)
class Classes:
    """What the modules' classes tell of tensors, where they are known.

    Attributes:
        source: Where they are known from, such as `the recipe's model`.
        told: What each tensor is, by name; not every tensor has to be there.
    """

    source: str
    told: Mapping[str, Told]


@dataclass(frozen=True)
class Roles:
    """What every tensor of a file is.

    Attributes:
        told: By name, in the order of the file.
        quantised: Codes and scales.
        siblings: The tensors by name and module.
        source: What told the roles: `names`, or where the classes of modules were known from.
    """

    told: Mapping[str, Told]
    quantised: Found
    siblings: Siblings
    source: str = field(default="names")

    @cached_property
    def routers(self) -> list[str]:
        """The names of all routers."""
        return [name for name, told in self.told.items() if told.role == "router"]


def matching(names: Collection[str], pattern: str) -> set[str]:
    """Return the names that a pattern means: the one that is written so, or else as a glob.

    A name may itself hold `[`, `*` or `?`: where there is `a[0]`, the pattern `a[0]` means it
    alone, and not `a0`.
    """
    if pattern in names:
        return {pattern}
    fits = re.compile(translate(pattern)).match
    return {name for name in names if fits(name)}


def parse_roles(pairs: Iterable[str]) -> list[tuple[str, str]]:
    """Read NAME=ROLE pairs; a name may hold `=` itself, a role never does.

    Raises:
        UsageError: Not such a pair, or there is no such role.
    """
    parsed = []
    for pair in pairs:
        pattern, equals, role = pair.rpartition("=")
        if not equals or not pattern:
            raise UsageError(f"{pair!r} is not NAME=ROLE", hint="such as 'decoder.*=head'")
        if role not in ROLES:
            raise UsageError(f"there is no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
        parsed.append((pattern, role))
    return parsed


def tell(
    tensors: Sequence[TensorSpec],
    container: Container | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    classes: Classes | None = None,
) -> Roles:
    """Tell the role of every tensor.

    Args:
        tensors: All tensors of a network.
        container: The file that has them, whose values may be looked at; None for names alone.
        overrides: Pairs of a pattern and a role; the last one that matches a name decides.
        classes: What the modules' classes tell, if they are known.

    Raises:
        UsageError: A pattern matches no tensor.
    """
    siblings = Siblings(tensors)
    asked: dict[str, str] = {}
    for pattern, role in overrides:
        meant = matching(siblings.by_name.keys(), pattern)
        if not meant:
            raise UsageError(
                f"the role of {pattern!r} is given, which matches no tensor",
                hint=Words("{} lists the names", Call("inspect")),
            )
        asked |= dict.fromkeys(meant, role)
    found = find_quantised(siblings)
    scales = {scale.name: name for name, (scale, _) in found.scales.items()}
    by_class = classes.told if classes else {}
    named = by_name(siblings, {n for n, known in by_class.items() if known.role == "embedding"})
    embeddings: dict[tuple[int, ...], list[TensorSpec]] = {}
    for t in tensors:
        if named[t.name].role == "embedding":
            embeddings.setdefault(t.shape, []).append(t)
    told: dict[str, Told] = {}
    for t in tensors:
        if t.name in asked:
            told[t.name] = Told(asked[t.name], ASKED)
        elif t.name in found.formats:
            role = "codes" if t.name in found.codes or named[t.name].role != "scale" else "scale"
            told[t.name] = Told(role, f"quantised ({found.formats[t.name]})")
        elif t.name in scales:
            told[t.name] = Told("scale", f"scale of {scales[t.name]}")
        elif t.dtype.float_bits is None:
            role = named[t.name].role
            role = "constant" if role in ("weight", "head", "router", "other") else role
            told[t.name] = Told(role, f"its dtype: {t.dtype.name} cannot be ranked")
        elif t.name in by_class:
            told[t.name] = _by_class(by_class[t.name], named[t.name])
        else:
            told[t.name] = named[t.name]
            if container is not None:
                told[t.name] = _by_values(container, t, named[t.name], embeddings.get(t.shape, ()))
    return Roles(told, found, siblings, classes.source if classes else "names")


def _by_class(told: Told, named: Told) -> Told:
    """Return what the class tells, or the name where that tells the same more exactly.

    A head and a router are linear layers by their class, a table of positions an embedding.
    """
    if told.role == "weight" and named.role in ("head", "router"):
        return replace(named, input_dim=told.input_dim)
    if told.role == "embedding" and named.role == "position":
        return named
    return told


def by_name(siblings: Siblings, embeddings: Collection[str] = ()) -> dict[str, Told]:
    """Tell every tensor's role by its name, its shape and what stands beside it.

    Args:
        siblings: The tensors.
        embeddings: Names of tensors that are known to be embeddings.
    """
    told = {
        name: _by_rules(t, siblings.names[name], siblings, frozenset())
        for name, t in siblings.by_name.items()
    }
    # A head has as many rows as an embedding, so these have to be known first.
    rows = frozenset(
        t.shape[0]
        for name, t in siblings.by_name.items()
        if (told[name].role == "embedding" or name in embeddings) and len(t.shape) == 2
    )
    if rows:
        for name, t in siblings.by_name.items():
            if len(t.shape) == 2 and rows.intersection(t.shape):
                told[name] = _by_rules(t, siblings.names[name], siblings, rows)
    return told


def _by_rules(t: TensorSpec, name: Name, siblings: Siblings, rows: frozenset[int]) -> Told:
    matrix = len(real_dims(t.shape)) >= 2
    for rule in _candidates(name.leaf, name.module, name.above):
        if all(_holds(test, t, name, siblings, rows) for test in rule.tests):
            if rule.role == "weight" and not matrix:
                break
            return Told(rule.role, f"its name: {rule.family}")
    if not matrix:
        return Told("other", "its shape: fewer than two dimensions other than 1")
    return Told("weight", "its shape: no rule knows its name", known=False)


@lru_cache(maxsize=1 << 14)
def _candidates(leaf: str, module: str, above: tuple[str, ...]) -> tuple[Rule, ...]:
    """Return the rules that a name fits: layers of one kind have one answer."""
    return tuple(rule for rule in RULES if rule.names(leaf, module, above))


def _holds(test: Test, t: TensorSpec, name: Name, siblings: Siblings, rows: frozenset[int]) -> bool:
    first, last = (t.shape[0], t.shape[-1]) if t.shape else (1, 1)
    match test:
        case Test.MATRIX:
            return len(t.shape) == 2
        case Test.VECTOR:
            return len(real_dims(t.shape)) < 2
        case Test.NO_BIAS:
            return siblings.bias_of(t) is None
        case Test.EXPERTS:
            return _has_experts(name, siblings)
        case Test.VOCABULARY:
            return first in rows and first > last
        case Test.TO_VOCABULARY:
            return len(t.shape) == 2 and last in rows and last > first
        case Test.TALL:
            return first > last
        case Test.VAST:
            return last >= 256 and first >= max(50_000, 16 * last)
        case Test.NEAR_ROOT:
            return len(name.above) <= 1


def _has_experts(name: Name, siblings: Siblings) -> bool:
    """Tell whether experts stand beside the module, or beside the one that holds it."""
    owner = name.owner
    for _ in range(2):
        owner = parent(owner)
        if owner in siblings.with_experts:
            return True
    return any(part in ("moe", "block_sparse_moe", "sparse_moe") for part in name.above[:2])


def _by_values(
    container: Container, t: TensorSpec, told: Told, embeddings: Sequence[TensorSpec]
) -> Told:
    """Look at the values of what its name takes for a weight, or for a bias of two dimensions."""
    if told.role not in ("weight", "bias") or len(real_dims(t.shape)) < 2:
        return told
    named = told.role == "weight" and told.known
    if named and t.numel < NAMED_FROM:
        return told
    reason = computed(container, t, named=named)
    if reason is not None:
        return Told("constant", f"its values: {reason}")
    if told.role == "weight":
        for other in embeddings:
            if equal(container, t, other):
                return Told("head", f"its values: equal to the embedding {other.name}")
    return told
