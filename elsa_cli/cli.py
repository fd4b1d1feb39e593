"""The command group, and the one place where an error becomes an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

import click

from elsa_cli import commands
from elsa_cli.commands._wording import Speller
from elsa_cli.errors import ElsaError
from elsa_cli.text import one_line, printable
from elsa_cli.ui import highlight

__all__ = ["cli", "main"]

FAILED = 1
QUIET = (click.ClickException, click.Abort, BrokenPipeError)  # --debug shows no traceback of these


class _Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _command_files() -> dict[str, str]:
    """Return the file of each command, by name."""
    folder = os.path.dirname(commands.__file__)
    return {
        file.removesuffix(".py").replace("_", "-"): os.path.join(folder, file)
        for file in sorted(os.listdir(folder))
        if file.endswith(".py") and not file.startswith("_")
    }


def _summary(path: str) -> str:
    """Return what a command's docstring says after its name: \"\"\"`elsa name`: this.\"\"\"."""
    with open(path, encoding="utf-8") as file:
        text = file.readline().partition(": ")[2].strip().strip('"')
    return text[:1].upper() + text[1:]


@dataclass
class _Ran:
    """The command that ran, once click has found it."""

    command: click.Command | None = None


class _Group(click.Group):
    """Finds commands by the files of `elsa_cli/commands/`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_command_files())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the first lines of their files: importing them takes longer."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(path)) for name, path in _command_files().items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and note which one it is: an error names its options."""
        found = super().resolve_command(ctx, args)
        if isinstance(ctx.obj, _Ran):
            ctx.obj.command = found[1]
        return found

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"elsa {version('elsa-cli')}")
        ctx.exit()


@click.command(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Keep several sparse networks inside one dense network, in one safetensors checkpoint.

    \b
    Example:
      elsa sparsify model.safetensors --levels 0.5,0.7,0.9
      elsa extract --level 0.9 -o sparse.safetensors
    """


def _of_the_system(error: OSError | MemoryError) -> str:
    """Return one line for an error that no other layer has put into words."""
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use fewer --threads"
    # Errors on files are ElsaErrors by now; an OSError without a file name comes from standard
    # output.
    return f"{error.filename or 'standard output'}: {error.strerror or error}"


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(highlight("Error: ", "red") + one_line(message), err=True)


def _open_standard_streams() -> None:
    """Reopen closed standard streams on /dev/null, so that no output file gets their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is fd


def _stop(number: int, _: FrameType | None) -> None:
    raise _Stopped(number)


def _run(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    ran = _Ran()
    try:
        result: Any = cli.main(arguments, prog_name="elsa", standalone_mode=False, obj=ran)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (ElsaError, click.ClickException, click.Abort, OSError, MemoryError) as error:
        if "--debug" in arguments and not isinstance(error, QUIET):
            _show_traceback(type(error), error, error.__traceback__)
        message, code = _verdict(error, ran)
    except (KeyboardInterrupt, _Stopped) as error:
        message, code = _verdict(error, ran)
    if message:
        _complain(message)
    return code


def _verdict(error: BaseException, ran: _Ran) -> tuple[str, int]:
    """Return the line for an error, empty for none, and the exit code."""
    if isinstance(error, ElsaError):
        return error.spelled(Speller(cli, ran.command)), error.exit_code
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        command = where.command_path if where else "elsa"
        return f"{error.format_message()} (see `{command} --help`)", error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, _Stopped):
        return "stopped by a signal", error.exit_code
    if isinstance(error, BrokenPipeError):
        return "", FAILED  # quietly, as click itself does
    assert isinstance(error, OSError | MemoryError)
    if isinstance(error.__context__, ElsaError):
        # The terminal went away with the signal that ended the run: it cannot be cleaned up.
        return _verdict(error.__context__, ran)
    return _of_the_system(error), FAILED


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show the traceback as Python does, with escapes for what could steer the terminal."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    with contextlib.suppress(OSError):
        click.echo("\n".join(map(printable, text.rstrip("\n").split("\n"))), err=True)


def main() -> None:
    """Run `elsa` with the arguments of the process."""
    _open_standard_streams()
    sys.excepthook = _show_traceback
    # Batch systems send these before they end a job; a training saves first.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    code = _run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # The reader is gone: let the interpreter flush the rest of the buffer to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or FAILED
    sys.exit(code)
