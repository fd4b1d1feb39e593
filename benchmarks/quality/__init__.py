"""What the levels are worth beside networks trained alone: `python -m benchmarks.quality`."""
