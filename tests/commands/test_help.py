"""Help: every command has an example, and every example runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from elsa_cli.cli import cli
from tests.commands.shell import sh
from tests.helpers import elsa

COMMANDS = cli.list_commands(None)  # type: ignore[arg-type]


def help_of(*command: str) -> str:
    done = elsa(*command, "--help", env={"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def examples(text: str) -> list[str]:
    """Return the lines that follow `Example:` or `Examples:`."""
    found = re.search(r"^ *Examples?:\n((?: +elsa .*\n)+)", text, re.MULTILINE)
    assert found, text
    return [line.strip() for line in found[1].splitlines()]


def test_the_commands() -> None:
    assert {"extract", "inspect", "pack", "sparsify", "verify"} <= set(COMMANDS)
    text = help_of()
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\S", text, re.MULTILINE), f"{name} has no summary"
    assert help_of() == elsa("-h", env={"COLUMNS": "100"}).stdout.decode()


@pytest.fixture(scope="session")
def stock(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file for every name that an example may use."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("model.safetensors", "model.elsa.safetensors", "model.packed.elsa.safetensors"):
        shutil.copy(made / name, folder)
    shutil.copy(made / "model.safetensors", folder / "dense.safetensors")
    for level, name in (("0.5", "half"), ("0.9", "tenth")):
        out = folder / f"{name}.safetensors"
        nested = made / "model.elsa.safetensors"
        assert elsa("extract", nested, "--level", level, "-o", out).returncode == 0
    return folder


@pytest.mark.parametrize(
    "command", ["", *[c for c in COMMANDS if c not in ("evaluate", "freeze-train")]]
)
def test_examples_run(command: str, stock: Path, tmp_path: Path) -> None:
    """Each in a folder with the files it names; the group's lines one after the other."""
    lines = examples(help_of(*command.split()))
    for at, line in enumerate(lines):
        folder = tmp_path if not command else tmp_path / str(at)
        folder.mkdir(exist_ok=True)
        words = shlex.split(line)
        inputs = [w for w in words if (stock / w).exists()]
        if "-o" in words and words[words.index("-o") + 1] in inputs:
            inputs.remove(words[words.index("-o") + 1])
        if command and not inputs:
            inputs = ["model.elsa.safetensors"]
        for name in inputs:
            shutil.copy(stock / name, folder)
        done = sh(line, folder, kind="light")
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "-o" in words:
            target = words[words.index("-o") + 1]
            made = list(folder.glob(target.replace("{level}", "*")))
            assert made, f"{line} did not write {target}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_text_is_a_sentence_that_stands_alone(command: str) -> None:
    """It begins with a verb, or with the thing that the option gives, and ends with a period."""
    for parameter in cli.get_command(None, command).params:  # type: ignore[arg-type, union-attr]
        if parameter.param_type_name == "option":
            text = getattr(parameter, "help", None)
            where = f"{command} {parameter.opts}: {text}"
            assert text, where
            sentence = text.partition("  [default")[0]
            assert sentence[0].isupper(), where
            assert sentence[-1] == ".", where
            first = sentence.split()[0]
            assert first not in ("Of", "And", "Or", "Where", "Only", "A", "Before", "Says"), where


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_text_is_in_a_private_dialect(command: str) -> None:
    words = r"\b(anew|lest|nobody|goes? on|so many|of its own|come to be|with what|told of)\b"
    assert not re.search(words, " ".join(help_of(command).split()))
