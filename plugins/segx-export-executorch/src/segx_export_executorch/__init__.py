"""ExecuTorch export for segx."""
