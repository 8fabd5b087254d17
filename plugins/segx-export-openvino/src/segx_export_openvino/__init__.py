"""OpenVINO export for segx."""
