"""A user's model and data: recipes, networks, tensors, devices, processes.

This room needs torch. Importing anything from it raises MissingPackage where torch is missing.
"""

from elsa_cli.core.packages import require

require("torch", "train")
