"""Bytes on disk: the safetensors container, the bitmasks, the nested and the packed checkpoint."""
