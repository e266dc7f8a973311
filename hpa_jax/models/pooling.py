"""Maximum and average pooling of [N, H, W, F], with torch's edges.

The maximum has a custom gradient: XLA's (select-and-scatter) takes ten times as long on CPU.  The
forward pass stores the position of the maximum in its window, in one byte, and the backward pass
sums, for each phase of the stride, the windows that can have chosen that position.  CPU
time of forward and backward of the stem's pool, [8, 128, 128, 64], 3x3 by 2: 19 ms against 270
(autodiff of shifted maxima: 164).  GPUs use the same code, not measured.  On TPU the maximum is
XLA's `reduce_window` with its own gradient.  The first of equal values gets the whole gradient, as
in torch.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Sides = tuple[tuple[int, int], tuple[int, int]]


def pair(value: Pair) -> tuple[int, int]:
    """Return (v, v) for a number; a pair unchanged."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def sides(padding: Padding) -> Sides:
    """Return ((top, bottom), (left, right)) for a number, (vertical, horizontal) or all four."""
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    return pair(vertical), pair(horizontal)


def max_pool(
    x: jax.Array, window: Pair, strides: Pair, *, padding: Padding = 0, ceil_mode: bool = False
) -> jax.Array:
    """Maximum pooling as torch.nn.MaxPool2d."""
    window, strides = pair(window), pair(strides)
    edges = _pool_edges(x.shape[1:3], window, strides, sides(padding), ceil_mode)
    return _maximum(x, window, strides, edges)


def windowed_maximum(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], edges: Sides
) -> jax.Array:
    """Compute the maximum over windows of x padded by `edges` with XLA's `reduce_window`."""
    lowest = jnp.array(-jnp.inf, x.dtype)
    cut = [(0, 0, 0), *((0, min(high, 0), 0) for _, high in edges), (0, 0, 0)]
    padded = ((0, 0), *((low, max(high, 0)) for low, high in edges), (0, 0))
    return lax.reduce_window(
        lax.pad(x, lowest, cut), -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padded
    )


def avg_pool(
    x: jax.Array,
    window: Pair,
    strides: Pair,
    *,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """Average pooling as torch.nn.AvgPool2d; the extra edge of `ceil_mode` is not counted."""
    window, strides, padding = pair(window), pair(strides), sides(padding)
    edges = _pool_edges(x.shape[1:3], window, strides, padding, ceil_mode)
    total = lax.reduce_window(
        x.astype(jnp.promote_types(x.dtype, jnp.float32)),
        0.0,
        lax.add,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *edges, (0, 0)),
    )
    rows, columns = (
        _pool_counts(
            total.shape[1 + i],
            x.shape[1 + i],
            window[i],
            strides[i],
            padding[i],
            count_include_pad,
        )
        for i in (0, 1)
    )
    return (total / (rows[:, None] * columns)[None, :, :, None]).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _maximum(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], edges: Sides
) -> jax.Array:
    """Compute the maximum over windows of x padded by `edges`; negative ends are cropped."""
    return lax.platform_dependent(
        x,
        tpu=lambda x: windowed_maximum(x, window, strides, edges),
        default=lambda x: functools.reduce(jnp.maximum, _places(x, window, strides, edges)),
    )


