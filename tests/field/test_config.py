"""A config.json beside a checkpoint: used where transformers knows it, and never in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.forkserver import Server
from tests.field.tools import Choice, Field, normal
from tests.helpers import elsa

# A stand-in for the library: it is not installed where the tests run, and would be slow.
FAKE = """
import json
import os
import torch
from torch import nn


class AutoConfig:
    @classmethod
    def from_pretrained(cls, folder, local_files_only=False, trust_remote_code=None):
        assert local_files_only and trust_remote_code is False
        with open(os.path.join(folder, "config.json")) as file:
            fields = json.load(file)
        if fields["model_type"] != "tiny":
            raise ValueError(f"unknown model type {fields['model_type']}")
        config = cls()
        config.width = fields.get("width", 16)
        config.say = fields.get("say")
        return config


class TinyModel(nn.Module):
    base_model_prefix = "tiny"

    def __init__(self, config):
        super().__init__()
        if config.say == "raise":
            raise RuntimeError("no such\\nattention")
        if config.say:
            print(config.say)
        self.pos_emb = nn.Linear(config.width, 32, bias=False)
        self.fc = nn.Embedding(40, config.width)
        self.mix = nn.Linear(config.width, 8, bias=False)
        assert self.fc.weight.device.type == "meta"


class TinyForCausalLM(nn.Module):
    base_model_prefix = "tiny"

    def __init__(self, config):
        super().__init__()
        self.tiny = TinyModel(config)
        self.final = nn.Linear(config.width, 40, bias=False)

    def get_output_embeddings(self):
        return self.final


class AutoModel:
    @classmethod
    def from_config(cls, config, trust_remote_code=None):
        assert trust_remote_code is False
        return TinyModel(config)
"""
BASE = {
    "pos_emb.weight": normal(32, 16),
    "fc.weight": normal(40, 16, seed=1),
    "mix.weight": normal(8, 16, seed=2),
}
FULL = {f"tiny.{name}": tensor for name, tensor in BASE.items()} | {
    "final.weight": normal(40, 16, seed=3)
}
GOOD = {"model_type": "tiny", "architectures": ["TinyForCausalLM"]}
# What the classes say, and what the names alone say.
CLASSES = {"pos_emb.weight": "weight", "fc.weight": "embedding", "mix.weight": "weight"}
NAMES = {"pos_emb.weight": "position", "fc.weight": "weight", "mix.weight": "weight"}


def paths_to(folder: Path, text: str) -> dict[str, str]:
    """Write a library `transformers`; return the environment of a process that finds it."""
    (folder / "transformers").mkdir(parents=True)
    (folder / "transformers" / "__init__.py").write_text(text)
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the stand-in."""
    return paths_to(tmp_path_factory.mktemp("site"), FAKE)


@pytest.fixture(scope="module")
def installed(found: dict[str, str]) -> Iterator[Server]:
    """A command line that finds the stand-in."""
    running = Server(torch=True, env=found)
    yield running
    running.close()


LINE = ("sparsify", "model.safetensors", "--levels", "0.5", "--json")


def told(code: int, out: str, err: str) -> Choice:
    """Return what was chosen."""
    assert code == 0, err
    assert "Traceback" not in err
    return Choice(json.loads(out), err)


def chosen(field: Field, config: Any, server: Server, *options: str) -> Choice:
    """Sparsify the model beside a config: an object, or a text that is no JSON."""
    field.write("config.json", config if isinstance(config, str) else json.dumps(config))
    done = server.run(*LINE, *options, cwd=field.folder)
    return told(done.code, done.out, done.err)


@pytest.mark.parametrize(
    ("config", "tensors", "source"),
    [
        (GOOD, FULL, "TinyForCausalLM"),
        (GOOD, BASE, "TinyForCausalLM"),
        ({"model_type": "tiny", "architectures": ["TinyModel"]}, FULL, "TinyModel"),
        ({"model_type": "tiny", "architectures": ["TinyModel"]}, BASE, "TinyModel"),
        ({"model_type": "tiny"}, BASE, "TinyModel"),
        ({"model_type": "tiny", "architectures": ["TinyOfTheFuture"]}, FULL, "TinyModel"),
    ],
    ids=["full", "full of base", "base of full", "base", "no architecture", "unknown architecture"],
)
def test_the_classes_of_a_config(
    field: Field,
    installed: Server,
    config: Any,
    tensors: dict[str, torch.Tensor],
    source: str,
) -> None:
    """Names match with and without the prefix of the base model."""
    field.save(tensors)
    choice = chosen(field, config, installed)
    roles = {name.removeprefix("tiny."): role for name, role in choice.roles.items()}
    if "final.weight" in roles:
        assert roles.pop("final.weight") == "head"
    assert roles == CLASSES
    assert choice.json["told_by"] == f"the classes of {source}"
    assert field.manifest()["method"]["roles"]["told_by"] == f"the classes of {source}"


