"""Comparing methods fairly: one budget, several seeds, and a report that says what helped."""
