"""The kernels' own exp, expm1, log and tanh: at most 2 ulp off, over the ranges used."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parent / "native_math.cpp"
COUNT = 1 << 18  # a multiple of every vector's lanes
EXTENDED = np.longdouble  # 64 bits of mantissa on x86, 113 on aarch64
RANGES = {  # least and greatest argument in float32 and float64
    "exp": ((-87, 88), (-708, 709)),
    "expm1": ((-87, 88), (-708, 709)),
    "log": ((1.2e-38, 3.4e38), (2.3e-308, 1.7e308)),
    "tanh": ((-45, 45), (-360, 360)),
}


@pytest.fixture(scope="module", params=["generic", "x86-64-v2", "x86-64-v3", "x86-64-v4"])
def library(request, tmp_path_factory):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    march = []
    if request.param != "generic":
        if platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip(f"{request.param} is not of this processor")
        march = [f"-march={request.param}"]
    if request.param == "x86-64-v4" and "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512")
    path = tmp_path_factory.mktemp("math") / "math.so"
    flags = "-std=c++17 -O3 -shared -fPIC -w -ffp-contract=fast -fno-math-errno -fno-trapping-math"
    command = [compiler, *flags.split(), *march, str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(path))


def apply(library, name, x):
    y = np.empty_like(x)
    suffix = "f32" if x.dtype == np.float32 else "f64"
    getattr(library, f"{name}_{suffix}")(
        *(ctypes.c_void_p(a.ctypes.data) for a in (x, y)), ctypes.c_int64(x.size)
    )
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RANGES)
def test_within_two_ulp(library, name, dtype):
    low, high = RANGES[name][dtype is np.float64]
    rng = np.random.default_rng(0)
    if name == "log":
        x = np.exp(rng.uniform(np.log(low), np.log(high), COUNT))
        x[: COUNT // 4] = 1 + 1e-3 * rng.standard_normal(COUNT // 4)  # where it comes near zero
    else:
        x = rng.uniform(low, high, COUNT)
        x[: COUNT // 4] = rng.standard_normal(COUNT // 4)
        x[COUNT // 4 : COUNT // 2] *= np.exp(-rng.uniform(0, 30, COUNT // 4))
    x[:2] = low, high
    x = x.astype(dtype)
    found = apply(library, name, x)
    truth = getattr(np, name)(x.astype(EXTENDED))
    ulp = np.spacing(np.abs(truth).astype(dtype))
    error = np.abs(found.astype(EXTENDED) - truth) / ulp
    assert error.max() <= 2, f"{error.max():.2f} ulp at {x[error.argmax()]!r}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RANGES)
def test_ends(library, name, dtype):
    """NaN goes through; what is beyond the range saturates without inf or zero."""
    low, high = RANGES[name][dtype is np.float64]
    x = np.full(64, np.nan, dtype)
    assert np.isnan(apply(library, name, x)).all()
    if name == "log":
        return
    top = high if name == "expm1" else np.inf
    low_end, high_end = apply(library, name, np.array([-np.inf, top] * 32, dtype))[:2]
    at_low, at_high = apply(library, name, np.array([low, high] * 32, dtype))[:2]
    assert (low_end, high_end) == (at_low, at_high)
    assert np.isfinite([low_end, high_end]).all()
    if name == "exp":
        assert low_end > 0
