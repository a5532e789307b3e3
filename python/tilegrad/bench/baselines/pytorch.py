"""PyTorch, eager or compiled: fused Adam, denormals flushed, images at hand as one tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

VERSION = torch.__version__


def model_of(network):
    h, w, c = network.flat()
    channels, modules = network.image[-1], []
    for block in network.blocks:
        for filters in block:
            modules += [nn.Conv2d(channels, filters, 3, padding=network.padding), nn.ReLU()]
            channels = filters
        modules.append(nn.MaxPool2d(2))
    modules += [nn.Flatten(), nn.Linear(h * w * c, network.units), nn.ReLU()]
    model = nn.Sequential(*modules, nn.Linear(network.units, 10))
    load(model, network, network.weights())
    return model


def load(model, network, weights) -> None:
    """Copy weights in the common layout into the model's parameters."""
    with torch.no_grad():
        for i, (own, array) in enumerate(zip(model.parameters(), weights, strict=True)):
            given = torch.from_numpy(array)
            if given.ndim == 4:
                given = given.permute(3, 2, 0, 1)
            elif i == len(weights) - 4:  # rows of the first dense kernel: (h, w, c) to (c, h, w)
                given = given.reshape(*network.flat(), -1).permute(3, 2, 0, 1).flatten(1)
            elif given.ndim == 2:
                given = given.T
            own.copy_(given)


def save(model, network) -> list[np.ndarray]:
    """The model's parameters in the common layout."""
    h, w, c = network.flat()
    parameters = [p.detach() for p in model.parameters()]
    arrays = []
    for i, own in enumerate(parameters):
        if own.ndim == 4:
            own = own.permute(2, 3, 1, 0)
        elif i == len(parameters) - 4:
            own = own.reshape(-1, c, h, w).permute(2, 3, 1, 0).flatten(0, 2)
        elif own.ndim == 2:
            own = own.T
        arrays.append(own.contiguous().numpy())
    return arrays


class TorchTrainer:
    def __init__(self, network, batch: int, layout, compiled: bool):
        self._network, self._batch, self._layout = network, batch, layout
        self._model = model_of(network).to(memory_format=layout)
        criterion = nn.CrossEntropyLoss()

        def loss_of(images, labels):
            return criterion(self._model(images), labels)

        self._loss_of = torch.compile(loss_of) if compiled else loss_of
        parameters = self._model.parameters()
        self._optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-7, fused=True)

    def restart(self, weights, seed):
        torch.manual_seed(seed)
        load(self._model, self._network, weights)
        for state in self._optimizer.state.values():  # in place: new memory would be new pages
            for value in state.values():
                value.zero_()

    def images(self, x):
        return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self._layout)

    def epoch(self, images, labels):
        labels = torch.from_numpy(labels).long()
        total = 0.0
        for rows in torch.randperm(len(images)).split(self._batch):
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss_of(images[rows], labels[rows])
            loss.backward()
            self._optimizer.step()
            total += loss.item()  # fit shows a running loss too
        return total * self._batch / len(images)

    def weights(self):
        return save(self._model, self._network)

    def predict(self, images):
        with torch.no_grad():
            return np.concatenate(
                [self._model(part).argmax(dim=1).numpy() for part in images.split(500)]
            )


def prepare(network, batch, threads, layout="channels_last", compiled=False):
    torch.set_flush_denormal(True)  # as TensorFlow and XLA do; before its threads start
    torch.set_num_threads(threads)
    return TorchTrainer(network, batch, getattr(torch, layout), compiled)
