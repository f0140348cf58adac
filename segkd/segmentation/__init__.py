"""Training segmentation models: data, models, metrics, pictures."""
