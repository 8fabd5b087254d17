"""Runs TorchScript models in segx."""
