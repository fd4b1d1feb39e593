"""What the same work costs with other tools; each file is run as a separate process."""
