"""Write docs/commands.md from the help texts; a test checks that it is up to date."""

from pathlib import Path
from typing import Any

import click

from elsa_cli.cli import cli

TARGET = Path(__file__).with_name("commands.md")
INTRO = """# Commands

What `elsa --help` and `elsa COMMAND --help` print. Made by `make docs`.
"""


def text() -> str:
    """Return the page."""
    parts = [INTRO]
    width: dict[str, Any] = {"terminal_width": 96, "max_content_width": 96}
    root = click.Context(cli, info_name="elsa", **width, **cli.context_settings)
    parts.append(f"## elsa\n\n```text\n{cli.get_help(root)}\n```\n")
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, **command.context_settings)
        parts.append(f"## elsa {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(text())
    print(TARGET)
