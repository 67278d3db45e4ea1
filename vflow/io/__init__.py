"""What is on disk: configs with a format, and what became of the older ones."""
