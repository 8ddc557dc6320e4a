"""Hyper-parameter search: the space, the study of its trials, and what is said of it."""
