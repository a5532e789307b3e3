"""PyTorch, eager or compiled: fused Adam, denormals flushed, images at hand as one tensor."""

import torch
from torch import nn


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
    arrays = [torch.from_numpy(a) for a in network.weights()]
    with torch.no_grad():
        for i, (own, given) in enumerate(zip(model.parameters(), arrays, strict=True)):
            if given.ndim == 4:
                given = given.permute(3, 2, 0, 1)
            elif (
                i == len(arrays) - 4
            ):  # rows of the first dense kernel: from (h, w, c) to (c, h, w)
                given = given.reshape(h, w, c, -1).permute(3, 2, 0, 1).flatten(1)
            elif given.ndim == 2:
                given = given.T
            own.copy_(given)
    return model


def prepare(network, batch, threads, layout="channels_last", compiled=False):
    torch.set_flush_denormal(True)  # as TensorFlow and XLA do; before its threads start
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    layout = getattr(torch, layout)
    model = model_of(network).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=True)
    criterion = nn.CrossEntropyLoss()

    def loss_of(images, labels):
        return criterion(model(images), labels)

    if compiled:
        loss_of = torch.compile(loss_of)

    def epoch(x, labels):
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        labels = torch.from_numpy(labels).long()
        total = 0.0
        for rows in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(images[rows], labels[rows])
            loss.backward()
            optimizer.step()
            total += loss.item()  # fit shows a running loss too
        return total * batch / len(images)

    return epoch
