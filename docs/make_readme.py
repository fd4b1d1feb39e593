"""Fill in the outputs of the README's commands, and its table of sizes and accuracies.

    python docs/make_readme.py

The shell blocks of the README run in their order, in one folder that holds the digits network as
model.safetensors and its recipe. A block of the language `console` shows commands, each after `$ `
and followed by its output; this script replaces the outputs. tests/test_docs.py runs the same
blocks and compares.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from make_picture import runs, spread

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^\$ (.*?[^\\])$\n?", re.M | re.S)  # a backslash at its end continues a line
TABLE = re.compile(r"(?<=<!-- docs/make_readme.py -->\n)(.*?)(?=<!-- end -->)", re.S)


class Failed(Exception):
    """A command of the README failed; holds what it printed."""


def prepare(folder: Path) -> None:
    """Put into `folder` what the README takes to be there."""
    digits = ROOT / "examples/digits"
    (folder / "examples/digits").mkdir(parents=True)
    shutil.copy(digits / "model.safetensors", folder)
    shutil.copy(ROOT / "examples/digits.py", folder / "examples")
    for part in ("train", "test"):
        shutil.copy(digits / f"{part}.safetensors", folder / "examples/digits")


def bash(script: str, folder: Path) -> str:
    """Run shell lines as a user would; return what they print on both streams.

    Raises:
        Failed: One of them failed.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{script}\n{done.stdout}")
    return done.stdout


def session(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, each with the output that the block shows."""
    _, *parts = COMMAND.split(block)
    yield from zip(parts[::2], parts[1::2], strict=True)


def shown(printed: str) -> str:
    """Return an output as the README shows it: without blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def perform(text: str, folder: Path) -> str:
    """Run the shell blocks of a text in order; return it with the outputs replaced."""

    def replaced(found: re.Match[str]) -> str:
        language, block = found.groups()
        if language == "sh":
            bash(block, folder)
            return found[0]
        done = [(command, bash(command, folder)) for command, _ in session(block)]
        parts = (f"$ {command}\n{shown(out)}" + ("\n" if out else "") for command, out in done)
        body = "".join(parts)
        return f"```console\n{body.rstrip()}\n```"

    return BLOCK.sub(replaced, text)


def table() -> str:
    """Return the table of sizes and accuracies: means, and ranges over the seeds."""
    found = runs()
    lines = [
        "| level | weights kept | to fetch | zeroing alone | nested | separate networks |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, row in enumerate(found[0]["levels"]):
        kilobytes = spread(found, number, "nbytes").mean / 1000
        accuracy = (spread(found, number, key) for key in ("zeroed", "nested", "alone"))
        cells = (f"{s.mean:.1f} ({s.low:.1f}–{s.high:.1f})" for s in accuracy)
        kept, size = f"{row['kept']:,}", f"{kilobytes:.0f} kB"
        lines.append(f"| {' | '.join((row['level'], kept, size, *cells))} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return a text with the table put in its place."""
    return TABLE.sub(lambda _: table(), text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        README.write_text(with_table(perform(README.read_text(), Path(scratch))))
    print(README)
