"""What freezing adds to a training step: `python -m benchmarks.step`."""
