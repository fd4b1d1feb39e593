"""Run the command line with one system call refused: CALL ERRNO ARGUMENTS."""

import sys

import numpy as np  # noqa: F401 - the loader of libraries needs some of the calls itself

from elsa_cli.cli import main
from tests.refusing import install

call, number, *arguments = sys.argv[1:]
sys.argv = ["elsa", *arguments]
install(call, int(number))
main()
