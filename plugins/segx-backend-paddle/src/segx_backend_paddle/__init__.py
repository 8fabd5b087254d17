"""Paddle Inference as a backend of segx."""
