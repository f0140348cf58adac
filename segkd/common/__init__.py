"""What both tasks need besides the core: descriptions of data sets, reading, loading, augmentation, pictures."""
