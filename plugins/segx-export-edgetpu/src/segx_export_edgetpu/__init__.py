"""Coral Edge TPU export for segx."""
