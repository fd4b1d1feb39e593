"""Which tensors are prunable: those whose role is weight, and what the user says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from elsa_cli.errors import Call, Param, Quantised, UsageError, Words
from elsa_cli.selection.naming import real_dims
from elsa_cli.selection.roles import ASKED, Classes, Roles, Told, matching, parse_roles, tell
from elsa_cli.selection.rules import VERSION
from elsa_cli.storage.container import Container, TensorInfo

__all__ = ["Eligible", "Wanted", "eligible_tensors"]

# What a glob of `include` can take: matrices that some networks are pruned by. The others are too
# few, or break when they lose a value; one of them has to be named in full.
CHOOSABLE = ("weight", "embedding", "head")


@dataclass(frozen=True)
class Wanted:
    """What the user says of the choice; a pattern is a name written out, or else a glob.

    Attributes:
        include: Patterns of the tensors to prune, instead of all weights.
        exclude: Patterns of tensors to leave dense.
        roles: NAME=ROLE pairs; the last one that matches a name decides.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    roles: Sequence[str] = ()


@dataclass(frozen=True)
class Eligible:
    """What was chosen.

    Attributes:
        tensors: The prunable tensors, in the order of the file.
        roles: What every tensor is.
        taken: Those of the prunable tensors that are no weights by their role, but were included.
    """

    tensors: tuple[TensorInfo, ...]
    roles: Roles
    taken: tuple[str, ...]

    def left(self) -> dict[str, Told]:
        """Return what the other tensors are, by name."""
        prunable = {t.name for t in self.tensors}
        return {n: told for n, told in self.roles.told.items() if n not in prunable}

    def recorded(self) -> dict[str, object]:
        """Return what a manifest says of the roles."""
        return {"rules": VERSION, "told_by": self.roles.source}


def eligible_tensors(
    container: Container, wanted: Wanted | None = None, classes: Classes | None = None
) -> Eligible:
    """Return the tensors that take part.

    Those are the floats whose role is weight. With `include`, they are what its patterns mean: of
    a glob, the weights, and the embeddings and heads of two dimensions or more other than 1; of a
    name written out, any float. `exclude` takes away from either.

    Args:
        container: The file.
        wanted: What the user says.
        classes: What the modules' classes tell of the tensors, if they are known.

    Raises:
        UsageError: A pattern matches no tensor, `include` names one that cannot be pruned, or
            nothing is left.
        Quantised: There are weights that have to be dequantised first.
    """
    wanted = wanted or Wanted()
    included = _meant(container, "include", wanted.include)
    excluded = _meant(container, "exclude", wanted.exclude)
    roles = tell(container.tensors, container, parse_roles(wanted.roles), classes)
    _refuse_quantised(container, roles, wanted, included, excluded)
    chosen, taken = [], []
    for t in container.tensors:
        told = roles.told[t.name]
        named = t.name in wanted.include
        if not t.numel or t.name in excluded:
            continue
        if not named and (t.name not in included if wanted.include else told.role != "weight"):
            continue
        if t.dtype.float_bits is None:
            if named or told.role == "weight":
                raise UsageError(f"{t.dtype.name} weights cannot be pruned", tensor=t.name)
            continue
        if not (named or told.role == "weight" or _choosable(t, told)):
            continue
        if told.role != "weight":
            taken.append(t.name)
        chosen.append(t)
    if not chosen:
        raise _nothing(container, roles, wanted)
    return Eligible(tuple(chosen), roles, tuple(taken))


def _meant(container: Container, parameter: str, patterns: Sequence[str]) -> set[str]:
    """Return the names that any of some patterns means."""
    names = {t.name for t in container.tensors}
    found: set[str] = set()
    for pattern in patterns:
        meant = matching(names, pattern)
        if not meant:
            raise UsageError(
                Words("{} matches no tensor", Param(parameter, [pattern])),
                hint=Words("{} lists the names", Call("inspect")),
            )
        found |= meant
    return found


def _choosable(t: TensorInfo, told: Told) -> bool:
    return told.role in CHOOSABLE and len(real_dims(t.shape)) >= 2


def _refuse_quantised(
    container: Container, roles: Roles, wanted: Wanted, included: set[str], excluded: set[str]
) -> None:
    """Raise Quantised unless what is quantised is left out knowingly."""
    found = roles.quantised
    hint = Words("dequantise it first, or choose other weights with {}", Param("include"))
    for t in container.tensors:
        if t.name in excluded or roles.told[t.name].reason == ASKED:
            continue
        if t.name in found.codes and (not wanted.include or t.name in wanted.include):
            raise Quantised(
                f"is quantised ({found.formats[t.name]}): its codes cannot be ranked or zeroed",
                file=container.path,
                tensor=t.name,
                hint=hint,
            )
        if t.name in found.unfit and (not wanted.include or t.name in included):
            raise Quantised(
                f"is FP8, and the shape of its scale {found.unfit[t.name]} does not fit it",
                file=container.path,
                tensor=t.name,
                hint=hint,
            )


def _nothing(container: Container, roles: Roles, wanted: Wanted) -> Exception:
    """Return the error for a choice that is empty: what there is, and what to do."""
    counts = Counter(told.role for told in roles.told.values())
    there = ", ".join(f"{n} {role}" for role, n in counts.most_common())
    if wanted.include or wanted.exclude:
        return UsageError(
            Words(
                "no tensor is left to prune: none that can be pruned is matched by {} and not "
                "by {}",
                Param("include"),
                Param("exclude"),
            ),
            hint="write a tensor's name in full to prune it whatever it is",
        )
    return UsageError(
        f"no tensor is prunable; by their roles the tensors are: {there or 'none'}",
        file=container.path,
        hint=Words(
            "name some with {}, or give them a role with {}; {} lists names and roles",
            Param("include"),
            Param("roles", ["NAME=weight"]),
            Call("inspect"),
        ),
    )
