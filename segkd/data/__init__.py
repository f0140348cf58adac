"""Data sets of all tasks: their descriptions, what their files hold, how they are read, augmented and sampled."""
