"""Which weights a level keeps: who takes part, how many, and which by their scores."""
