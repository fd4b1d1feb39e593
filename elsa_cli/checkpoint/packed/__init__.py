"""The packed checkpoint: every level is a prefix of the file."""
