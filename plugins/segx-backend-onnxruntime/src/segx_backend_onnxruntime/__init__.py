"""Runs ONNX models in segx with ONNX Runtime, without torch."""
