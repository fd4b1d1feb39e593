"""Train the digits example network and write it beside this script.

Writes `model.safetensors` (the network) and `test.safetensors` (the held-out images and labels that
`accuracy.py` measures on). Takes a few seconds on one CPU core.

Needs torch, scikit-learn and safetensors, nothing else:

    pip install torch scikit-learn safetensors
    python train.py

A second run with the same packages on the same kind of machine writes the same bytes.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
SEED = 0
TEST_IMAGES = 360
HIDDEN = 256
EPOCHS = 100
BATCH = 64
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1.0


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


def load_split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Load the digits and split them, stratified by label, always the same way.

    Returns:
        Training images, training labels, test images, test labels; images U8 [N, 64], labels I64.
    """
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED
    )
    return (
        torch.tensor(train_x, dtype=torch.uint8),
        torch.tensor(train_y, dtype=torch.int64),
        torch.tensor(test_x, dtype=torch.uint8),
        torch.tensor(test_y, dtype=torch.int64),
    )


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


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """Train a network from scratch.

    Args:
        images: Training images, U8 [N, 64].
        labels: Their labels, I64 [N].

    Returns:
        The trained network, in evaluation mode.
    """
    model = DigitsNet()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False
    )
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images))[: batches * BATCH].view(batches, BATCH):
            loss = F.cross_entropy(model(shift(images[batch])), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: DigitsNet, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the network classifies correctly."""
    return float((model(images).argmax(1) == labels).double().mean())


def main() -> None:
    """Train, write both files, print the accuracies."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    train_x, train_y, test_x, test_y = load_split()
    model = train(train_x, train_y)
    save_file(model.state_dict(), HERE / "model.safetensors", metadata={"format": "pt"})
    save_file(
        {"images": test_x, "labels": test_y.to(torch.uint8)},
        HERE / "test.safetensors",
        metadata={"format": "pt"},
    )
    print(f"train {accuracy(model, train_x, train_y):.4f}")
    print(f"test  {accuracy(model, test_x, test_y):.4f}")


if __name__ == "__main__":
    main()