def test_without_the_library_or_the_wish_nothing_changes(field: Field, installed: Server) -> None:
    """The same bytes as without a config."""
    field.save(BASE)
    nested = field.folder / "model.elsa.safetensors"
    assert field.run("sparsify", "model.safetensors", "--levels", "0.5").code == 0
    plain = nested.read_bytes()
    without = chosen(field, GOOD, field.server)
    assert (without.roles, nested.read_bytes()) == (NAMES, plain)
    unwanted = chosen(field, GOOD, installed, "--no-config")
    assert (unwanted.roles, nested.read_bytes()) == (NAMES, plain)
    assert unwanted.json["told_by"] == "names"
    assert chosen(field, GOOD, installed).roles == CLASSES
    assert nested.read_bytes() != plain


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "",
        "[1, 2]",
        "\ufeff\x00",
        {},
        {"model_type": "never heard of"},
        {"model_type": "tiny", "architectures": 3},
        {"model_type": "tiny", "architectures": [["TinyModel"]]},
        {"model_type": "tiny", "architectures": ["TinyModel"], "say": "raise"},
        {"model_type": "tiny", "architectures": ["TinyModel"], "width": "wide"},
        {"model_type": "tiny", "architectures": ["AutoModel"]},
        {"model_type": "tiny", "architectures": ["json"]},
        {**GOOD, "width": 24},
        {"model_type": "tiny", "architectures": ["TinyModel"], "width": 10**12},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_used_changes_nothing(
    field: Field, installed: Server, config: Any
) -> None:
    """It is another library's, damaged, or of a model with other shapes: the names tell."""
    field.save(BASE)
    choice = chosen(field, config, installed)
    assert choice.roles == NAMES
    assert choice.json["told_by"] == "names"
    assert choice.warned == []


def test_a_tensor_of_another_shape_is_not_believed(field: Field, installed: Server) -> None:
    field.save({**BASE, "pos_emb.weight": normal(33, 16)})
    choice = chosen(field, GOOD, installed)
    assert choice.roles == {**CLASSES, "pos_emb.weight": "position"}


def test_what_the_library_prints_is_not_the_result(field: Field, installed: Server) -> None:
    field.save(BASE)
    choice = chosen(field, {**GOOD, "say": "welcome"}, installed)
    assert choice.roles == CLASSES
    assert "welcome" in choice.err


def test_a_folder_called_config_json_changes_nothing(field: Field, installed: Server) -> None:
    field.save(BASE)
    (field.folder / "config.json").mkdir()
    done = installed.run(*LINE, cwd=field.folder)
    assert told(done.code, done.out, done.err).roles == NAMES


def test_a_library_that_cannot_be_imported_changes_nothing(field: Field) -> None:
    field.save(BASE)
    field.write("config.json", json.dumps(GOOD))
    env = paths_to(field.folder / "site", "import no_such_module\n")
    done = elsa(*LINE, cwd=field.folder, env=env)
    assert told(done.returncode, done.stdout.decode(), done.stderr.decode()).roles == NAMES


def test_bytes_from_standard_input_have_no_config_beside(field: Field, installed: Server) -> None:
    """What lies in the folder of the spooled bytes, or in this one, is not theirs."""
    field.save(BASE)
    field.write("config.json", json.dumps(GOOD))
    data = (field.folder / "model.safetensors").read_bytes()
    line = ("sparsify", "-", *LINE[2:], "-o", "out.elsa.safetensors")
    env = {"TMPDIR": str(field.folder)}
    done = installed.call(*line, cwd=field.folder, env=env, stdin=data)
    assert told(done.returncode, done.stdout.decode(), done.stderr.decode()).roles == NAMES
