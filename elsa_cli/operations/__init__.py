"""What the commands do: paths and options in, a report out; nothing is printed."""
