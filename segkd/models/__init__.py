"""Where models come from: one file for each family, named in a config by ``family``."""
