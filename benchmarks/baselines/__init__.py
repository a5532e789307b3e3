"""How each library trains a `networks.Network`, at its best.

A baseline is a module with `prepare(network, batch, threads, **options)`, which returns
`epoch(x, labels) -> mean loss`: one pass in random order over images (n, h, w, c) and int32 labels,
n a multiple of the batch, going on from the weights of the last pass. Adam with a rate of 1e-3.
Preparing raises ImportError where the library is not installed.
"""
