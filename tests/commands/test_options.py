"""Groups of options that reach a command as one value, and texts that are read as values."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click
import pytest

from elsa_cli import TrainOptions
from elsa_cli.cli import cli
from elsa_cli.commands._options import Numbers, gathered, settings_option
from elsa_cli.errors import UsageError

COMMANDS = cli.list_commands(click.Context(cli))


@click.command()
@click.argument("file")
@gathered("pair", dict, [click.option("--one"), click.option("--two", "second", default="2")])
@click.option("--between", is_flag=True)
@gathered(
    "more",
    lambda **values: sorted(values.items()),
    [
        settings_option("--set", "settings", "Set it."),
        click.option("--rates", type=Numbers(float)),
        click.option("--counts", type=Numbers(int)),
        click.option("--hidden", is_flag=True, expose_value=False),
    ],
)
def example(**values: Any) -> dict[str, Any]:
    return values


def run(*line: str) -> Any:
    return example.main(list(line), standalone_mode=False)


def test_values_are_collected() -> None:
    assert run("f", "--one", "x", "--set", "a=1", "--set", "b=x=y", "--set", "c=", "--hidden") == {
        "file": "f",
        "pair": {"one": "x", "second": "2"},
        "between": False,
        "more": [
            ("counts", None),
            ("rates", None),
            ("settings", {"a": "1", "b": "x=y", "c": ""}),
        ],
    }
    assert dict(run("f", "--set", "a=1", "--set", "a=2")["more"])["settings"] == {"a": "2"}
    numbers = dict(run("f", "--rates", "1e-3,2", "--counts", "7")["more"])
    assert (numbers["rates"], numbers["counts"]) == ((0.001, 2.0), (7,))


def test_the_help_keeps_the_order() -> None:
    names = [p.name for p in example.params]
    assert names == ["file", "one", "second", "between", "settings", "rates", "counts", "hidden"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *[(("--set", pair), f"--set {pair}: not NAME=VALUE") for pair in ("a", "=1", "", "=")],
        (("--rates", "1,much"), "--rates 1,much: not numbers with commas between them; give one"),
        (("--rates", ""), "--rates : not numbers with commas between them; give one"),
        (("--counts", "1.5"), "--counts 1.5: not whole numbers with commas between them; give"),
    ],
)
def test_texts_that_are_no_values(line: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run("f", *line)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_has_a_long_list_of_parameters(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.callback is not None
    assert 2 < len(inspect.signature(command.callback).parameters) < 10


def test_the_defaults_of_a_training_are_those_of_python() -> None:
    command = cli.get_command(click.Context(cli), "freeze-train")
    assert command is not None
    given = command.make_context("freeze-train", ["--recipe", "recipe.py"]).params
    for field in dataclasses.fields(TrainOptions):
        if field.name != "freeze":
            assert given[field.name] == field.default, field.name
