"""Runs .mnn models in segx."""
