"""Elementary functions as the kernels share them: NaN goes through, nothing overflows on the way.

In float32 `exp` multiplies by log2(e) in one rounding and takes the device's own power of two, good
to two roundings, so that its relative error grows with |x|. That is no worse than what the rounding
of x itself does to exp(x), and is taken where x has been rounded; `exp_exact` is for log-scales,
which are exact, and where an error grows further on. What underflows becomes 0. Division, too, is
the device's own, good to two roundings, but for `divide`.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
# ln 2 in two parts; an integer below 2^9 times the first is exact in float32.
_LN2_HIGH = tl.constexpr(0.693145751953125)
_LN2_LOW = tl.constexpr(1.4286068203094172e-06)
_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, in the low bits
_LEAST_EXPONENT = tl.constexpr(-87.0)
_MOST_EXPONENT = tl.constexpr(88.0)


@triton.jit
def larger(x, y):
    """The larger of two; NaN if either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(x, y):
    """The smaller of two; NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp(x, low, high):
    """x within [low, high]; NaN stays NaN."""
    return smaller(larger(x, low), high)


@triton.jit
def exp(x):
    """e to the x, as exact as an x that has been rounded allows."""
    return tl.exp(x) if x.dtype == tl.float64 else tl.exp2(x * _LOG2_E)


@triton.jit
def exp_exact(x):
    """exp(x) within about a rounding; in float32 it saturates at exp(-87) and exp(88).

    x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by a minimax polynomial of relative error 4e-9.
    """
    if x.dtype == tl.float64:
        result = tl.exp(x)
    else:
        x = clamp(x, _LEAST_EXPONENT, _MOST_EXPONENT)
        shifted = x * _LOG2_E + _MAGIC
        n = shifted - _MAGIC
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        tail = 0.0083687168797281399 + r * 0.0013814598646664034
        tail = 0.49999993447796487 + r * (
            0.16666520631709497 + r * (0.041668388045313997 + r * tail)
        )
        power = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(
            tl.float32, bitcast=True
        )
        result = power * (r + r * r * tail) + power
    return result


@triton.jit
def divide(x, y):
    """The quotient, within half a rounding."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit
def log(x):
    """Natural logarithm of a positive number, to a rounding of 1 or of its own size."""
    return tl.log(x) if x.dtype == tl.float64 else tl.log2(x) * _LN_2


@triton.jit
def sigmoids(z):
    """sigmoid(z) and sigmoid(-z), each with its full accuracy, and the larger of the two."""
    odds = exp(-tl.abs(z))
    near = 1.0 / (1.0 + odds)
    far = odds * near
    return tl.where(z < 0, far, near), tl.where(z < 0, near, far), near


@triton.jit
def tanh(x):
    """Hyperbolic tangent, good to a rounding of 1."""
    s = exp_exact(-2.0 * tl.abs(x))
    t = (1.0 - s) / (1.0 + s)
    return tl.where(x < 0, -t, t)


@triton.jit
def expm1_of_negative(x):
    """exp(x) - 1 for x <= 0, each value accurate to a few roundings of its own size."""
    if x.dtype == tl.float64:
        # Where exp(x) is near 1: (e - 1) x / log(e), in which the rounding of e cancels.
        e = tl.exp(x)
        change = e - 1.0
        log_e = tl.log(tl.where(change == 0, 0.5, e))
        small = tl.where(change == 0, x, change * x / log_e)
        result = tl.where(x < -1.0, change, small)
    else:
        x2 = x * x
        tail = 1.0 / 362880 + x * (1.0 / 3628800 + x * (1.0 / 39916800))
        tail = 1.0 / 5040 + x * (1.0 / 40320 + x * tail)
        tail = 1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720 + x * tail))
        small = x + x2 * (0.5 + x * (1.0 / 6 + x * tail))
        result = tl.where(x < -1.0, exp(x) - 1.0, small)
    return result


@triton.jit
def reciprocal_sqrt(x):
    """1 / sqrt(x), within two roundings; the device's own of float32 is within four."""
    return 1.0 / tl.sqrt(x) if x.dtype == tl.float64 else 1.0 / tl.sqrt_rn(x)
