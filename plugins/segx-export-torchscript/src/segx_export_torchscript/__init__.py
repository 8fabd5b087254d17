"""TorchScript export for segx."""
