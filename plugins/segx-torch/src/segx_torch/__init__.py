"""PyTorch for segx: safe checkpoints, the .pt backend and training."""
