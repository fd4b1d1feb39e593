"""One file a subcommand: options in, one operation, report out.

A module `name.py` here defines `command`, the click command `elsa name`; an underscore in the file
name is a hyphen in the command's. Modules import click only; what they need to work is imported
when they run, so that help is quick.
"""
