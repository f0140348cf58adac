"""A student whose neck and head start from the teacher's weights, as published recipes of detection often have it."""

from torch import nn

from segkd.common.weights import size_of
from segkd.errors import SegkdError


def inherit(student: nn.Module, teacher: nn.Module, head_only: bool = False, dry: bool = False) -> int:
    """Copy the weights of a teacher's neck (FPN) and head into a student: all of them or none.

    What the student has besides, its backbone, keeps its own weights.

    Args:
        student: a detector.
        teacher: a detector of the same architecture; what it has more, such as a mask head, is left out.
        head_only: whether the neck keeps the student's own weights too.
        dry: whether only the names and shapes are compared.

    Returns:
        How many tensors the teacher gives.

    Raises:
        SegkdError: the student has a tensor that the teacher lacks or has in another shape; names the first.
    """
    theirs, parts = teacher.state_dict(), ("backbone.",) if head_only else ("backbone.body.",)
    own = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(parts)}
    for name, tensor in own.items():
        found = theirs.get(name)
        if found is not None and found.shape == tensor.shape:
            continue
        in_teacher = "and not in the teacher" if found is None else f"and {size_of(found)} in the teacher"
        way_out = "inherit: head leaves the neck" if name.startswith("backbone.") else "leave inherit"
        raise SegkdError(f"{name!r} is {size_of(tensor)} in the student {in_teacher}: {way_out} out")
    if not dry:
        student.load_state_dict({name: theirs[name] for name in own}, strict=False)
    return len(own)
