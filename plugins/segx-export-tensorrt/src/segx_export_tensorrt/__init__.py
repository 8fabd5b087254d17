"""TensorRT export for segx."""
