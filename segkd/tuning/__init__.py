"""Searching for the values of a config that help most, measured on a part of train that is held out."""
