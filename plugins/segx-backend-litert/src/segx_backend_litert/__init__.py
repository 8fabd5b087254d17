"""Runs .tflite models in segx with LiteRT, without TensorFlow and torch."""
