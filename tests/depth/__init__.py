"""A third task in one folder: monocular depth of the generated streets."""
