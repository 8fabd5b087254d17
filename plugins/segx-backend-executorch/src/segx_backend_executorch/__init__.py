"""Runs ExecuTorch programs in segx."""
