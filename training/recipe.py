"""Recipes: everything about a training run that is neither the network nor the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import keras


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: What `--recipe` calls it.
        epochs: Passes over the training part.
        batch_size: Images a step.
        learning_rate: Adam's, constant.
        validation_fraction: Share of the training set that is held out, taken from its end.
        source: Where the recipe comes from.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    validation_fraction: float
    source: str

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if not 0 < self.validation_fraction < 1:
            raise ValueError("validation_fraction must lie between 0 and 1")

    def with_epochs(self, epochs: int | None) -> Recipe:
        """The same recipe over another number of epochs; itself where that is None."""
        return self if epochs is None else replace(self, epochs=epochs)

    def compile(self, model: keras.Model) -> None:
        """Gives the model its optimizer, loss and metrics."""
        model.compile(
            optimizer=keras.optimizers.Adam(self.learning_rate),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )


PUBLISHED = Recipe(
    name="published",
    epochs=15,
    batch_size=128,
    learning_rate=1e-3,
    validation_fraction=0.1,
    source="keras.io/examples/vision/mnist_convnet",
)

RECIPES = {recipe.name: recipe for recipe in (PUBLISHED,)}
