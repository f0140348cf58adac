"""What every family of models offers: a description in a config, and the module that it makes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from segkd.common.plain import Block
from segkd.common.values import PathText

if TYPE_CHECKING:  # a config is checked before torch is loaded
    from torch import nn

    from segkd.network import Preprocess


Triple = tuple[float, float, float]
_Above0 = Annotated[float, Field(gt=0)]


class Normalization(Block):
    """Mean and standard deviation of each channel of images in 0 to 1."""

    mean: Triple = Field(description="of red, green and blue")
    std: tuple[_Above0, _Above0, _Above0] = Field(description="likewise")


class ModelBlock(Block):
    """What a config says of a model of any family: ``student:``, ``teacher:`` or an entry of ``teachers:``.

    A family's own block derives from this, and is read without its library: what needs that is imported in `build`.
    """

    family: str = Field("", description="name of a family, or package.module:Name of one's own")
    checkpoint: PathText | None = Field(None, description="weights to start from: a file or a run directory")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the architecture")


@dataclass
class Built:
    """A model as its family makes it.

    Attributes:
        module: maps normalised images (B, channels, H, W) to what `segkd.adapter.read_logits` reads, or to features.
        preprocess: what its images are.
        classes: the names of its classes where its own files say them; None where it was asked for a number of them.
        settings: JSON values of which the family's block makes the same module again, weights left out.
        features: whether it has no classes: a teacher whose features alone are read.
        note: one line that the user is told, such as that the head starts from random weights; empty for none.
    """

    module: "nn.Module"
    preprocess: "Preprocess"
    classes: list[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    features: bool = False
    note: str = ""


class Family(ABC):
    """Models of one library.

    A class, not an instance, is what a name stands for; it is never called on more than one model at a time.

    Attributes:
        name: what a config calls it.
        title: one line for ``segkd methods``.
        block: what a config says of such a model.
        tasks: those that it has models for.
        only_features: whether none of its models has classes: they are teachers of features, and no students.
        extra: the extra of this package that brings its library, where that does not come by itself.
        names_code: whether its block names code that is run: a config may do so, a saved folder's description never.
        kept: keys of ``block`` that `Built.settings` has, and so a saved student's config.json, which a stranger may
            have written: those that name and size a network, none that loads something or names code.
        encoders: names of the submodules that are pretrained, which ``optimizer.encoder_lr`` is the rate of.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    block: ClassVar[type[ModelBlock]]
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    only_features: ClassVar[bool] = False
    extra: ClassVar[str | None] = None
    names_code: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ("arch", "options")
    encoders: ClassVar[tuple[str, ...]] = ("encoder",)

    @classmethod
    @abstractmethod
    def build(cls, block: Any, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """Return a model.

        Args:
            block: an instance of ``block``.
            classes: the names of the classes that it is to have; None for those that its own files say.
            weights: whether pretrained weights are loaded; False where others are loaded over them. Nothing is
                fetched from a network then.

        Raises:
            SegkdError: an unknown name or option (with the nearest), a library that is not installed (with the extra
                that brings it), weights that do not fit or cannot be had.
        """

    @classmethod
    def load(cls, module: "nn.Module", path: str | Path) -> bool:
        """Load weights into a model of this family, all of them or none; here under the module's own names.

        Args:
            module: of a model from `build`.
            path: a .safetensors, .pth, .pt or .bin file, a Lightning checkpoint of this project, a run directory, or
                the ``student`` folder in it.

        Returns:
            Whether all of it was loaded; False where a head that only training needs has got no weights.

        Raises:
            SegkdError: the file is missing, unreadable, or of another model or number of classes.
        """
        from segkd.common.student import weights_file
        from segkd.common.weights import check_fit, read_state_dict

        file = weights_file(path)
        state = read_state_dict(file)
        check_fit(module, state, file)
        module.load_state_dict(state)
        return True

    @classmethod
    def as_map(cls, module: "nn.Module", output: Any, size: tuple[int, int]) -> Any:
        """Return what a submodule gave for images of a (height, width), tokens (B, N, C) as a map (B, C, h, w).

        Here what is a map already.
        """
        return output
