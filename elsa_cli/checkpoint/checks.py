"""Whether masks nest, and whether they keep what a manifest says: one answer for all who ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elsa_cli.checkpoint.manifest import Manifest
from elsa_cli.core.batch import Batch, Integers
from elsa_cli.core.bits import Bytes
from elsa_cli.core.kernels.coding_masks import NOTHING, mask_kernels
from elsa_cli.errors import BadManifest

__all__ = ["count_masks", "require_counts", "require_nested"]

HINT = "the file is damaged; make or fetch it again"


def count_masks(batch: Batch, masks: Sequence[Bytes]) -> tuple[Integers, Integers]:
    """Count the weights of some masks, sparsest first.

    Args:
        batch: The weights.
        masks: The packed bits of each level, as a `Piece` has them.

    Returns:
        Two arrays (tensors, levels): the weights that a level keeps, and how many of those of the
        next sparser level it does not keep, 0 where masks nest.
    """
    kernels = mask_kernels(batch.nbytes)
    ends = batch.mask_places()[1:]
    kept: Integers = np.zeros((len(masks), len(ends)), np.int64)
    strays = np.zeros_like(kept)
    sparser = NOTHING
    for level_index, denser in enumerate(masks):
        if kernels.tally(sparser, denser, ends, kept[level_index]) >= 0:
            strays[level_index] = batch.mask_sums(sparser & ~denser)
        sparser = denser
    return kept.T, strays.T


def require_nested(manifest: Manifest, file: str, batch: Batch, strays: Integers) -> None:
    """Raise BadManifest if `strays`, from `count_masks`, are any."""
    if not strays.any():
        return
    tensor, level = np.argwhere(strays)[0].tolist()
    levels = manifest.levels
    raise BadManifest(
        f"the mask of {levels[level - 1]} is not inside that of {levels[level]}",
        file=file,
        tensor=manifest.tensors[batch.first + tensor].name,
        hint=HINT,
    )


def require_counts(manifest: Manifest, file: str, first: int, counted: Integers) -> None:
    """Raise BadManifest if tensors do not keep as many weights as the manifest says.

    Args:
        manifest: Tensors without counts are passed over.
        file: For the message.
        first: Position of the first tensor in the manifest.
        counted: The weights that are kept, (tensors, levels).
    """
    entries = manifest.tensors[first : first + len(counted)]
    for entry, kept in zip(entries, counted.tolist(), strict=True):
        if entry.kept and tuple(kept) != entry.kept:
            raise BadManifest(
                f"the masks keep {kept}, the manifest says {list(entry.kept)}",
                file=file,
                tensor=entry.name,
                hint=HINT,
            )