def _maximum_forward(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], edges: Sides
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    kind = jnp.int8 if window[0] * window[1] <= 128 else jnp.int32

    def noted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, *others = _places(x, window, strides, edges)
        best, winner = first, jnp.zeros(first.shape, kind)
        for number, value in enumerate(others, 1):
            winner = jnp.where(value > best, kind(number), winner)
            best = jnp.maximum(best, value)
        return best, winner

    def plain(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        best = windowed_maximum(x, window, strides, edges)
        return best, jnp.zeros(best.shape, kind)  # unused

    best, winner = lax.platform_dependent(x, tpu=plain, default=noted)
    return best, (x, winner)  # each platform uses one of them; the compiler drops the other


def _maximum_backward(
    window: tuple[int, int],
    strides: tuple[int, int],
    edges: Sides,
    saved: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array]:
    def noted(x: jax.Array, winner: jax.Array, gradient: jax.Array) -> jax.Array:
        phases = []
        for a in range(strides[0]):
            row = [_phase(winner, gradient, (a, b), window, strides) for b in range(strides[1])]
            n, h, w, f = row[0].shape
            joined = jnp.concatenate([plane[:, :, :, None] for plane in row], axis=3)
            phases.append(joined.reshape(n, h, 1, w * strides[1], f))
        whole = jnp.concatenate(phases, axis=2).reshape(n, h * strides[0], w * strides[1], f)
        return _cropped(whole, x.shape[1:3], edges)

    def plain(x: jax.Array, winner: jax.Array, gradient: jax.Array) -> jax.Array:
        del winner
        pooled = functools.partial(windowed_maximum, window=window, strides=strides, edges=edges)
        return jax.vjp(pooled, x)[1](gradient)[0]

    return (lax.platform_dependent(*saved, gradient, tpu=plain, default=noted),)


_maximum.defvjp(_maximum_forward, _maximum_backward)


@jax.custom_vjp
def global_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over space: [N, H, W, F] -> [N, F] float32.

    JAX's own gradient asks again which values equal the maximum and divides by their number, which
    is zero where the compiler computed x twice and rounded it differently.
    """
    return x.max((1, 2)).astype(jnp.float32)


def _global_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    winner = x.reshape(x.shape[0], -1, x.shape[3]).argmax(1, keepdims=True)
    return global_max_pool(x), (x, winner)  # of x the backward pass needs the shape alone


def _global_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    x, winner = saved
    chosen = jnp.arange(x.shape[1] * x.shape[2])[:, None] == winner
    return (jnp.where(chosen, gradient[:, None, :], 0.0).reshape(x.shape).astype(x.dtype),)


global_max_pool.defvjp(_global_forward, _global_backward)


def _phase(
    winner: jax.Array,
    gradient: jax.Array,
    phase: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
) -> jax.Array:
    """Return the gradient of the padded positions at `phase` after a multiple of the strides.

    Its shape is [N, h + reach, w + reach, F] for all phases, where reach is the number of strides
    that a window spans beyond its first.
    """
    reach = [(k - 1) // s for k, s in zip(window, strides)]
    n, h, w, f = gradient.shape
    total = jnp.zeros((n, h + reach[0], w + reach[1], f), gradient.dtype)
    zero = jnp.zeros((), gradient.dtype)
    for i, row in enumerate(range(phase[0], window[0], strides[0])):
        for j, column in enumerate(range(phase[1], window[1], strides[1])):
            chosen = jnp.where(winner == row * window[1] + column, gradient, zero)
            shift = ((0, 0, 0), (i, reach[0] - i, 0), (j, reach[1] - j, 0), (0, 0, 0))
            total = total + lax.pad(chosen, zero, shift)
    return total


def _cropped(padded: jax.Array, size: Sequence[int], edges: Sides) -> jax.Array:
    """Remove the padding; positions outside all windows are zero."""
    config = [(0, 0, 0)]
    for axis, (n, (low, _)) in enumerate(zip(size, edges), 1):
        config.append((-low, n + low - padded.shape[axis], 0))
    return lax.pad(padded, jnp.zeros((), padded.dtype), [*config, (0, 0, 0)])


def _places(
    x: jax.Array, window: tuple[int, int], strides: tuple[int, int], edges: Sides
) -> list[jax.Array]:
    """Return, for each position in the window, its value in every window [N, h, w, F]."""
    lowest = jnp.array(-jnp.inf, x.dtype)
    config = [(0, 0, 0), *((low, high, 0) for low, high in edges), (0, 0, 0)]
    x = lax.pad(x, lowest, config)
    n, height, width, f = x.shape
    last = [(size - k) // s * s for size, k, s in zip((height, width), window, strides)]
    return [
        lax.slice(x, (0, i, j, 0), (n, i + last[0] + 1, j + last[1] + 1, f), (1, *strides, 1))
        for i in range(window[0])
        for j in range(window[1])
    ]


def _pool_edges(
    size: Sequence[int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: Sides,
    ceil_mode: bool,
) -> Sides:
    """Return the padding of both axes for torch's output size, cropping unused rows."""
    edges = []
    for n, k, s, (low, high) in zip(size, window, strides, padding):
        span = n + low + high - k
        if span < 0:
            raise ValueError(f"a pool of {window} does not fit into {tuple(size)}")
        steps = -(-span // s) if ceil_mode else span // s
        if ceil_mode and steps * s >= n + low:  # a window may not start in the right padding
            steps -= 1
        edges.append((low, steps * s + k - n - low))
    return tuple(edges)


def _pool_counts(
    outputs: int, n: int, k: int, s: int, padding: tuple[int, int], include_pad: bool
) -> np.ndarray:
    """Return the number of values that each window of an axis averages: float32[outputs]."""
    low, high = padding
    start = np.arange(outputs) * s - low
    end = np.minimum(start + k, n + high)
    if not include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, n)
    return (end - start).astype(np.float32)
