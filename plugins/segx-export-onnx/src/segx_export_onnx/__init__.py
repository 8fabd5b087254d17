"""ONNX export for segx."""
