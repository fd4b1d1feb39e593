"""Words and arithmetic, no file: levels, dtypes, masks as bits, pieces of work on threads."""
