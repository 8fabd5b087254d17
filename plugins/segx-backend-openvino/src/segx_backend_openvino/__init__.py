"""Runs OpenVINO and ONNX models in segx with OpenVINO, without torch."""
