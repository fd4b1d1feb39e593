"""Write the digits data beside this script: `train.safetensors` and `test.safetensors`.

Needs numpy, safetensors and scikit-learn, which carries the images:

    pip install scikit-learn safetensors
    python make_data.py
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
SEED = 0
TEST_IMAGES = 360


def save(images: NDArray[np.float64], labels: NDArray[np.int64], path: Path) -> None:
    """Write images with pixels from 0 to 16, shape [N, 64], and their labels as bytes."""
    tensors = {"images": images.astype(np.uint8), "labels": labels.astype(np.uint8)}
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    """Split the digits, stratified by label, always the same way, and write both parts."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED
    )
    save(train_x, train_y, HERE / "train.safetensors")
    save(test_x, test_y, HERE / "test.safetensors")


if __name__ == "__main__":
    main()
