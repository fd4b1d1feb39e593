"""Make the golden files: `python -m tests.golden.make`.

Run it when what is written changes, and add files instead of replacing those there are: readers
must read the old ones for ever. `expected.json` is computed without the package.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.networks import Network, make, write_nested, write_pack

HERE = Path(__file__).parent
# Written by version 0.1.0, whose masks were deflated by zlib; made no more.
OLD = ("v1-header.elsa.safetensors", "v1.packed.elsa.safetensors")
WRITTEN = (
    "v1.safetensors",
    "v1-deflate-header.elsa.safetensors",
    "v1-tensors.elsa.safetensors",
    "v1-deflate.packed.elsa.safetensors",
)
FILES = (*WRITTEN, *OLD)


def network() -> Network:
    """Return the network in the golden files of version 1."""
    return make("golden v1")


def expected(net: Network) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every tensor at every level, and of every mask's packed bits."""
    found = {}
    for level in (*net.masks, "dense"):
        tensors = net.level(level).items()
        found[level] = {name: hashlib.sha256(t[2]).hexdigest() for name, t in tensors}
    for level, masks in net.masks.items():
        for name, mask in masks.items():
            bits = bytearray(-(-mask.size // 8))
            for at in range(mask.size):
                bits[at // 8] |= int(mask[at]) << at % 8
            found.setdefault(f"mask {level}", {})[name] = hashlib.sha256(bits).hexdigest()
    return found


def write(folder: Path) -> None:
    """Write all files but the old ones to a folder."""
    net = network()
    plain, header, tensors, packed = (folder / name for name in WRITTEN)
    net.write(plain)
    write_nested(header, net, "header")
    write_nested(tensors, net, "tensors")
    write_pack(packed, header)
    text = json.dumps(expected(net), indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    write(HERE)
