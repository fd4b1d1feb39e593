"""The command group, and the one place where an error becomes an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

import click

from elsa_cli import commands
from elsa_cli.errors import ElsaError
from elsa_cli.text import one_line, printable
from elsa_cli.ui import highlight

__all__ = ["cli", "main"]

FAILED = 1


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


class _Group(click.Group):
    """Finds commands by the files of `elsa_cli/commands/`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_command_files())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the first lines of their files: importing them takes longer."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(path)) for name, path in _command_files().items()])

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
    # Files are spoken for by the checkpoint's own errors; what has no name is standard output.
    return f"{error.filename or 'standard output'}: {error.strerror or error}"


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(highlight("Error: ", "red") + one_line(message), err=True)


def _open_standard_streams() -> None:
    """Give closed standard streams something to be, lest a file of ours takes their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is fd


def _stop(number: int, _: FrameType | None) -> None:
    raise _Stopped(number)


def _run(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    try:
        result: Any = cli.main(arguments, prog_name="elsa", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except ElsaError as error:
        if "--debug" in arguments:
            raise
        _complain(str(error))
        return error.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        command = where.command_path if where else "elsa"
        _complain(f"{error.format_message()} (see `{command} --help`)")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        return 128 + signal.SIGINT
    except _Stopped as stopped:
        _complain("stopped by a signal")
        return stopped.exit_code
    except BrokenPipeError:
        return FAILED  # quietly, as click itself does
    except (OSError, MemoryError) as error:
        if "--debug" in arguments:
            raise
        if isinstance(error.__context__, ElsaError):
            # The terminal went away with the signal that ended the run: it cannot be cleaned up.
            _complain(str(error.__context__))
            return error.__context__.exit_code
        _complain(_of_the_system(error))
        return FAILED


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show what Python itself would, but for what could steer the terminal."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    with contextlib.suppress(OSError):
        click.echo("\n".join(map(printable, text.rstrip("\n").split("\n"))), err=True)


def main() -> None:
    """Run `elsa` with the arguments of the process."""
    _open_standard_streams()
    sys.excepthook = _show_traceback
    # As batch systems send them before they end a job, too; a training saves first.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    code = _run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Nobody reads what is left in the buffer; let the interpreter flush it to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = code or FAILED
    sys.exit(code)
