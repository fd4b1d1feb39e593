"""Kernels: functions in plain Python that run as machine code.

The first call on a machine compiles, which takes seconds and is done by numba (`building.py`). The
machine code is kept (`caching.py`), and later processes load it by llvmlite alone and call it by
ctypes: importing numba would take longer than what there is to do.

A kernel is given C-contiguous arrays of one or two dimensions and integers, and returns an integer
or nothing; more than one result goes to an array. It runs without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import functools
import json
import platform
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from elsa_cli.core.kernels.caching import HERE, keep, kept, name_of

__all__ = ["inlined", "kernel", "vectored", "works"]

Function = TypeVar("Function", bound=Callable[..., Any])
Native = Callable[..., int]

_lock = threading.RLock()
_engines: list[Any] = []  # they own the code, which is never given back


def kernel(function: Function) -> Function:
    """Make a kernel of a function: compiled for each set of dtypes that it is called with."""
    return cast(Function, functools.wraps(function)(_Kernel(function)))


def inlined(function: Function) -> Function:
    """Let kernels of the same file call a function."""
    function.__dict__["inlined"] = function
    return function


def vectored(function: Function) -> Function:
    """Let kernels call one of the operations that `intrinsics.py` knows by name."""
    function.__dict__["vectored"] = function.__name__
    return function


def works() -> bool:
    """Tell whether a small kernel can be compiled or loaded here and gives what it should."""
    return _probe(np.array([5, 9], np.uint8)) == 12


class _Kernel:
    """What a kernel's name stands for: it is called as the function is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._natives: dict[tuple[Any, ...], Native] = {}

    def __call__(self, *args: Any) -> int | None:
        key = tuple(
            (a.dtype, a.ndim) if isinstance(a, np.ndarray) else isinstance(a, np.uint64)
            for a in args
        )
        native = self._natives.get(key)
        if native is None:
            with _lock:
                native = self._natives.get(key) or self._native([_kind(a) for a in args])
                self._natives[key] = native
        flat: list[Any] = []
        for a in args:
            if isinstance(a, np.ndarray):
                if not a.flags.c_contiguous:
                    raise TypeError("a kernel takes contiguous arrays alone")
                flat += (None, None, a.size, a.itemsize, a.ctypes.data, *a.shape, *a.strides)
            else:
                flat.append(int(a))
        return native(*flat)

    def _native(self, kinds: list[str]) -> Native:
        """Load the machine code for some kinds of arguments, or make it."""
        name = _name(self._function, kinds)
        for data in kept(name):
            try:
                return _load(data, kinds)
            except Exception:  # a copy that cannot be used is as good as none
                continue
        from elsa_cli.core.kernels.building import build

        code, symbol, returns = build(self._function, kinds)
        module = llvm.parse_assembly(code)
        machine = _machine().emit_object(module)
        head = json.dumps([symbol, returns]).encode()
        data = len(head).to_bytes(4, "little") + head + machine
        keep(name, data)
        return _load(data, kinds)


def _kind(argument: Any) -> str:
    if isinstance(argument, np.ndarray):
        return f"{argument.dtype.str[1:]} {argument.ndim}"
    return "u" if isinstance(argument, np.uint64) else "i"


def _load(data: bytes, kinds: list[str]) -> Native:
    """Return a function that runs machine code, given arrays and integers taken apart."""
    size = int.from_bytes(data[:4], "little")
    symbol, returns = json.loads(data[4 : 4 + size])
    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly(""), _machine(), use_lmm=platform.machine() in ("aarch64", "arm64")
    )
    engine.add_object_file(llvm.ObjectFileRef.from_data(data[4 + size :]))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    assert address
    _engines.append(engine)
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    parts: list[Any] = [pointer, pointer]  # the result, an exception
    for kind in kinds:
        if kind in ("i", "u"):
            parts.append(word if kind == "i" else ctypes.c_uint64)
        else:
            parts += (pointer, pointer, word, word, pointer, *(word,) * (2 * int(kind[-1])))
    native = ctypes.CFUNCTYPE(ctypes.c_int32, *parts)(address)

    def run(*args: Any) -> int | None:
        result, fault = word(), pointer()
        status = native(ctypes.addressof(result), ctypes.addressof(fault), *args)
        assert status == 0 or (status == -2 and returns == "none"), status  # -2 is None
        return None if returns == "none" else result.value

    return cast(Native, run)


@functools.cache
def _machine() -> Any:
    """Return what makes code for this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if platform.machine() == "x86_64" else "default",
        codemodel="jitdefault",
        jit=True,
    )


@functools.cache
def _sources() -> bytes:
    """Return the sources that code depends on."""
    files = sorted(HERE.glob("*.py"))
    return b"".join(file.name.encode() + b"\0" + file.read_bytes() + b"\0" for file in files)


@functools.cache
def _versions() -> bytes:
    """Return the versions that code depends on."""
    numba = find_spec("numba")  # found, not imported
    assert numba is not None
    assert numba.origin is not None
    return (Path(numba.origin).parent / "_version.py").read_bytes() + (
        f"{llvmlite.__version__} {sys.version}".encode()
    )


def _name(function: Callable[..., Any], kinds: list[str]) -> str:
    features = llvm.get_host_cpu_features().flatten()
    machine = (llvm.get_process_triple(), llvm.get_host_cpu_name(), features)
    key = (function.__module__, function.__qualname__, kinds, machine, _versions())
    return name_of(function.__name__, _sources(), repr(key))


@kernel
def _probe(values: Any) -> int:
    found = np.int64(0)
    for i in range(values.size):
        found ^= np.int64(values[i])
    return int(found)
