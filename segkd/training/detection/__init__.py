"""Detection runs: their configs, what they are built from, and their pictures."""
