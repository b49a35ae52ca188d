"""Bodies of the three HTTP APIs. Ids only: dense indices never leave a process."""
