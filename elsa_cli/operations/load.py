"""Reading levels into memory, for programs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elsa_cli.checkpoint.opening import open_nested as open_reader
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.core.batch import Batch
from elsa_cli.core.bits import Bools, unpack_bits
from elsa_cli.core.closing import Closing
from elsa_cli.core.dtypes import DType
from elsa_cli.core.level import Level, parse_level
from elsa_cli.core.work import Scratch, run
from elsa_cli.errors import ElsaError, UsageError

__all__ = ["NestedCheckpoint", "load_level", "open_nested"]

_NUMPY = {
    "BOOL": "?",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
    **{f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)},
}


class NestedCheckpoint(Closing):
    """An open nested or packed checkpoint; reads what is asked for, when it is asked for.

    Args:
        source: Its path; or a reader that is open already, which is closed with this object.

    Raises:
        InputError: It cannot be used.
    """

    def __init__(self, source: str | os.PathLike[str] | Reader) -> None:
        """Open the file and check its header."""
        self._reader = source if isinstance(source, Reader) else open_reader(source)
        self._entry = {t.name: at for at, t in enumerate(self._reader.manifest.tensors)}

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels that can be read, sparsest first; dense is the last unless the file is cut."""
        return self._reader.available

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors of the network."""
        return tuple(self._reader.tensors)

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the prunable tensors."""
        return tuple(self._entry)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the checkpoint, without what belongs to the format."""
        return dict(self._reader.metadata)

    def mask(self, level: str | float | Level, name: str) -> Bools:
        """Return the mask of a prunable tensor at a stored level: bool in the tensor's shape.

        Raises:
            LevelNotStored: There is no such level.
            UsageError: There is no such prunable tensor.
        """
        wanted = self.require(level)
        if name not in self._entry:
            raise UsageError("is not a prunable tensor", file=self._reader.name, tensor=name)
        entry = self._reader.manifest.tensors[self._entry[name]]
        mask: Bools = np.ones(entry.numel, np.bool_)
        if wanted in self._reader.manifest.levels:
            at = self._reader.manifest.levels.index(wanted)
            whole = Batch(self._entry[name], [entry.numel], [entry.dtype])
            for piece, packed in self._reader.masks(whole):
                bits = unpack_bits(packed[at], piece.count)
                mask[piece.start : piece.start + piece.count] = bits
        return mask.reshape(entry.shape)

    def load(
        self, level: str | float | Level, *, framework: str = "torch", threads: int = 1
    ) -> dict[str, Any]:
        """Return the state dict of a level.

        Args:
            level: A stored level or `dense`.
            framework: `torch` for tensors, `numpy` for arrays. Dtypes that numpy lacks (BF16, the
                8-bit floats) come as unsigned integers of the same width with the raw bits.
            threads: Number of threads.

        Raises:
            LevelNotStored: There is no such level.
            UsageError: There is no such framework, or it lacks one of the dtypes.
            ElsaError: torch is not installed.
        """
        wanted = self.require(level)
        if framework not in ("torch", "numpy"):
            raise UsageError(f"there is no framework {framework!r}", hint="use torch or numpy")
        reader = self._reader
        buffers = {t.name: np.empty(t.nbytes, np.uint8) for t in reader.tensors.values()}
        for spec, (source, offset, _) in reader.verbatim(wanted):
            source.read_into(offset, buffers[spec.name].data)
        for name, data in reader.per_level(wanted).items():
            buffers[name][:] = np.frombuffer(data, np.uint8)
        pruned = [buffers[t.name].data for t in reader.manifest.tensors]

        def work(batch: Batch, scratch: Scratch) -> None:
            for piece, data in reader.network(batch, wanted, scratch):
                done, offset = 0, piece.start * piece.dtypes[0].itemsize
                for buffer, size in zip(pruned[piece.rows], piece.byte_sizes.tolist(), strict=True):
                    buffer[offset : offset + size] = data[done : done + size]
                    done += size

        run(reader.network_jobs(wanted), work, Scratch, threads)
        shape = _to_torch if framework == "torch" else _to_numpy
        return {t.name: shape(buffers[t.name], t.dtype, t.shape) for t in reader.tensors.values()}

    def require(self, level: str | float | Level) -> Level:
        """Return the stored level that is meant.

        Raises:
            LevelNotStored: There is no such level.
            CutFile: The packed file ends before it.
        """
        parsed = level if isinstance(level, Level) else parse_level(str(level))
        return self._reader.require(parsed)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def open_nested(path: str | os.PathLike[str]) -> NestedCheckpoint:
    """Open a nested or packed checkpoint; use it in a `with` statement.

    Raises:
        InputError: It cannot be used.
    """
    return NestedCheckpoint(path)


def load_level(
    path: str | os.PathLike[str],
    level: str | float | Level,
    *,
    framework: str = "torch",
    threads: int = 1,
) -> dict[str, Any]:
    """Return the state dict of one level of a nested or packed checkpoint, without writing a file.

    Args:
        path: The file.
        level: A stored level or `dense`.
        framework: `torch` or `numpy`; see `NestedCheckpoint.load`.
        threads: Number of threads.

    Raises:
        LevelNotStored: There is no such level.
        InputError: The file cannot be used.
    """
    with open_nested(path) as checkpoint:
        return checkpoint.load(level, framework=framework, threads=threads)


def _to_numpy(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype.bits % 8:
        return data
    return data.view(_NUMPY.get(dtype.name, dtype.unsigned)).reshape(shape)


def _to_torch(data: NDArray[np.uint8], dtype: DType, shape: tuple[int, ...]) -> Any:
    try:
        from elsa_cli.models.tensors import from_bytes
    except ElsaError as error:
        hint = "pip install 'elsa-cli[train]', or load with framework='numpy'"
        raise ElsaError("torch is not installed", hint=hint) from error
    return from_bytes(data, dtype, shape)
