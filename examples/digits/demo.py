"""The main job on the digits network: one dense network is trained, four networks are shipped.

Run by `make demo`. Prints each command before it runs, and at the end what each level is worth: by
zeroing alone, after freeze-train, and beside a network of its own that was trained as long.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "digits.py"
LEVELS = ("0.9", "0.7", "0.5")
EPOCHS = 20  # of each level, if not given
THREADS = ("--threads", "1")  # the networks are too small for more


def run(folder: Path, *command: str, shown: str) -> str:
    """Show a command and run it in a folder; return what it printed."""
    print("$", shown, flush=True)
    done = subprocess.run(
        (sys.executable, *command), cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def elsa(folder: Path, *arguments: str) -> str:
    """Show an `elsa` command and run it in a folder; return what it printed."""
    return run(folder, "-m", "elsa_cli", *arguments, shown=shlex.join(("elsa", *arguments)))


def train(folder: Path, *arguments: str) -> None:
    """Show a training of the dense network and run it."""
    line = shlex.join(("python", "train.py", *arguments))
    print(run(folder, str(HERE / "train.py"), *arguments, shown=line), end="")


def measured(folder: Path, file: str) -> dict[str, dict[str, float]]:
    """Evaluate a file; return accuracy, weights and bytes of each level."""
    line = ("evaluate", file, "--recipe", str(RECIPE), *THREADS, "--json", "-q")
    report = json.loads(elsa(folder, *line))
    return {row["level"]: row | row["metrics"] for row in report["levels"]}


def alone(folder: Path, level: str, epochs: int) -> float:
    """Train a sparse network of its own for so many epochs; return its accuracy."""
    elsa(
        folder,
        *("freeze-train", "model.safetensors", "--levels", level, "--recipe", str(RECIPE)),
        *("--joint-epochs", "0", "--epochs", f"{epochs},0", *THREADS, "-q"),
        *("-o", f"alone-{level}.elsa.safetensors"),
    )
    return measured(folder, f"alone-{level}.elsa.safetensors")[level]["accuracy"]


def main(folder: Path, epochs: int) -> None:
    """Run the commands in `folder` and draw the table."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.safetensors"), *folder.glob("*.resume")):
        old.unlink()

    train(folder, "--output", "model.safetensors")
    elsa(folder, "sparsify", "model.safetensors", "--levels", ",".join(LEVELS))
    elsa(
        folder,
        *("freeze-train", "model.elsa.safetensors", "--recipe", str(RECIPE)),
        *("--epochs", str(epochs), *THREADS, "-o", "trained.elsa.safetensors"),
    )
    zeroed = measured(folder, "model.elsa.safetensors")
    elsa(folder, "pack", "trained.elsa.safetensors")
    elsa(folder, "verify", "trained.packed.elsa.safetensors")
    elsa(
        folder,
        *("extract", "trained.packed.elsa.safetensors", "--level", ",".join((*LEVELS, "dense"))),
        *("-o", "digits-{level}.safetensors"),
    )
    trained = measured(folder, "trained.packed.elsa.safetensors")

    print("\nBeside them, networks of their own, each trained as long as a level was:")
    separate = {level: alone(folder, level, epochs) for level in LEVELS}
    train(
        folder,
        *("--start", "model.safetensors", "--epochs", str(epochs), "--lr", "0.001"),
        *("--output", "alone-dense.safetensors"),
    )
    from accuracy import measure

    separate["dense"] = 100 * measure(folder / "alone-dense.safetensors")["accuracy"]
    _show(folder, zeroed, trained, separate)


def _show(
    folder: Path,
    zeroed: dict[str, dict[str, float]],
    trained: dict[str, dict[str, float]],
    separate: dict[str, float],
) -> None:
    """Draw the table."""
    table = Table(title="digits: one file, four networks (accuracy on 360 test images)")
    for column in (
        *("level", "weights kept", "zeroing alone", "freeze-train", "trained alone"),
        "bytes to fetch",
    ):
        table.add_column(column, justify="right")
    for level in ("dense", *reversed(LEVELS)):
        table.add_row(
            level,
            f"{trained[level]['kept']:,.0f}",
            f"{zeroed[level]['accuracy']:.1f} %",
            f"{trained[level]['accuracy']:.1f} %",
            f"{separate[level]:.1f} %",
            f"{trained[level]['nbytes']:,.0f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print()
    console.print(table)
    files = sum((folder / f"digits-{level}.safetensors").stat().st_size for level in trained)
    console.print(
        f"Four separate files are {files:,} bytes; the packed one is "
        f"{trained['dense']['nbytes']:,.0f}.\nOne image is 0.28 points. "
        f"The files are in {folder}.",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    place, length = [*sys.argv[1:], *("build/demo", str(EPOCHS))[len(sys.argv) - 1 :]][:2]
    main(Path(place), int(length))
