"""Optional packages: what needs one says so in one line where it is missing."""

from __future__ import annotations

from importlib import import_module

from elsa_cli.errors import MissingPackage, Words

__all__ = ["require"]


def require(package: str, extra: str, *, who: str = "this needs", instead: str = "") -> None:
    """Import a package, which need not be installed.

    Args:
        package: Its name.
        extra: The extra of this project that installs it.
        who: What needs it, for the error.
        instead: What else the user can do, for the error.

    Raises:
        MissingPackage: It is not installed, or cannot be imported.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise MissingPackage(
            f"{who} {package}, which is not installed",
            hint=Words("pip install 'elsa-cli[{}]'{}", extra, ", or " + instead if instead else ""),
        ) from error
