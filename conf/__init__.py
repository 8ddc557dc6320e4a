"""The configs that ship with the package; one folder per concern, found as ``pkg://mola_lightning.conf``."""
