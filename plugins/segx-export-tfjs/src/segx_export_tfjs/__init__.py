"""TensorFlow.js export for segx."""
