"""Where compiled code is kept, whatever may be written, damaged or missing: in processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import elsa_cli
from elsa_cli.core.kernels import compiles

pytestmark = pytest.mark.skipif(not compiles(), reason="numba cannot compile here")

# Counts bits with the form that the size asks for; tells which it was, and whether numba was used.
PROGRAM = """
import json, sys
for name in sys.argv[2:]:
    sys.modules[name] = None
import numpy as np
from elsa_cli.core.kernels import form
from elsa_cli.errors import UsageError
try:
    module = form("masking", int(sys.argv[1]))
    bits = module.popcount(np.array([7, 1] * 40, np.uint8))
    print(json.dumps([module.__name__.rpartition("_")[2], bits, "numba" in sys.modules]))
except UsageError as error:
    print(json.dumps(str(error)))
"""
MUCH = 1 << 40
COMPILED = ["compiled", 160, True]
LOADED = ["compiled", 160, False]
NUMPY = ["numpy", 160, False]


class Install:
    """A copy of the package, with folders of its own for caches."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "site" / "elsa_cli"
        shutil.copytree(
            Path(elsa_cli.__file__).parent,
            self.package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self.beside = self.package / "core" / "kernels" / "__pycache__"
        self.home, self.temporary = folder / "home", folder / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        self.private = self.temporary / f"elsa-kernels-{os.getuid()}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.package.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
        }

    def block(self) -> None:
        """Let nothing be written beside the package: a file is where the folder would be.

        Permissions would not do, since they do not stop root.
        """
        self.beside.write_bytes(b"")

    def start(self, nbytes: int = MUCH, *without: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(nbytes), *without],
            env=self.environment | variables,
            cwd=self.package.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, nbytes: int = MUCH, *without: str, **variables: str) -> object:
        with self.start(nbytes, *without, **variables) as process:
            out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert not err
        return json.loads(out)


@pytest.fixture
def install(tmp_path: Path) -> Install:
    return Install(tmp_path)


def kept(folder: Path) -> list[str]:
    """Return the names of the kernels in a folder; nothing else may be there."""
    files = sorted(file.name for file in folder.iterdir())
    assert all(file.endswith(".bin") for file in files), files
    return [file.partition("-")[0] for file in files]


BOTH = ["_probe", "popcount"]


def test_beside_the_package(install: Install) -> None:
    assert install.run() == COMPILED
    assert kept(install.beside) == BOTH
    assert install.run() == LOADED
    assert not list(install.home.iterdir())
    assert not list(install.temporary.iterdir())


def test_in_the_users_folder_if_the_package_cannot_be_written(install: Install) -> None:
    install.block()
    assert install.run() == COMPILED
    assert kept(install.home / ".cache" / "elsa") == BOTH
    assert install.run() == LOADED


def test_in_the_folder_that_a_variable_names(install: Install, tmp_path: Path) -> None:
    install.block()
    assert install.run(XDG_CACHE_HOME=str(tmp_path / "xdg")) == COMPILED
    assert kept(tmp_path / "xdg" / "elsa") == BOTH
    assert install.run(XDG_CACHE_HOME="relative") == COMPILED  # which counts as not set
    assert kept(install.home / ".cache" / "elsa") == BOTH


def test_in_a_private_folder_without_a_home(install: Install) -> None:
    install.block()
    assert install.run(HOME="/dev/null") == COMPILED
    assert kept(install.private) == BOTH
    assert install.private.stat().st_mode & 0o777 == 0o700
    assert install.run(HOME="/dev/null") == LOADED


@pytest.mark.parametrize("how", ["others may write", "a link", "a file"])
def test_nowhere_if_the_private_folder_is_not_private(how: str, install: Install) -> None:
    install.block()
    elsewhere = install.temporary / "elsewhere"
    elsewhere.mkdir()
    if how == "others may write":
        install.private.mkdir()
        install.private.chmod(0o777)
    elif how == "a link":
        install.private.symlink_to(elsewhere)
    else:
        install.private.write_bytes(b"")
    for _ in range(2):
        assert install.run(HOME="/dev/null") == COMPILED
    assert not list(elsewhere.iterdir())
    assert how != "others may write" or not list(install.private.iterdir())


