"""ncnn export for segx."""
