"""Activation functions by name.

Each takes a tensor (or an array) and returns a tensor of the same shape. Those in `FUSED` are
computed inside dense and conv2d when a layer uses them with their default arguments.
"""

from __future__ import annotations

from .. import ops
from ..tensor import Tensor
from .identifiers import Registry


def linear(x):
    """x itself."""
    return x


def relu(x, negative_slope=0.0, max_value=None, threshold=0.0):
    """Rectified linear unit, with a slope, a ceiling and a threshold if wanted.

    y = max_value              where x >= max_value
        x                      where threshold < x < max_value
        negative_slope (x - threshold)   elsewhere

    Args:
        x: tensor of any shape.
        negative_slope: slope below the threshold, >= 0.
        max_value: the ceiling, >= 0, or None.
        threshold: where the function leaves the slope, >= 0.

    >>> relu([-1.0, 2.0, 7.0], max_value=6.0).numpy().tolist()
    [0.0, 2.0, 6.0]
    """
    if threshold == 0:
        y = ops.leaky_relu(x, negative_slope) if negative_slope else ops.relu(x)
    else:
        x = _tensor(x)
        y = _mask(x, x.data > threshold)
        if negative_slope:
            y = y - negative_slope * ops.relu(threshold - x)
    return y if max_value is None else ops.minimum(y, max_value)


def leaky_relu(x, negative_slope=0.2):
    """x where x > 0, else negative_slope x (Maas et al., ICML 2013)."""
    return ops.leaky_relu(x, negative_slope)


def relu6(x):
    """min(max(x, 0), 6)."""
    return ops.clip(x, 0.0, 6.0)


