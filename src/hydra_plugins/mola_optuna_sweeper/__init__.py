"""A Hydra sweeper that searches hyper-parameters with Optuna."""
