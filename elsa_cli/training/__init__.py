"""Training level by level, sparsest first; a finished level is frozen, bit for bit.

All files but `options.py` and `events.py` need torch; `elsa_cli.models` says where
it is missing.
"""
