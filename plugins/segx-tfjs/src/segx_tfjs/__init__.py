"""Finds and installs TensorFlow.js for the plugins of segx."""
