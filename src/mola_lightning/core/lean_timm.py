"""Imports timm without wandb, which timm imports where it is installed, for a helper of its own training script.

That import takes longer the more modules are loaded: beside torch and Lightning 8 of 17 seconds until a command begins.
Import this module before anything of timm. wandb itself is not touched: ``logger=wandb`` imports it when it is used.
"""

import sys

if "wandb" in sys.modules:
    import timm
else:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # what Python takes for: there is no such module
    try:
        import timm
    finally:
        del sys.modules["wandb"]

__all__ = ["timm"]
