"""Networks of PyTorch, exported to ONNX, with PyTorch's own answers. Runs by itself in an environment that has torch.

    python torch_models.py IMAGES.npy FOLDER

IMAGES.npy is uint8 [n, height, width, 3]. Writes NAME.onnx and NAME.npy, float32 [n, classes], for each network.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.relu(values + self.second(torch.relu(self.norm(self.first(values)))))


class Viewed(nn.Module):
    """Flattens as tutorials do, by `view`, and ends in a log softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.dense = nn.Conv2d(3, 4, 5), nn.Linear(4 * 4 * 4, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = nn.functional.max_pool2d(torch.relu(self.convolution(values)), 2)
        return nn.functional.log_softmax(self.dense(values.view(values.shape[0], -1)), dim=1)


def main(images_path: str, folder: str) -> None:
    """Exports every network with each exporter that this release of PyTorch has."""
    torch.manual_seed(0)
    images = torch.from_numpy(np.load(images_path)).float() / 255
    images = ((images - MEAN) / STD).permute(0, 3, 1, 2).contiguous()
    networks = {
        "logits": nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Dropout(), nn.Flatten(), nn.LazyLinear(5)),
        "residual": nn.Sequential(
            nn.Conv2d(3, 6, 3), Residual(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.Softmax(dim=1)
        ),
        "viewed": Viewed(),
        "sigmoid": nn.Sequential(nn.Flatten(), nn.LazyLinear(1), nn.Sigmoid()),
    }
    exporters = {"legacy": {"dynamo": False}, "dynamo": {"dynamo": True}}
    if "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        exporters = {"legacy": {}}
    elif importlib.util.find_spec("onnxscript") is None:
        del exporters["dynamo"]
    for name, network in networks.items():
        with torch.no_grad():
            network.eval()
            answers = network(images).numpy()
        for exporter, options in exporters.items():
            for batch in ("any", "one"):
                path = Path(folder) / f"{name}_{exporter}_{batch}.onnx"
                dynamic = {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}} if batch == "any" else {}
                if exporter == "dynamo":
                    dynamic = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if batch == "any" else {}
                    dynamic["external_data"] = False
                example = images[: 2 if batch == "any" else 1]
                names = {"input_names": ["input"], "output_names": ["output"]}
                torch.onnx.export(network, (example,), str(path), **names, **dynamic, **options)
                np.save(path.with_suffix(".npy"), answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
