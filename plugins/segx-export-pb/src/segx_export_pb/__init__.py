"""Frozen TensorFlow graph export for segx."""
