"""What is done with a saved student: predict, export, bench."""
