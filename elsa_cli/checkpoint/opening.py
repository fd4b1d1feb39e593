"""Opening a checkpoint of any kind by its path."""

from __future__ import annotations

import os

from elsa_cli.checkpoint.manifest import find_manifest
from elsa_cli.checkpoint.names import is_ours
from elsa_cli.checkpoint.nested.reader import NestedReader
from elsa_cli.checkpoint.packed.reader import PackedReader
from elsa_cli.checkpoint.reader import Reader
from elsa_cli.errors import AlreadyNested, Call, InputError, NotNested, Param, Words
from elsa_cli.storage.container import Container
from elsa_cli.storage.source import ByteSource

__all__ = ["open_any", "open_nested", "open_plain", "require_plain"]


def open_any(path: str | os.PathLike[str] | ByteSource) -> Reader | Container:
    """Open a safetensors file: a Reader if it is nested or packed, else a Container.

    Args:
        path: A path, or bytes that are open already; they are closed with what is returned.

    Raises:
        InputError: It is damaged; see the kinds in `elsa_cli.errors`.
    """
    container = Container(path)
    try:
        names = [t.name for t in container.tensors]
        manifest = find_manifest(container.metadata, names, container.path)
        if manifest is None:
            container.require_whole()
            return container
        return (PackedReader if manifest.packing else NestedReader)(container, manifest)
    except BaseException:
        container.close()
        raise


def open_nested(path: str | os.PathLike[str]) -> Reader:
    """Open a nested or packed checkpoint; closes as a context manager.

    Raises:
        NotNested: A plain checkpoint.
        InputError: It is damaged; see the kinds in `elsa_cli.errors`.
    """
    opened = open_any(path)
    if isinstance(opened, Container):
        opened.close()
        raise NotNested(
            "holds no levels",
            file=opened.path,
            hint=Words("make them with {} first", Call("sparsify")),
        )
    return opened


def open_plain(path: str | os.PathLike[str] | ByteSource) -> Container:
    """Open an ordinary checkpoint; see `open_any`.

    Raises:
        AlreadyNested: A nested or packed one.
        InputError: It is damaged, or uses names that are reserved for the format.
    """
    return require_plain(open_any(path))


def require_plain(opened: Reader | Container) -> Container:
    """Return an open checkpoint if it is an ordinary one; else close it and raise.

    Raises:
        AlreadyNested: It is nested or packed.
        InputError: It uses names that are reserved for the format.
    """
    if isinstance(opened, Reader):
        opened.close()
        raise AlreadyNested(
            f"is a {opened.manifest.kind} checkpoint already",
            file=opened.name,
            hint=Words(
                "take a network out with {} first", Call("extract", Param("level", "dense"))
            ),
        )
    reserved = next((t.name for t in opened.tensors if is_ours(t.name)), None)
    if reserved is not None:
        opened.close()
        raise InputError(
            "the name is reserved for the masks and levels of a nested checkpoint",
            file=opened.path,
            tensor=reserved,
            hint="rename the tensor",
        )
    return opened
