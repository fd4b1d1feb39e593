"""Speed and memory of the commands, as ratios taken in one run: `python -m benchmarks.speed`."""