def elu(x, alpha=1.0):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al., arXiv:1511.07289)."""
    return ops.elu(x, alpha)


def celu(x, alpha=1.0):
    """x where x > 0, else alpha (exp(x / alpha) - 1) (Barron, arXiv:1704.07483)."""
    return ops.elu(_tensor(x) / alpha) * alpha


def selu(x):
    """scale elu(x, alpha), keeps mean 0 and variance 1 (Klambauer et al., arXiv:1706.02515)."""
    return ops.elu(x, 1.6732632423543772) * 1.0507009873554805


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return ops.sigmoid(x)


def tanh(x):
    """Hyperbolic tangent."""
    return ops.tanh(x)


def gelu(x, approximate=False):
    """x Phi(x), or its tanh approximation (Hendrycks and Gimpel, arXiv:1606.08415)."""
    return ops.gelu(x, approximate)


def silu(x):
    """x sigmoid(x), also called swish (Ramachandran et al., arXiv:1710.05941)."""
    return ops.silu(x)


swish = silu


def softplus(x):
    """log(1 + exp(x))."""
    return ops.softplus(x)


def softsign(x):
    """x / (1 + |x|)."""
    x = _tensor(x)
    return x / (1.0 + ops.absolute(x))


def softmax(x, axis=-1):
    """exp(x) / sum exp(x) along `axis`; the result remembers x as its `logits`.

    A crossentropy on the result is then computed from the logits, which is exact where the
    probabilities have saturated.

    >>> softmax([[0.0, 0.0]]).numpy().tolist()
    [[0.5, 0.5]]
    """
    return ops.softmax(x, axis)


def log_softmax(x, axis=-1):
    """x - log sum exp(x) along `axis`."""
    return ops.log_softmax(x, axis)


def exponential(x):
    """exp(x)."""
    return ops.exp(x)


def hard_sigmoid(x):
    """min(max(x / 6 + 1 / 2, 0), 1)."""
    return ops.clip(_tensor(x) / 6.0 + 0.5, 0.0, 1.0)


def hard_silu(x):
    """x hard_sigmoid(x), also called hard swish (Howard et al., arXiv:1905.02244)."""
    x = _tensor(x)
    return x * hard_sigmoid(x)


hard_swish = hard_silu


def hard_tanh(x):
    """min(max(x, -1), 1)."""
    return ops.clip(x, -1.0, 1.0)


def hard_shrink(x, threshold=0.5):
    """x where |x| > threshold, else 0."""
    x = _tensor(x)
    return _mask(x, abs(x.data) > threshold)


def soft_shrink(x, threshold=0.5):
    """x moved towards 0 by the threshold, and 0 within it."""
    x = _tensor(x)
    return x - ops.clip(x, -threshold, threshold)


def tanh_shrink(x):
    """x - tanh(x)."""
    x = _tensor(x)
    return x - ops.tanh(x)


def threshold(x, threshold, default_value):
    """x where x > threshold, else default_value."""
    x = _tensor(x)
    above = x.data > threshold
    return _mask(x, above) + Tensor((~above * default_value).astype(x.dtype), device=x.device)


def log_sigmoid(x):
    """log sigmoid(x)."""
    return -ops.softplus(-_tensor(x))


def mish(x):
    """x tanh(softplus(x)) (Misra, arXiv:1908.08681)."""
    x = _tensor(x)
    return x * ops.tanh(ops.softplus(x))


def glu(x, axis=-1):
    """a sigmoid(b), a and b the halves of x along `axis` (Dauphin et al., arXiv:1612.08083).

    Raises:
        ValueError: an odd size along `axis`.
    """
    x = _tensor(x)
    axis = axis % x.ndim
    size = x.shape[axis]
    if size % 2:
        raise ValueError(f"glu: expected an even size along axis {axis}, got shape {x.shape}")
    before = (slice(None),) * axis
    first, second = slice(0, size // 2), slice(size // 2, size)
    return x[(*before, first)] * ops.sigmoid(x[(*before, second)])


def sparse_plus(x):
    """0 below -1, x above 1, (x + 1)^2 / 4 between."""
    x = _tensor(x)
    return ops.square(ops.clip(x, -1.0, 1.0) + 1.0) / 4.0 + ops.relu(x - 1.0)


def sparse_sigmoid(x):
    """min(max((x + 1) / 2, 0), 1)."""
    return ops.clip((_tensor(x) + 1.0) / 2.0, 0.0, 1.0)


def squareplus(x, b=4):
    """(x + sqrt(x^2 + b)) / 2 (Barron, arXiv:2112.11687)."""
    x = _tensor(x)
    return (x + ops.sqrt(ops.square(x) + float(b))) / 2.0


def _tensor(x) -> Tensor:
    return x if isinstance(x, Tensor) and x.dtype.kind == "f" else Tensor._coerce(x)


def _mask(x: Tensor, keep) -> Tensor:
    """x where `keep`, else 0; the gradient flows where `keep`."""
    return x * Tensor(keep.astype(x.dtype), device=x.device)


# function -> (name, alpha) for ops.dense and ops.conv2d
FUSED = {
    linear: (None, None),
    relu: ("relu", None),
    leaky_relu: ("leaky_relu", 0.2),
    sigmoid: ("sigmoid", None),
    tanh: ("tanh", None),
    elu: ("elu", 1.0),
}

_FUNCTIONS = (
    *FUSED,
    *(relu6, celu, selu, gelu, silu, softplus, softsign, softmax, log_softmax, exponential),
    *(hard_sigmoid, hard_silu, hard_tanh, hard_shrink, soft_shrink, tanh_shrink, threshold),
    *(log_sigmoid, mish, glu, sparse_plus, sparse_sigmoid, squareplus),
)
_registry = Registry(
    "activation", "keras.activations", (), _FUNCTIONS, {"swish": silu, "hard_swish": hard_silu}
)


def get(identifier):
    """The activation of a name, a callable (a layer too), a config, or None (linear).

    Raises:
        ValueError: an unknown name; the message lists all.

    >>> get("relu") is relu, get(None) is linear
    (True, True)
    """
    if identifier is None:
        return linear
    if isinstance(identifier, dict):
        return deserialize(identifier)
    return _registry.get(identifier)


def serialize(activation):
    """The name of an activation function; the config of a layer used as one."""
    from . import layers

    if isinstance(activation, layers.Layer):
        return layers.serialize(activation)
    name = getattr(activation, "__name__", None)
    if _registry.table.get(name) is not activation:
        raise ValueError(
            f"activation: expected one of {', '.join(_registry.names())}, got {activation!r}"
        )
    return name


def deserialize(config, custom_objects=None):
    """The activation of a name, or of a layer's config."""
    from . import layers

    if isinstance(config, dict) and config.get("module") == "keras.layers":
        return layers.deserialize(config, custom_objects)
    return _registry.deserialize(config, custom_objects)
