"""What other tools wrote, one reader a file."""
