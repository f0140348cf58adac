"""Detectors and what distilling them takes."""
