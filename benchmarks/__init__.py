"""What is measured: `python -m benchmarks.speed`, `benchmarks.quality` and `benchmarks.step`."""
