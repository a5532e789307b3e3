"""The cases of test_fuzz_api.py and how they are run, in a process of their own.

A case names a public function or class and says, by integers, which value each argument gets:
mostly one that fits the argument's name, else anything. Whatever comes of it, arrays that went in
must be as they were.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings

import numpy as np
from fuzz_kernels import FLOATS, INTEGERS, OBJECTS, contents, flat

import tilegrad
from tilegrad import keras, ops

# Errors that no wrong argument may lead to: they are slips of the library itself.
SLIPS = (AssertionError, SystemError, UnboundLocalError, RecursionError)

SHAPES = [(), (0,), (1,), (3,), (4, 3), (3, 4), (4, 1), (0, 3), (2, 3, 4), (2, 7, 6, 3)]
SHAPES += [(3, 3, 3, 4), (2, 8, 8, 1), (1, 1, 3, 2), (2, 1, 2, 1, 2), (1,) * 9, (0, 2**40)]
DTYPES = ["f4", "f4", "f4", "f4", "f8", "f2", "i4", "i8", "u1", "?", ">f4", "c8", "O", "U1"]


def array(n):
    """One of many arrays, mostly of float32."""
    n, shape = divmod(n, len(SHAPES))
    n, dtype = divmod(n, len(DTYPES))
    n, layout = divmod(n, 6)
    rng = np.random.default_rng(n)
    shape, dtype = SHAPES[shape], np.dtype(DTYPES[dtype])
    if 0 in shape:
        made = np.zeros(shape, dtype)
    else:
        made = np.asarray(3 * rng.standard_normal(shape)).astype(
            "f4" if dtype.kind == "U" else dtype
        )
    if dtype.kind == "f" and n % 4 == 3 and made.size:
        made.flat[0] = (np.nan, np.inf, -np.inf, 0, 3e38)[n % 5]
    if layout == 1:
        made = np.asfortranarray(made)
    elif layout == 2 and made.ndim:
        made = made[::-1]
    elif layout == 3:
        made.flags.writeable = False
    return made


def anything(n):
    kinds = [INTEGERS, FLOATS, OBJECTS, WORDS]
    if n % 5 == 4:
        return array(n // 5)
    values = kinds[n % 5]
    return values[n // 5 % len(values)]


WORDS = ["same", "valid", "relu", "softmax", "mse", "adam", "accuracy", "zeros", "auto", "none"]
WORDS += [
    "sum",
    "mean",
    "sparse_categorical_crossentropy",
    "glorot_uniform",
    "l2",
    "",
    "\0",
    "x" * 99,
]


def one_of(*values):
    return lambda n: values[n % len(values)]


def tensor(n):
    made = array(n // 2)
    if n % 2 and made.dtype.kind == "f":
        return tilegrad.Tensor(made, requires_grad=True)
    return made


def several(n):
    return [tensor(n), tensor(n), tensor(n // 3)][: n % 4]


_SMALL = one_of(1, 2, 3, 4, (1, 2), (2, 1), [3, 3], 7, 0, -1)
_AXIS = one_of(-1, 0, 1, 2, None, (0, 1), (-1,), -5, 9)
_SHAPE = one_of(
    (3,), (4, 3), (-1,), (2, -1), (), (1, 4, 3), (12,), (-1, -1), (2**40, 2**40), [3, 4]
)
_NUMBER = one_of(0.5, 0.0, 1.0, 1e-7, 2, -1.0, 1e30)
_ACTIVATION = one_of("relu", "softmax", "gelu", None, "tanh", "elu", "leaky_relu", "linear", "xx")
_TENSORS = ["x", "a", "b", "w", "logits", "y_true", "y_pred", "inputs", "values", "sample_weight"]
_COUNTS = ["units", "filters", "groups", "kernel_size", "pool_size", "strides", "dilation"]
FITTING = {
    **dict.fromkeys(_TENSORS, tensor),
    "xs": several,
    "labels": lambda n: np.random.default_rng(n).integers(-1, 5, (4,)),
    **dict.fromkeys(["axis", "axes"], _AXIS),
    **dict.fromkeys(["shape", "target_shape", "noise_shape"], _SHAPE),
    **dict.fromkeys(_COUNTS, _SMALL),
    "dilation_rate": _SMALL,
    "depth_multiplier": _SMALL,
    "padding": one_of("valid", "same", "VALID", "causal", 1, (1, 1), ((0, 1), (1, 0))),
    "activation": _ACTIVATION,
    "reduction": one_of(
        "mean", "sum", "none", None, "sum_over_batch_size", "mean_with_sample_weight"
    ),
    "index": one_of(
        0, -1, slice(None, None, -1), ..., None, (0, slice(1)), [0, 1], np.array([True])
    ),
    "seed": one_of(0, 1, None, 2**63, -1),
    "dtype": one_of(None, "float32", "float64", "int32"),
    "name": one_of(None, "layer", "a/b", ""),
    "data_format": one_of(None, "channels_last", "channels_first"),
    "use_bias": one_of(True, False),
}


def value_for(name, parameter, choice, n):
    """The default, what fits the name, or anything."""
    if choice % 8 == 0:
        return anything(n)
    if parameter.default is not inspect.Parameter.empty and choice % 8 < 5:
        return parameter.default
    if name in FITTING:
        return FITTING[name](n)
    return _NUMBER(n) if choice % 2 else anything(n)


def arguments_for(function, choices):
    """(args, kwargs) for `function`, from pairs of integers that are used in turn."""
    choices = list(choices)
    args, kwargs = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        choice, n = choices.pop(0) if choices else (1, 0)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = value_for(name, parameter, choice, n)
        if value is parameter.default:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            args.append(value)
        else:
            kwargs[name] = value
    return args, kwargs


def public(module, base):
    """The classes of a module that can be made and are no mere bases."""
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    return {
        f"{base.__name__} {name}": value
        for name, value in found.items()
        if issubclass(value, base) and value is not base
    }


OPS = {f"ops {name}": getattr(ops, name) for name in ops.__all__}
CLASSES = {
    **public(keras.layers, keras.layers.Layer),
    **public(keras.losses, keras.losses.Loss),
    **public(keras.metrics, keras.metrics.Metric),
    **public(keras.optimizers, keras.optimizers.Optimizer),
    **public(keras.initializers, keras.initializers.Initializer),
    **public(keras.regularizers, keras.regularizers.Regularizer),
}
FUNCTIONS = {
    f"{module.__name__.split('.')[-1]} {name}": value
    for module in (keras.activations, keras.losses)
    for name, value in vars(module).items()
    if inspect.isfunction(value)
    and value.__module__ == module.__name__
    and not name.startswith(("_", "get", "serialize", "deserialize"))
}
FUNCTIONS |= {f"utils {f.__name__}": f for f in (keras.utils.to_categorical, keras.utils.normalize)}
TRAINER = ["fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch"]
TARGETS = [*OPS, *CLASSES, *FUNCTIONS, *TRAINER, "Tensor", "compile"]

_DATA = [array(i * len(SHAPES) + k) for i in range(3) for k in (4, 5, 6, 3, 7)]
FIT = {
    "x": one_of(np.ones((4, 3), "f4"), *_DATA, {"a": np.ones(3)}, [np.ones((4, 3))], iter([])),
    "y": one_of(np.array([0, 1, 2, 1]), np.ones((4, 1)), None, np.array([0, 9, -1, 2]), *_DATA),
    "validation_data": one_of(None, (np.ones((4, 3)), np.zeros(4)), (np.ones((4, 3)),), 1),
    "sample_weight": one_of(None, np.ones(4), np.ones(3), np.full(4, np.nan), np.zeros((4, 1))),
    "class_weight": one_of(None, {0: 2.0}, {0: "x"}, {7: 1}, [1, 2]),
    "batch_size": one_of(None, 1, 3, 0, -1, 2**40, 2.5),
    "epochs": one_of(1, 2, 0, -1, 1.5),
    "steps": one_of(None, 1, 2, 0, 9),
    "steps_per_epoch": one_of(None, 1, 2, 0, 9),
    "validation_split": one_of(0.0, 0.5, 1.0, -1, 0.01),
    "validation_freq": one_of(1, 2, [1], 0, "x"),
    "shuffle": one_of(True, False, "batch", "x"),
    "callbacks": one_of(None, [], [None], keras.callbacks.Callback(), keras.callbacks.Callback),
    "verbose": one_of(0, 1, 2, "auto", 3),
}


def call(target, choices):
    """Do what the case says; the arrays that went in are returned, for a check, as they come."""
    if target in OPS or target in FUNCTIONS or target == "Tensor":
        function = OPS.get(target) or FUNCTIONS.get(target) or tilegrad.Tensor
        args, kwargs = arguments_for(function, choices)
        yield args, kwargs
        result = function(*args, **kwargs)
        if isinstance(result, tilegrad.Tensor) and result.requires_grad:
            result.sum().backward()
        return
    if target in TRAINER or target == "compile":
        yield from train(target, choices)
        return
    args, kwargs = arguments_for(CLASSES[target], choices)
    yield args, kwargs
    made = CLASSES[target](*args, **kwargs)
    given = [tensor(n) for _, n in choices[-3:]]
    yield given
    use(made, given)
    with contextlib.suppress(NotImplementedError):
        type(made).from_config(made.get_config())


def use(made, given):
    """Call a layer, loss, metric, optimizer, initializer or regularizer on some arrays."""
    x, y, z = given
    if isinstance(made, keras.metrics.Metric):
        made.update_state(x, y) if "sample" in str(type(made)) else made.update_state(x)
        made.result()
        made.reset_state()
    elif isinstance(made, keras.losses.Loss):
        made(x, y, z if np.ndim(z) == 1 else None)
    elif isinstance(made, keras.optimizers.Optimizer):
        variables = [keras.Variable(np.ones((4, 3))), keras.Variable(np.ones(3))]
        for grads in ([np.ones((4, 3)), np.ones(3)], [x, y]):
            made.apply(grads, variables)
    elif isinstance(made, keras.initializers.Initializer):
        made(np.shape(x) if np.size(x) else (3, 4))
    elif isinstance(made, keras.layers.Layer):
        for argument in (x, y):
            with contextlib.suppress(TypeError, ValueError, NotImplementedError):
                result = made(argument, **({"training": True} if np.ndim(z) == 2 else {}))
                if getattr(result, "requires_grad", False):
                    result.sum().backward()
        made.get_weights()
    else:
        made(x)


def train(target, choices):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(3, activation="softmax")]
    )
    method = getattr(model, target)
    kwargs = {}
    for (choice, n), name in zip(choices, inspect.signature(method).parameters, strict=False):
        if choice % 8 == 0:
            kwargs[name] = anything(n)
        elif name in FIT and (name in "xy" or choice % 8 < 4):
            kwargs[name] = FIT[name](n if choice % 3 == 0 else 0)
        elif name in FITTING and target == "compile":
            kwargs[name] = FITTING[name](n)
    if target != "compile":
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        if "epochs" in inspect.signature(method).parameters:
            epochs = kwargs.get("epochs")
            kwargs["epochs"] = epochs if not isinstance(epochs, int) or epochs < 4 else 2
    yield kwargs
    method(**kwargs)
    if target == "compile":
        model.fit(np.ones((4, 3), "f4"), np.array([0, 1, 2, 1]), verbose=0)


def prepare():
    """Nothing to choose: the best instruction set."""


def run(case):
    target, choices = case
    before = []
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            for given in call(TARGETS[target % len(TARGETS)], choices):
                arrays = [
                    value.data if isinstance(value, tilegrad.Tensor) else value
                    for value in tensors(given)
                ]
                before += [(a, contents(a)) for a in flat(arrays)]
    except SLIPS:
        raise
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    else:
        answer = "ok"
    if any(contents(a) != old for a, old in before):
        return f"wrong: an input was changed ({answer})"
    return answer


def tensors(value):
    """Arrays and tensors in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in tensors(item)]
    return [value] if isinstance(value, (np.ndarray, tilegrad.Tensor)) else []
