"""Masks in colours: an image file for each image, which shows each class in its colour."""

from typing import Literal

from segkd.data.formats.masks import Masks


class Colors(Masks):
    """A data set of images and masks in colours, those of ``classes``."""

    title = "masks as image files, each class in its colour"

    masks: Literal["colors"] = "colors"
