"""Train the dense digits network; a few seconds on one CPU core.

Needs torch and safetensors, nothing else. Network, data and loss are those of the recipe,
`../digits.py`.

    pip install torch safetensors
    python train.py [--output FILE] [--epochs N] [--seed N] [--start FILE] [--lr RATE]

A second run with the same packages on the same kind of machine writes the same bytes.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from digits import DigitsNet, build_model, evaluate, loss, train_data

HERE = Path(__file__).resolve().parent
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1.0


def train(model: DigitsNet, epochs: int, learning_rate: float) -> DigitsNet:
    """Train a network.

    Args:
        model: The network, changed in place.
        epochs: How often to go through the training images.
        learning_rate: At the beginning; it falls to zero along a cosine.

    Returns:
        The network, in evaluation mode.
    """
    data = train_data()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, foreach=False
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(data))
    for _ in range(epochs):
        for batch in data:
            mean = loss(model, batch)
            optimizer.zero_grad()
            torch.autograd.backward(mean)
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Parse the command line, train, write the network, print its accuracy."""
    parser = argparse.ArgumentParser(description="Train the dense digits network.")
    parser.add_argument("--output", type=Path, default=HERE / "model.safetensors")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="continue training this network")
    parser.add_argument("--lr", type=float, default=LEARNING_RATE)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = build_model()
    if options.start is not None:
        model.load_state_dict(load_file(options.start))
    train(model, options.epochs, options.lr)
    save_file(model.state_dict(), options.output, metadata={"format": "pt"})
    with torch.no_grad():
        print(f"test accuracy {evaluate(model)['accuracy']:.2f} %")


if __name__ == "__main__":
    main()
