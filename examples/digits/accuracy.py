"""Measure the test accuracy of digits networks, with numpy and safetensors alone.

    python accuracy.py NET.safetensors [NET2.safetensors ...]
    python accuracy.py --json NET.safetensors

The test images come from `test.safetensors` beside this script.
"""

import argparse
import json
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

TEST_SET = Path(__file__).resolve().parent / "test.safetensors"
BATCH_NORM_EPS = 1e-5

Array = NDArray[np.float32]


class Result(TypedDict):
    """What was measured on one file."""

    accuracy: float
    bytes: int
    nonzero: int


def hidden_layer(net: dict[str, Array], number: int, x: Array) -> Array:
    """Apply linear, batch norm (running statistics) and ReLU."""
    x = x @ net[f"fc{number}.weight"].T + net[f"fc{number}.bias"]
    x = x - net[f"bn{number}.running_mean"]
    x = x / np.sqrt(net[f"bn{number}.running_var"] + np.float32(BATCH_NORM_EPS))
    x = x * net[f"bn{number}.weight"] + net[f"bn{number}.bias"]
    return np.maximum(x, np.float32(0))


def logits(net: dict[str, Array], images: NDArray[np.uint8]) -> Array:
    """Run the network on images with pixels from 0 to 16, shape [N, 64]."""
    x = images.astype(np.float32) / np.float32(16)
    x = hidden_layer(net, 1, x)
    x = hidden_layer(net, 2, x)
    return x @ net["fc3.weight"].T + net["fc3.bias"]


def measure(path: Path) -> Result:
    """Measure one network file; `nonzero` counts the weights of the three linear layers."""
    net = load_file(path)
    test = load_file(TEST_SET)
    predicted = logits(net, test["images"]).argmax(axis=1)
    return {
        "accuracy": float(np.mean(predicted == test["labels"])),
        "bytes": path.stat().st_size,
        "nonzero": sum(int(np.count_nonzero(net[f"fc{n}.weight"])) for n in (1, 2, 3)),
    }


def main() -> None:
    """Parse the command line, measure each file, print."""
    parser = argparse.ArgumentParser(description="Test accuracy of digits networks.")
    parser.add_argument("nets", nargs="+", metavar="NET.safetensors")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    results: dict[str, Result] = {}
    for net in options.nets:
        try:
            results[net] = measure(Path(net))
        except KeyError as error:
            parser.exit(1, f"{net}: not a digits network: no tensor {error}\n")
        except (OSError, SafetensorError) as error:
            parser.exit(1, f"{net}: {error}\n")

    if options.json:
        print(json.dumps(results, indent=2))
        return
    width = max(map(len, results))
    for net, result in results.items():
        print(f"{net:<{width}}  {result['accuracy']:.4f}  {result['bytes']} bytes")


if __name__ == "__main__":
    main()
