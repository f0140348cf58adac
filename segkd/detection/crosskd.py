"""CrossKD under the path that it had in version 0.1, see `segkd.detection.methods.crosskd`."""

from segkd.detection.methods.crosskd import CrossKDBox, CrossKDClass, align_statistics

__all__ = ["CrossKDBox", "CrossKDClass", "align_statistics"]
