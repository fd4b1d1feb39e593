"""The nested checkpoint: dense weights, a mask for every level, a manifest."""