def test_others_folder_for_caches_is_not_used(install: Install) -> None:
    install.block()
    caches = install.home / ".cache" / "elsa"
    caches.mkdir(parents=True)
    caches.chmod(0o777)
    assert install.run() == COMPILED
    assert not list(caches.iterdir())
    assert kept(install.private) == BOTH


@pytest.mark.parametrize("damage", ["empty", "short", "zeros", "one bit", "other", "a folder"])
def test_damaged_code_is_compiled_again(damage: str, install: Install) -> None:
    assert install.run() == COMPILED
    probe, popcount = sorted(install.beside.iterdir())
    whole = popcount.read_bytes()
    if damage == "a folder":
        popcount.unlink()
        popcount.mkdir()
    else:
        popcount.write_bytes(
            {
                "empty": b"",
                "short": whole[:-100],
                "zeros": whole[:1000] + bytes(len(whole) - 1000),
                "one bit": whole[:900] + bytes([whole[900] ^ 16]) + whole[901:],
                "other": b"\x80\x04]\x94." * 100,
            }[damage]
        )
    assert install.run() == COMPILED
    if damage != "a folder":
        assert install.run() == LOADED
        assert len(popcount.read_bytes()) == len(whole)
    assert probe.is_file()


def test_two_processes_at_once(install: Install) -> None:
    both = [install.start(), install.start()]
    for process in both:
        with process:
            out, err = process.communicate(timeout=300)
        assert json.loads(out)[:2] == COMPILED[:2], err
    assert kept(install.beside) == BOTH
    assert install.run() == LOADED


def test_code_of_other_sources_is_not_used(install: Install) -> None:
    assert install.run() == COMPILED
    source = install.package / "core" / "kernels" / "masking_compiled.py"
    source.write_text(source.read_text().replace("total = 0", "total = 1000"))
    assert install.run() == ["compiled", 1160, True]
    assert kept(install.beside) == BOTH  # nothing is left of the older ones


def test_only_our_own_files_of_older_sources_are_removed(install: Install) -> None:
    """A folder for caches may hold what other packages, versions of Python and people keep."""
    install.block()
    assert install.run() == COMPILED
    caches = install.home / ".cache" / "elsa"
    name = next(caches.glob("popcount-*")).name
    kernel, package, sources, rest = name.removesuffix(".bin").split("-")
    older, other = sources[::-1], package[::-1]
    stay = [
        f"{kernel}-{other}-{older}-{rest}.bin",  # of a package elsewhere
        f"{kernel}-{package}-{sources}-{rest[::-1]}.bin",  # of another processor
        f"{kernel}-{package}-{older}-{rest}.txt",
        f"my-{kernel}-{package}-{older}-{rest}.bin",
        "notes.bin",
    ]
    for file in (*stay, go := f"{kernel}-{package}-{older}-{rest}.bin"):
        (caches / file).write_bytes(b"")
    assert install.run() == LOADED
    assert (caches / go).exists()  # nothing was kept, so nothing is removed
    next(caches.glob("_probe-*")).unlink()
    assert install.run() == COMPILED
    assert not (caches / go).exists()
    assert {file.name for file in caches.iterdir()} > {*stay, name}


def test_little_to_do_needs_no_compiled_code(install: Install) -> None:
    assert install.run(1000) == NUMPY
    assert not install.beside.exists()


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_without_numba_numpy_does_it(missing: str, install: Install) -> None:
    assert install.run(MUCH, missing) == [*NUMPY[:2], missing == "numba"]
    told = install.run(MUCH, missing, ELSA_KERNELS="compiled")
    assert told == (
        "ELSA_KERNELS is 'compiled', but numba cannot compile here; "
        "install numba, or unset the variable"
    )


def test_numba_that_is_told_not_to_compile(install: Install) -> None:
    assert install.run(NUMBA_DISABLE_JIT="1")[:2] == NUMPY[:2]  # type: ignore[index]


def test_the_variable_decides(install: Install) -> None:
    assert install.run(0, ELSA_KERNELS="compiled") == COMPILED
    assert install.run(MUCH, ELSA_KERNELS="numpy") == NUMPY
    assert install.run(0, ELSA_KERNELS="fast") == (
        "ELSA_KERNELS is 'fast'; set it to numpy or compiled, or unset it"
    )
