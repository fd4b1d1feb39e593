"""Parameters of the library, spelled as the options that a command declares.

The library's errors and warnings name parameters: `clobber=False`, `masks="tensors"`. What they are
called here is asked of the click commands themselves, so an option that is renamed is renamed in
every message too:

    Param("masks", "tensors")           --masks tensors
    Param("clobber", False)             --no-clobber        a flag whose parameter is no_clobber
    Param("force", True)                --force             a flag
    Param("settings", {"p": "1"})       --set p=1           one that takes NAME=VALUE
    Param("exclude", ["a", "b"])        --exclude a --exclude b
    Call("extract", Param("level", "dense"))    `elsa extract --level dense`
    Call("sparsify", Param("group", 4))         --group 4, if it is `elsa sparsify` that runs

A parameter that the running command has no option for is one of another command: it is shown with
that command's name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click

from elsa_cli.errors import Call, Param, Words

__all__ = ["Speller"]

# Public functions that are no command, but an option of one.
OPTIONS = {"unpack": Call("pack", Param("unpack", True))}


class Speller:
    """Spells parameters and functions for the command line.

    Args:
        group: All commands.
        command: The command that runs; None if there is none.
    """

    def __init__(self, group: click.Command, command: click.Command | None) -> None:
        """Keep both."""
        self._group = group
        self._command = command

    @classmethod
    def current(cls) -> Speller:
        """Return the speller of the command that runs."""
        context = click.get_current_context()
        return cls(context.find_root().command, context.command)

    def __call__(self, part: Param | Call) -> str:
        """Return what a user of the command line types for it."""
        return self._call(part) if isinstance(part, Call) else self._param(part)

    def text(self, text: str) -> str:
        """Return a text, in which parameters are spelled as options."""
        return text.spelled(self) if isinstance(text, Words) else text

    def _param(self, param: Param) -> str:
        if self._command is not None and (found := _spell(self._command, param)):
            return found
        for other in self._others():
            found = _spell(other, param)
            if found:
                return f"`elsa {other.name} {found}`"
        return str(param)

    def _call(self, call: Call) -> str:
        wanted = OPTIONS.get(call.name, Call(call.name))
        name, params = wanted.name.replace("_", "-"), (*wanted.params, *call.params)
        if params and self._command is not None and self._command.name == name:
            return " ".join(map(self._param, params))
        command = next((c for c in self._others() if c.name == name), None)
        if command is None:
            return str(call)
        options = [_spell(command, param) or str(param) for param in params]
        return f"`{' '.join(['elsa', name, *options])}`"

    def _others(self) -> Iterator[click.Command]:
        if isinstance(self._group, click.Group):
            context = click.Context(self._group)
            for name in self._group.list_commands(context):
                command = self._group.get_command(context, name)
                assert command is not None
                yield command


def _spell(command: click.Command, param: Param) -> str | None:
    """Return the option of a command that stands for a parameter; None if it has none."""
    options = {p.name: p for p in command.params if isinstance(p, click.Option)}
    if param.valued and param.value is False:
        refusal = options.get(f"no_{param.name}")
        return refusal.opts[0] if refusal else None
    option = options.get(param.name)
    if option is None:
        return None
    if option.is_flag or not param.valued:
        return option.opts[0]
    return " ".join(f"{option.opts[0]} {shlex.quote(v)}" for v in _values(option, param.value))


def _values(option: click.Option, value: Any) -> list[str]:
    """Return what an option is given, once for each time that it stands there."""
    if isinstance(value, Mapping):
        return [f"{name}={text}" for name, text in value.items()]
    if isinstance(value, list | tuple):
        return [str(v) for v in value] if option.multiple else [",".join(map(str, value))]
    return [str(value)]
