"""TensorFlow Lite (LiteRT) export for segx."""
