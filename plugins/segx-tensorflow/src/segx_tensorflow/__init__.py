"""ONNX graphs as TensorFlow functions, for the exporters of segx."""
