"""A small batch-norm ResNet on Fashion-MNIST: 60,000 images of clothes, ten kinds.

Needs torch, and the images, which Debian and Ubuntu package:

    apt-get install dataset-fashion-mnist

Train the levels, then measure each of them:

    elsa freeze-train --levels 0.5,0.7,0.9 --recipe examples/fashion_mnist.py \
        --epochs 2 --lr 0.01 --reselect \
        -o fashion.elsa.safetensors
    elsa evaluate fashion.elsa.safetensors --recipe examples/fashion_mnist.py

`--set images=10000` trains on fewer images,
`--set folder=...` reads the four `.gz` files from elsewhere.
"""

import functools
import gzip
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = "/usr/share/datasets/fashion-mnist"
SIDE = 28
KINDS = 10
MEAN, DEVIATION = 72.94, 90.02  # of the training pixels, 0-255
TEST_BATCH = 1000


class Block(nn.Module):
    """Two 3x3 convolutions that halve the picture, and a 1x1 shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        """Create the layers; `inside` and `outside` are channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: [N, inside, H, W] to [N, outside, H / 2, W / 2]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class FashionNet(nn.Module):
    """A stem and two residual blocks; 72,890 weights at width 16."""

    def __init__(self, width: int) -> None:
        """Create the layers; `width` is the channels of the stem, and doubles with each block."""
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)  # 14x14
        self.bn = nn.BatchNorm2d(width)
        self.block1 = Block(width, 2 * width)  # 7x7
        self.block2 = Block(2 * width, 4 * width)  # 4x4
        self.fc = nn.Linear(4 * width, KINDS)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: Pixels from 0 to 255, shape [N, 28, 28].

        Returns:
            Logits, shape [N, 10].
        """
        x = (images.unsqueeze(1).float() - MEAN) / DEVIATION
        x = F.relu(self.bn(self.stem(x)), inplace=True)
        x = x.contiguous(memory_format=torch.channels_last)  # a quarter faster on a CPU
        x = self.block2(self.block1(x)).mean((2, 3))
        logits: Tensor = self.fc(x)
        return logits


@functools.cache
def read(folder: str, part: str) -> tuple[Tensor, Tensor]:
    """Read one part of the data set.

    Args:
        folder: Where the four `.gz` files are.
        part: `train` or `t10k`.

    Returns:
        Images, U8 [N, 28, 28], and labels, I64 [N].

    Raises:
        FileNotFoundError: The files are not there.
    """
    files = [Path(folder) / f"{part}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(
                f"{file}: no such file; `apt-get install dataset-fashion-mnist` brings it, "
                "or name its folder: --set folder=..."
            )
    # An IDX file has a header of four bytes and four more for each dimension.
    images = torch.frombuffer(
        bytearray(gzip.decompress(files[0].read_bytes())[16:]), dtype=torch.uint8
    )
    labels = torch.frombuffer(
        bytearray(gzip.decompress(files[1].read_bytes())[8:]), dtype=torch.uint8
    )
    return images.view(-1, SIDE, SIDE), labels.long()


class Batches:
    """Shuffled batches, each image mirrored by chance; one pass is an epoch."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        """Take the whole data set and the images in a batch."""
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        """Count the batches of an epoch; a rest smaller than a batch is left out."""
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffle, then yield images and labels."""
        order = torch.randperm(len(self.images))
        for batch in order[: len(self) * self.size].view(len(self), self.size):
            images = self.images[batch]
            mirrored = torch.rand(self.size, 1, 1) < 0.5
            yield torch.where(mirrored, images.flip(2), images), self.labels[batch]


def build_model(*, width: int = 16) -> FashionNet:
    """Create the network with random weights."""
    return FashionNet(width)


def train_data(*, folder: str = FOLDER, images: int = 60_000, batch: int = 256) -> Batches:
    """Return the batches of an epoch over the first `images` training images."""
    pictures, labels = read(folder, "train")
    return Batches(pictures[:images], labels[:images], batch)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def evaluate(model: nn.Module, *, folder: str = FOLDER) -> dict[str, float]:
    """Return the accuracy on the 10,000 test images, in percent."""
    device = next(model.parameters()).device
    images, labels = read(folder, "t10k")
    right = 0
    for start in range(0, len(labels), TEST_BATCH):
        part = slice(start, start + TEST_BATCH)
        found = model(images[part].to(device)).argmax(1)
        right += int((found == labels[part].to(device)).sum())
    return {"accuracy": 100 * right / len(labels)}
