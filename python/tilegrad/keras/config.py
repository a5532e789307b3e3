"""Settings that hold for the whole process: float type, epsilon and image layout."""

from __future__ import annotations

_epsilon = 1e-7


def floatx() -> str:
    """The float type of weights and activations: always ``"float32"``."""
    return "float32"


def set_floatx(value: str) -> None:
    """Accept ``"float32"``, the only type that the layers compute in.

    Raises:
        ValueError: any other type.
    """
    if str(value) != "float32":
        raise ValueError(f"set_floatx: expected 'float32' (the only type supported), got {value!r}")


def epsilon() -> float:
    """The small number that keeps logarithms and divisions finite, 1e-7 unless set."""
    return _epsilon


def set_epsilon(value: float) -> None:
    """Set what `epsilon` returns.

    Raises:
        ValueError: a value that is not positive.
    """
    global _epsilon
    if not value > 0:
        raise ValueError(f"set_epsilon: expected a positive number, got {value!r}")
    _epsilon = float(value)


def image_data_format() -> str:
    """The layout of images: always ``"channels_last"``, (n, h, w, c)."""
    return "channels_last"


def set_image_data_format(data_format: str) -> None:
    """Accept ``"channels_last"``, the only layout that the kernels know.

    Raises:
        ValueError: any other layout.
    """
    check_data_format("set_image_data_format", data_format)


def check_data_format(what: str, data_format: str | None) -> str:
    """``"channels_last"`` if `data_format` is that or None, else a ValueError in `what`'s name."""
    if data_format in (None, "channels_last"):
        return "channels_last"
    hint = "; transpose the images to (n, h, w, c)" if data_format == "channels_first" else ""
    raise ValueError(f"{what}: expected data_format 'channels_last', got {data_format!r}{hint}")


def backend() -> str:
    """The name of what computes: ``"tilegrad"``."""
    return "tilegrad"
