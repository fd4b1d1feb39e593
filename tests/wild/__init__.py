"""Inputs found in the wild: tensors as packages from PyPI make or ship them."""
