"""What both tasks need besides the core: reading files, checking what a person wrote, progress, pictures."""
