"""Runs TensorFlow.js models in segx, with Node.js."""
