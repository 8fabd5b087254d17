"""TensorRT as a backend of segx."""
