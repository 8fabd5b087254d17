"""PaddlePaddle export for segx."""
