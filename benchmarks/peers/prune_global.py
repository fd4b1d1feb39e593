"""Global magnitude pruning with torch: `python -m benchmarks.peers.prune_global IN OUT AMOUNT`."""

from __future__ import annotations

import json
import sys
import time

from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from benchmarks.peers.prunable import is_prunable


def main(source: str, target: str, amount: float) -> dict[str, float]:
    """Zero the smallest weights of all matrices together.

    Returns:
        Seconds of pruning, `call`, and of all but imports, `work`.
    """
    start = time.perf_counter()
    state = load_file(source)
    modules = {}
    for name in [name for name, value in state.items() if is_prunable(name, value)]:
        module = nn.Module()
        module.register_parameter("weight", nn.Parameter(state.pop(name), requires_grad=False))
        modules[name] = module
    parameters = [(module, "weight") for module in modules.values()]
    begin = time.perf_counter()
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=amount)
    for module, name in parameters:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    call = time.perf_counter() - begin
    for name, module in modules.items():
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        state[name] = weight.data
    save_file(state, target, {"format": "pt"})
    return {"call": call, "work": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
