"""A batch-norm MLP on the 8x8 digits: small enough to train its levels in seconds.

Needs torch, and the data in `digits/` beside this file. Start from the trained network there:

    elsa freeze-train examples/digits/model.safetensors --levels 0.5,0.7,0.9 \
        --recipe examples/digits.py --epochs 20 -o digits.elsa.safetensors
    elsa evaluate digits.elsa.safetensors --recipe examples/digits.py
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = Path(__file__).resolve().parent / "digits"
HIDDEN = 256


class DigitsNet(nn.Module):
    """A batch-norm MLP, 64 -> 256 -> 256 -> 10."""

    def __init__(self) -> None:
        """Create the layers with random weights."""
        super().__init__()
        self.fc1 = nn.Linear(64, HIDDEN)
        self.bn1 = nn.BatchNorm1d(HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.bn2 = nn.BatchNorm1d(HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: Pixels from 0 to 16, shape [N, 64].

        Returns:
            Logits, shape [N, 10].
        """
        x = images.float() / 16
        x = F.relu(self.bn1(self.fc1(x)))
        x = F.relu(self.bn2(self.fc2(x)))
        logits: Tensor = self.fc3(x)
        return logits


def read(part: str) -> tuple[Tensor, Tensor]:
    """Read one part of the data set.

    Args:
        part: `train` or `test`.

    Returns:
        Images, U8 [N, 64], and labels, I64 [N].

    Raises:
        FileNotFoundError: The file is not there.
    """
    file = FOLDER / f"{part}.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; digits/make_data.py writes it")
    tensors = load_file(file)
    return tensors["images"], tensors["labels"].long()


def shift(images: Tensor) -> Tensor:
    """Move each image by at most one pixel each way, filling with background.

    Args:
        images: Shape [N, 64].

    Returns:
        The moved images, same shape and dtype.
    """
    count = len(images)
    padded = F.pad(images.view(count, 8, 8), (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (2, count, 1))
    rows, columns = offsets + torch.arange(8)
    image = torch.arange(count)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].reshape(count, 64)


class Batches:
    """Shuffled batches of shifted images; one pass is an epoch."""

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
            yield shift(self.images[batch]), self.labels[batch]


def build_model() -> DigitsNet:
    """Create the network with random weights."""
    return DigitsNet()


def train_data(*, batch: int = 64) -> Batches:
    """Return the batches of an epoch over the 1,437 training images."""
    return Batches(*read("train"), batch)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def evaluate(model: nn.Module) -> dict[str, float]:
    """Return the accuracy on the 360 test images, in percent."""
    device = next(model.parameters()).device
    images, labels = read("test")
    right = int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
    return {"accuracy": 100 * right / len(labels)}
