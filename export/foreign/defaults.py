"""What a user need not say of a network from elsewhere: names of its classes, and the preparation of images."""

from __future__ import annotations

from export.errors import UnusableModel
from export.foreign.gate_images import GateImages
from export.foreign.origin import Finding, Origin
from export.foreign.pixels import ImageShape


def class_labels(
    said: tuple[str, ...] | None, of_data: tuple[str, ...] | None, origin: Origin, classes: int
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Names of the classes: as said, from the file, from the data, or numbers.

    Args:
        said: What the user named.
        of_data: The data's classes.
        origin: The network, whose file may name them.
        classes: Number of classes of the output.

    Raises:
        UnusableModel: The user named another number of classes, or one twice, or the network has names that can't be
            read.
    """
    if said is not None:
        if len(said) != classes:
            raise UnusableModel(f"--labels names {len(said)} classes, but its output has {classes}")
        if len({*said}) != len(said):
            raise UnusableModel("--labels names a class twice")
        return said, ()
    if origin.label_output is not None and len(origin.labels or ()) != classes:
        raise UnusableModel(
            f"its output {origin.label_output} names the class of an image, but where the names come from is unknown; "
            "give them in the order of the numbers with --labels"
        )
    for names, source in ((origin.labels, "from the file"), (of_data, "from the data")):
        if names and len(names) == classes:
            return names, (Finding(subject="labels", text=f"{_list(names)}, {source}", option="--labels"),)
    names = tuple(map(str, range(classes)))
    return names, (Finding(subject="labels", text=f"{_list(names)}, as nothing names them", option="--labels"),)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:3])} to {names[-1]}"


def preparation_of(
    said: str | None, images: GateImages, image_shape: ImageShape, labels: tuple[str, ...]
) -> tuple[str, tuple[Finding, ...]]:
    """How a server makes other images fit: as said, as for the data, or as the network seems to need.

    Args:
        said: What the user said.
        images: The images that test it.
        image_shape: Height, width and channels that it takes.
        labels: Names of its classes.
    """
    if said is not None:
        return said, ()
    if images.preparation is not None:
        chosen, why = images.preparation, f"as for {images.source}"
    elif image_shape == (28, 28, 1) and labels == tuple("0123456789"):
        chosen, why = "mnist", "since it takes 28 x 28 gray and has the ten digits"
    else:
        chosen, why = "resize", "since it is no network for digits"
    return chosen, (Finding(subject="preparation", text=f"{chosen}, {why}", option="--preparation"),)
