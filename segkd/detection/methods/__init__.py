"""Methods on detectors' heads and boxes, one file each; `DetectionAdapter.prepare` has what one may say of itself."""
