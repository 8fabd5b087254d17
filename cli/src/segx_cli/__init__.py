"""The command line of segx."""
