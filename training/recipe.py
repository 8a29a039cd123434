"""Recipes: everything about a training run that is neither the network nor the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.augmentation import Augmentation
from training.distillation import Distillation
from training.errors import TrainingError
from training.variety import Variety

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "one_cycle", "inverse_time")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: Its name for `--recipe`.
        epochs: Passes over the training part.
        batch_size: Images per step.
        learning_rate: Of the optimizer; the highest one of a schedule.
        source: Where the recipe comes from.
        validation_fraction: Share of the training set that is held out, taken from its end.
        optimizer: `adam`, or `sgd` with Nesterov momentum of 0.9.
        schedule: `constant`; `one_cycle`, up and down over the whole run; or `inverse_time`, Keras's former `decay`:
            the rate at step t is `learning_rate / (1 + decay * t)`.
        decay: Decay of `inverse_time`.
        augmentation: Random changes of the training images.
        label_smoothing: Probability that the loss spreads over all classes; the losses in the history include it.
        dropout: Rate of all dropout layers of the network; None keeps the network's own rates. Dropout acts only during
            training: the exported network is the same.
        copies: Number of changed copies of each image that are made before training; each epoch uses one of them,
            shifted by up to a pixel. 0 to change the images in each epoch anew.
        variety: Changes of digits beyond the augmentation, and pictures of no digit, among the copies. It is left out
            where the images are no digits laid out as MNIST's.
        distillation: How a larger network teaches this one; None for no teacher.
    """

    name: str
    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    source: str
    validation_fraction: float = 0.1
    optimizer: str = "adam"
    schedule: str = "constant"
    decay: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    dropout: float | None = None
    copies: int = 0
    variety: Variety | None = None
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if not 0 < self.validation_fraction < 1:
            raise ValueError("validation_fraction must lie between 0 and 1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError("label_smoothing must be at least 0 and below 1")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError("dropout must be at least 0 and below 1")
        if self.copies < 0 or ((self.variety or self.distillation) and not self.copies):
            raise ValueError("copies must be at least 1 for a variety or a teacher")
        if self.copies and self.label_smoothing:
            raise ValueError("label_smoothing does not apply to the targets of copies: leave it 0")
        if self.optimizer not in OPTIMIZERS or self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer must be one of {OPTIMIZERS}, schedule one of {SCHEDULES}")

    def with_epochs(self, epochs: int | None) -> Recipe:
        """Returns the recipe with another number of epochs; None changes nothing."""
        return self if epochs is None else replace(self, epochs=epochs)

    def fitted_images(self, images: int) -> int:
        """How many images of a training set, the first ones, the network learns from; the others are held out.

        Raises:
            TrainingError: There are too few.
        """
        held_out = int(images * self.validation_fraction)
        if held_out < 1 or images == held_out:
            raise TrainingError(f"{images} training images are too few to hold out {self.validation_fraction:.0%}")
        return images - held_out


PUBLISHED = Recipe(name="published", epochs=15, source="keras.io/examples/vision/mnist_convnet")

FAST = Recipe(
    name="fast",
    epochs=4,
    batch_size=96,
    learning_rate=6e-3,
    schedule="one_cycle",
    augmentation=Augmentation(shift_px=1),
    source="ours: one cycle up to a high learning rate, small batches, random shifts of up to one pixel",
)

ACCURATE = Recipe(
    name="accurate",
    epochs=40,
    batch_size=64,
    learning_rate=4e-3,
    schedule="one_cycle",
    augmentation=Augmentation(shift_px=1, rotation_deg=8, scale=0.08),
    label_smoothing=0.05,
    source="ours: one long cycle, small batches, random shifts, rotations and sizes, label smoothing",
)

# Architectures that were published with a recipe of their own.
_PUBLISHED_WITH = {
    "convnet_5x5_binary": Recipe(
        name="published",
        epochs=15,
        optimizer="sgd",
        learning_rate=1e-3,
        schedule="inverse_time",
        decay=1e-6,
        source="the network's own source; epochs and batch size are ours",
    ),
}

VARIETY = Variety(restyled=0.12, sent=0.11, corrupted=0.06, drawn=0.06, non_digits=0.14)
_COPIED = Augmentation(shift_px=1, rotation_deg=10, scale=0.1)

# Networks that the general recipe does not suit. The smallest network learns most from a larger one and with little
# dropout. A network with batch normalisation needs fewer epochs and larger batches.
_ACCURATE_WITH = {
    "mnist_convnet": replace(
        ACCURATE,
        epochs=100,
        batch_size=96,
        learning_rate=3e-3,
        augmentation=_COPIED,
        dropout=0.0,
        label_smoothing=0.0,
        copies=8,
        variety=VARIETY,
        distillation=Distillation(teacher="convnet_batchnorm", share=0.7, temperature=2.0),
        source="ours: one long cycle; other hands, pens and cameras; what is no digit; taught by convnet_batchnorm",
    ),
    "convnet_batchnorm": Recipe(
        name="accurate",
        epochs=12,
        learning_rate=3e-3,
        schedule="one_cycle",
        augmentation=_COPIED,
        copies=8,
        variety=VARIETY,
        source="ours: one cycle, random shifts, rotations and sizes; other hands, pens and cameras; what is no digit",
    ),
}

NAMES = ("published", "fast", "accurate")


def recipe_for(name: str | None, architecture: str) -> Recipe:
    """Finds a recipe.

    Args:
        name: One of `NAMES`; None for the default of the network: `fast` for `mnist_convnet`, else `published`.
        architecture: Name of the network; `published` and `accurate` differ between networks.

    Raises:
        KeyError: There is no such recipe.
    """
    name = name or ("fast" if architecture == "mnist_convnet" else "published")
    if name == "published":
        return _PUBLISHED_WITH.get(architecture, PUBLISHED)
    if name == "accurate":
        return _ACCURATE_WITH.get(architecture, ACCURATE)
    return {"fast": FAST}[name]
