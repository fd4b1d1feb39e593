"""Bytes at offsets, wherever they are: safetensors files read in pieces, outputs written whole."""
