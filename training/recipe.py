"""Recipes: everything about a training run that is neither the network nor the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import keras

from training.augmentation import Augmentation
from training.distillation import Distillation
from training.schedule import OneCycle
from training.smoothing import SmoothedCrossentropy

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "one_cycle", "inverse_time")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: What `--recipe` calls it.
        epochs: Passes over the training part.
        batch_size: Images a step.
        learning_rate: The optimizer's; of a schedule, the highest.
        source: Where the recipe comes from.
        validation_fraction: Share of the training set that is held out, taken from its end.
        optimizer: `adam`, or `sgd` with Nesterov momentum of 0.9.
        schedule: `constant`; `one_cycle`, up and down over the whole run; `inverse_time`, Keras's former `decay`: the
            rate of step t is `learning_rate / (1 + decay * t)`.
        decay: Of `inverse_time`.
        augmentation: Random changes of the training images.
        label_smoothing: Probability that the loss spreads over all classes; the history's losses contain it.
        dropout: Rate of all of the network's dropout layers; None leaves them as the network has them. They act during
            training alone: what is exported is the same.
        distillation: A larger network to learn from; None for none.
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
        if self.distillation and self.label_smoothing:
            raise ValueError("a teacher's targets are not smoothed besides")
        if self.optimizer not in OPTIMIZERS or self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer must be of {OPTIMIZERS}, schedule of {SCHEDULES}")

    def with_epochs(self, epochs: int | None) -> Recipe:
        """The same recipe over another number of epochs; itself where that is None."""
        return self if epochs is None else replace(self, epochs=epochs)

    def compile(self, model: keras.Model, *, images: int) -> None:
        """Gives the model its optimizer, loss, metrics and rate of dropout.

        Args:
            model: The network.
            images: Number of images that it will be fitted to; decides the length of a schedule.
        """
        rate = self._rate(steps=self.epochs * math.ceil(images / self.batch_size))
        if self.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
        else:
            optimizer = keras.optimizers.Adam(rate)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout) and self.dropout is not None:
                layer.rate = self.dropout
        loss: str | SmoothedCrossentropy
        loss = "categorical_crossentropy" if self.distillation else SmoothedCrossentropy(self.label_smoothing)
        model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])

    def _rate(self, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
        if self.schedule == "one_cycle":
            return OneCycle(self.learning_rate, steps)
        if self.schedule == "inverse_time":
            return keras.optimizers.schedules.InverseTimeDecay(self.learning_rate, decay_steps=1, decay_rate=self.decay)
        return self.learning_rate


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

# Where an architecture was published with a recipe of its own.
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

# Networks that the general recipe does not suit. The smallest one learns more from a larger one, with little dropout;
# with batch normalisation, larger batches and fewer epochs do.
_ACCURATE_WITH = {
    "mnist_convnet": replace(
        ACCURATE,
        epochs=30,
        dropout=0.1,
        label_smoothing=0.0,
        distillation=Distillation(teacher="convnet_batchnorm", share=0.5, temperature=3.0, copies=8),
        source="ours: one long cycle, small batches, random shifts, rotations and sizes, taught by convnet_batchnorm",
    ),
    "convnet_batchnorm": Recipe(
        name="accurate",
        epochs=16,
        learning_rate=3e-3,
        schedule="one_cycle",
        augmentation=Augmentation(shift_px=2, rotation_deg=10, scale=0.1),
        source="ours: one cycle, random shifts, rotations and sizes",
    ),
}

NAMES = ("published", "fast", "accurate")


def recipe_for(name: str | None, architecture: str) -> Recipe:
    """Finds a recipe.

    Args:
        name: One of `NAMES`; None for the network's default: `fast` where that is better, else `published`.
        architecture: The network; `published` and `accurate` differ between them.

    Raises:
        KeyError: No such recipe.
    """
    name = name or ("fast" if architecture == "mnist_convnet" else "published")
    if name == "published":
        return _PUBLISHED_WITH.get(architecture, PUBLISHED)
    if name == "accurate":
        return _ACCURATE_WITH.get(architecture, ACCURATE)
    return {"fast": FAST}[name]
