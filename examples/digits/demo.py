"""The main job on the digits network: sparsify, pack, extract every level, compare.

Run by `make demo`. Prints each command before it runs, and at the end what zeroing alone costs.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from accuracy import measure
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
LEVELS = ("0.5", "0.7", "0.9")


def elsa(folder: Path, *arguments: str) -> None:
    """Show an `elsa` command and run it in a folder."""
    print("$", shlex.join(("elsa", *arguments)), flush=True)
    subprocess.run((sys.executable, "-m", "elsa_cli", *arguments), cwd=folder, check=True)


def prefixes(packed: Path) -> dict[str, int]:
    """Return the bytes of a packed checkpoint that each level needs."""
    from elsa_cli import inspect

    return {str(i.level): i.prefix or 0 for i in inspect(packed).levels}


def main(folder: Path) -> None:
    """Run the commands in `folder` and draw the table."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    (folder / "model.safetensors").write_bytes((HERE / "model.safetensors").read_bytes())
    every = ",".join((*LEVELS, "dense"))

    elsa(folder, "sparsify", "model.safetensors", "--levels", ",".join(LEVELS))
    elsa(folder, "pack", "model.elsa.safetensors")
    elsa(folder, "verify", "model.packed.elsa.safetensors")
    elsa(
        folder,
        *("extract", "model.packed.elsa.safetensors", "--level", every),
        *("-o", "digits-{level}.safetensors"),
    )

    nested = (folder / "model.elsa.safetensors").stat().st_size
    fetch = prefixes(folder / "model.packed.elsa.safetensors")
    table = Table(title="digits: one file, four networks")
    for column in ("level", "weights kept", "accuracy", "bytes to fetch", "as a file of its own"):
        table.add_column(column, justify="right")
    separate = 0
    for level in ("dense", *LEVELS):
        result = measure(folder / f"digits-{level}.safetensors")
        separate += result["bytes"]
        table.add_row(
            level,
            f"{result['nonzero']:,}",
            f"{100 * result['accuracy']:.1f} %",
            f"{fetch[level]:,}",
            f"{result['bytes']:,}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(
        f"four separate files {separate:,} bytes; nested {nested:,}; packed {fetch['dense']:,}.\n"
        "The accuracies are what zeroing alone leaves, without any training around the masks.\n"
        f"The files are in {folder}.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
