"""JAX: values and gradients under jit, grad and vmap; refusals; how the handlers are built."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from built import REASON, needs_core

import pyinception as pyi
from pyinception import backend, border, config, workspace
from pyinception.ops.weights import InceptionWeights, weight_shapes

jax = pytest.importorskip("jax", reason="jax is not installed (extra `oracles`)")
if REASON is None:
    from jax import numpy as jnp

    from pyinception.interop import jax as ours
    from pyinception.interop import jax_build

    try:
        ours.build()
    except backend.BackendError as error:
        REASON = str(error)

pytestmark = [pytest.mark.oracles, needs_core]
#          N  H  W   C  Cr   K  R  S  stride  padding
CASES = [
    (2, 7, 9, 24, 16, 20, 3, 3, 1, "same"),
    (1, 6, 5, 33, 17, 40, 5, 5, 1, "same"),
    (3, 8, 8, 5, 3, 4, 3, 3, 2, 1),
    (2, 6, 6, 6, 6, 6, 3, 3, 1, "same"),  # C = H = W
    (2, 5, 9, 8, 4, 7, 1, 5, (1, 2), (0, 2)),
    (2, 6, 7, 4, 3, 5, 3, 2, 1, "valid"),
]


def arrays(case, dtype=np.float32):
    n, h, w, c, cr, k, r, s = case[:8]
    draw = np.random.default_rng(sum(case[:8]))
    shapes = (n, h, w, c), (1, 1, c, cr), (cr,), (r, s, cr, k), (k,)
    scales = 1, (2 / c) ** 0.5, 0.1, (2 / (r * s * cr)) ** 0.5, 0.1
    return [(draw.standard_normal(a) * f).astype(dtype) for a, f in zip(shapes, scales)]


def lax_conv(x, w, b, stride, padding):
    r, s = w.shape[:2]
    pads = {"same": (r // 2, s // 2), "valid": (0, 0)}.get(padding, padding)
    ph, pw = (pads, pads) if isinstance(pads, int) else pads
    strides = (stride, stride) if isinstance(stride, int) else stride
    y = jax.lax.conv_general_dilated(
        x, w, strides, [(ph, ph), (pw, pw)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y if b is None else y + b


def chain(x, wr, br, w, b, stride=1, padding="same"):
    r = jax.nn.relu(lax_conv(x, wr, br, 1, 0))
    return jax.nn.relu(lax_conv(r, w, b, stride, padding))


def run(function, arguments, gy):
    """y and all gradients of sum(gy y), compiled."""

    def both(*a):
        y, vjp = jax.vjp(function, *a)
        return y, *vjp(gy.astype(y.dtype))

    return [np.asarray(a) for a in jax.jit(both)(*arguments)]


def relative(a, b):
    return float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-30))


def enable_x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as older

    return older()


@cache
def expected(case):
    """gy, and what XLA's own convolutions give in float64 and in float32."""
    window = {"stride": case[8], "padding": case[9]}

    def theirs(*a):
        return chain(*a, **window)

    shape = jax.eval_shape(theirs, *arrays(case)).shape
    gy = np.random.default_rng(1).standard_normal(shape)
    with enable_x64():
        truth = run(theirs, [a.astype(np.float64) for a in arrays(case)], gy)
    return gy, truth, run(theirs, arrays(case), gy)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_lax(case, algorithm):
    window = {"stride": case[8], "padding": case[9]}
    gy, truth, single = expected(case)
    with config.using(algorithm=algorithm):
        mine = run(lambda *a: ours.reduce_conv2d(*a, **window), arrays(case), gy)
    for name, a, other, right in zip("y x wr br w b".split(), mine, single, truth, strict=True):
        assert a.shape == right.shape and a.dtype == np.float32 and right.dtype == np.float64
        limit = max(2 * relative(other, right), 4 * 2.0**-24)
        if algorithm == "auto":  # Winograd's documented error
            limit = max(limit, 1.5e-5)
        assert relative(a, right) <= limit, name


X, W, B = arrays((2, 7, 6, 5, 3, 4, 3, 3))[0], *arrays((2, 7, 6, 5, 5, 4, 3, 3))[3:]
MANY = np.random.default_rng(2).standard_normal((3, *X.shape)).astype(np.float32)


def conv(x, w=W, b=B):
    return ours.conv2d(x, w, b, padding=1, relu=True)


def compiled(function, *a):
    """The text of the compiled program's source: which calls, and whether it loops."""
    text = jax.jit(function).lower(*a).as_text()
    return [word.split("(")[0] for word in text.split("@") if word.startswith("pyi_jax")], text


def test_vmap_over_maps_is_one_call_with_the_bits_of_single_ones():
    calls, text = compiled(jax.vmap(conv), MANY)
    assert calls == ["pyi_jax_conv_fprop"] and "while" not in text
    y = jax.vmap(conv)(MANY)
    np.testing.assert_array_equal(y, np.stack([conv(x) for x in MANY]))
    both = jax.vmap(jax.vmap(conv))(np.stack([MANY, MANY[::-1]]))
    np.testing.assert_array_equal(both, np.stack([y, y[::-1]]))
    inside = jax.vmap(conv, in_axes=3, out_axes=1)(np.moveaxis(MANY, 0, 3))
    np.testing.assert_array_equal(inside, np.moveaxis(np.asarray(y), 0, 1))
    assert jax.vmap(conv)(MANY[:, :0]).shape == (3, 0, 7, 6, 4)


def test_vmap_of_the_input_gradient_folds_too():
    function = jax.vmap(jax.grad(lambda x: conv(x).sum()))
    calls, text = compiled(function, MANY)
    assert calls == ["pyi_jax_conv_fprop", "pyi_jax_conv_dgrad"] and "while" not in text
    expected = np.stack([jax.grad(lambda x: conv(x).sum())(x) for x in MANY])
    np.testing.assert_array_equal(function(MANY), expected)


@pytest.mark.parametrize("of", ["filters", "both"])
def test_per_example_gradients_and_mapped_filters(of):
    def loss(w, x):
        return (conv(x, w) ** 2).sum()

    filters = np.stack([W, 2 * W, -W])
    axes, given = ((0, 0), filters) if of == "both" else ((None, 0), W)
    mapped = jax.jit(jax.vmap(jax.grad(loss), in_axes=axes))(given, MANY)
    each = filters if of == "both" else [W] * 3
    expected = np.stack([jax.grad(loss)(w, x) for w, x in zip(each, MANY, strict=True)])
    np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-4)
    # The gradient of a mapped sum is the sum of the gradients.
    total = jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, MANY).sum())(W)
    if of == "filters":
        np.testing.assert_allclose(total, expected.sum(0), rtol=1e-4, atol=1e-3)


def module():
    draw = np.random.default_rng(3)
    shapes = weight_shapes(5, (4, 2, 3, 2, 3, 2))
    return InceptionWeights(*((draw.standard_normal(s) / 4).astype(np.float32) for s in shapes))


def hwio(w):
    return w.transpose(1, 2, 3, 0) if w.ndim == 4 else w


def test_inception_module_is_a_pytree_and_maps():
    krsc = module()
    weights = InceptionWeights(*map(hwio, krsc))
    y = jax.jit(ours.inception)(X, weights)
    truth, saved = pyi.inception(X, krsc, return_saved=True)
    np.testing.assert_array_equal(y, truth)
    grads = jax.jit(jax.grad(lambda w, x: (ours.inception(x, w) ** 2).sum()))(weights, X)
    assert type(grads) is InceptionWeights
    _, expected = pyi.inception_backward(2 * truth, X, krsc, y=truth, saved=saved)
    for a, e in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(a, hwio(e))
    calls, text = compiled(jax.vmap(lambda x: ours.inception(x, tuple(weights))), MANY)
    assert calls == ["pyi_jax_inception_fprop"] and "while" not in text
    per_image = jax.vmap(jax.grad(lambda x: ours.inception(x, weights).sum()))(MANY)
    one = jax.grad(lambda x: ours.inception(x, weights).sum())(MANY[1])
    np.testing.assert_array_equal(per_image[1], one)


def test_the_reduced_map_is_saved_for_gradients_alone():
    a = arrays(CASES[0])
    reduced = "2x7x9x16xf32"
    assert reduced not in compiled(ours.reduce_conv2d, *a)[1]
    _, text = compiled(jax.value_and_grad(lambda *a: ours.reduce_conv2d(*a).sum()), *a)
    assert reduced in text


def test_biases_may_be_missing():
    x, wr, _, w, _ = arrays(CASES[0])
    y = ours.reduce_conv2d(x, wr, None, w, None)
    np.testing.assert_allclose(y, chain(x, wr, None, w, None), rtol=1e-4, atol=1e-5)
    gx, none = jax.grad(lambda x, b: conv(x, W, b).sum(), argnums=(0, 1))(X, None)
    assert none is None and gx.shape == X.shape


def test_unused_gradients_are_not_computed():
    calls, _ = compiled(jax.grad(lambda w: conv(X, w).sum()), W)
    assert calls == ["pyi_jax_conv_fprop", "pyi_jax_conv_wgrad"]


def test_switches_are_read_when_jax_traces():
    for threads in (1, 2):
        with config.using(threads=threads, algorithm="direct"):
            _, text = compiled(lambda x: conv(x), X)  # a new function: jit keeps old traces
        assert f"threads = {threads} : i64" in text and 'algorithm = "direct"' in text


def test_second_derivatives_and_forward_mode_are_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(conv, (X,), (X,))
    with pytest.raises((TypeError, ValueError), match=r"forward-mode|cannot be differentiated"):
        jax.grad(lambda x: jax.grad(lambda x: conv(x).sum())(x).sum())(jnp.asarray(X))


def refusals():
    half = X.astype(jnp.bfloat16)
    x, wr, br, w, b = arrays(CASES[0])
    yield lambda: ours.conv2d(X.tolist(), W), TypeError, "conv2d: x is a list, expected a jax.Array"
    yield lambda: ours.conv2d(half, W), TypeError, "conv2d: x has dtype bfloat16, expected float32"
    yield lambda: conv(X.astype(np.float64)), TypeError, "x has dtype float64, expected float32"
    yield lambda: conv(X[0]), ValueError, r"x has shape \(7, 6, 5\), expected \(N, H, W, C\)"
    text = r"w has shape \(3, 3, 4, 4\), expected \(R, S, C, K\) = \(3, 3, 5, 4\)"
    yield lambda: conv(X, W[:, :, :4]), ValueError, text
    yield lambda: conv(X, W, B[:2]), ValueError, r"b has shape \(2,\), expected \(K\) = \(4,\)"
    yield lambda: ours.conv2d(X, W, stride=0), ValueError, "conv2d: stride is 0"
    yield lambda: ours.conv2d(X[:, :2], W), ValueError, r"kernel \(R, S\) = \(3, 3\) is larger"
    text = r"w_reduce has shape \(24, 16\), expected \(1, 1, C, Cr\)"
    yield lambda: ours.reduce_conv2d(x, wr[0, 0], br, w, b), ValueError, text
    text = r"b_reduce has shape \(2,\), expected \(Cr\) = \(16,\)"
    yield lambda: ours.reduce_conv2d(x, wr, br[:2], w, b), ValueError, text
    text = "inception: weights has 11 arrays, expected 12"
    yield lambda: ours.inception(X, tuple(module())[:11]), ValueError, text
    text = r"inception: w3 has shape .*, expected \(R, S, C, K\) = \(3, 3, 2, 3\)"
    broken = [*map(hwio, module())]
    broken[4] = broken[4][:1]
    yield lambda: ours.inception(X, tuple(broken)), ValueError, text
    call = lambda: ours.conv2d(X, W, stride=2, algorithm="winograd")  # noqa: E731
    yield call, backend.BackendError, r"needs stride 1 for \(3, 3\), not \(2, 2\)"


@pytest.mark.parametrize("case", range(13))
def test_refusals(case):
    call, error, message = list(refusals())[case]
    with pytest.raises(error, match=message):
        call()


def test_results_of_plain_functions_are_not_copied():
    x = jnp.asarray(X)
    made = workspace.empty((2, 3, 4, 5), np.zeros(1, np.float32))
    given = border.give_back(made, x)
    assert isinstance(given, jax.Array)
    assert given.unsafe_buffer_pointer() == made.ctypes.data
    taken = border.intake("conv2d", "x", x)
    assert taken.ctypes.data == x.unsafe_buffer_pointer() and not taken.flags.writeable


AT_EXIT = """
import jax, numpy as np, pyinception as pyi
from pyinception.interop import jax as ours
x, w = np.ones((8, 56, 56, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)
kept = pyi.conv2d(jax.numpy.asarray(x), np.ones((4, 1, 1, 64), np.float32))
run = jax.jit(lambda x: ours.conv2d(x, w, padding=1))
running = [run(x) for _ in range(4)]
"""


def test_the_process_may_end_while_calls_run():
    done = python(["-c", AT_EXIT])
    assert (done.returncode, done.stderr) == (0, "")


def test_plain_functions_inside_jit_point_to_the_adapter():
    with pytest.raises(TypeError, match=r"conv2d: x is a .*call pyinception\.interop\.jax"):
        jax.jit(lambda x: pyi.conv2d(x, W, layout="NHWC"))(X)


def test_lowering_for_cuda_turns_the_filters(monkeypatch):
    """No GPU is needed to see the programs that one would get."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    operands = arrays(CASES[0])
    if reason := backend.why_not("cuda"):
        with pytest.raises(backend.BackendError, match=r"interop\.jax: JAX runs on a GPU: ") as e:
            ours.reduce_conv2d(*operands)
        assert reason in str(e.value)
    monkeypatch.setattr(backend, "_cuda_reason", lambda: None)

    def lowered(function, *arguments):
        wanted = tuple(range(len(arguments)))
        function = jax.jit(jax.grad(function, argnums=wanted))
        return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()

    text = lowered(lambda *a: ours.reduce_conv2d(*a).sum(), *operands)
    assert "pyi_jax_cuda_reduce_conv_fprop" in text
    backward = next(line for line in text.splitlines() if "cuda_reduce_conv_backward" in line)
    assert "tensor<16x1x1x24xf32>" in backward and "tensor<20x3x3x16xf32>" in backward
    x, w = operands[0], operands[1]
    text = lowered(lambda x, w: ours.conv2d(x, w, relu=True).sum(), x, w)
    text += lowered(lambda *a: ours.inception(a[0], a[1:]).sum(), X, *map(hwio, module()))
    for op in jax_build.OPS:
        if not op.startswith("reduce"):
            assert f"pyi_jax_cuda_{op}" in text, op


# ------------------------------------------------------------------------------------ the build


def python(code, **environment):
    return subprocess.run(
        [sys.executable, *code], capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


USE = """
import numpy as np
from pyinception import BackendError
from pyinception.interop import jax as ours
x = np.zeros((1, 3, 3, 2), np.float32)
try:
    ours.conv2d(x, x[:, :, :, :1].reshape(3, 3, 1, 1)[:, :, [0, 0]])
except BackendError as error:
    print(error)
"""


def test_not_built_names_the_command(tmp_path):
    said = python(["-c", USE], XDG_CACHE_HOME=str(tmp_path)).stdout
    version = jax.lib.__version__ if hasattr(jax.lib, "__version__") else jax.__version__
    assert f"the handlers are not built for jaxlib {version}" in said
    assert "run `python -m pyinception.interop.jax build` (needs a C++17 compiler)" in said


def test_build_command(tmp_path):
    command = ["-m", "pyinception.interop.jax"]
    done = python([*command, "build"], XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (library,) = (tmp_path / "pyinception").iterdir()
    assert str(library) in done.stdout and "handlers for CPU" in done.stdout
    before = library.stat().st_mtime_ns
    again = python([*command, "build"], XDG_CACHE_HOME=str(tmp_path))
    assert again.returncode == 0 and library.stat().st_mtime_ns == before
    library.chmod(0o777)
    said = python(["-c", USE], XDG_CACHE_HOME=str(tmp_path)).stdout
    assert "belongs to or can be written by other users" in said
    usage = python(command, XDG_CACHE_HOME=str(tmp_path))
    assert usage.returncode == 2 and "usage: python -m pyinception.interop.jax" in usage.stderr


@pytest.mark.parametrize(
    ("cxx", "message"),
    [
        ("/no/such/c++", "CXX=/no/such/c++ is not there; install a C++17 compiler"),
        ("false", "failed"),
    ],
)
def test_no_compiler(tmp_path, cxx, message):
    command = ["-m", "pyinception.interop.jax", "build"]
    done = python(command, XDG_CACHE_HOME=str(tmp_path), CXX=cxx)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not list(Path(tmp_path).rglob("*.so"))


def test_jax_missing_names_the_extra():
    code = "import sys; sys.modules['jax'] = None\nimport pyinception.interop.jax"
    done = python(["-c", code])
    assert "pyinception.interop.jax needs JAX: pip install 'pyinception[jax]'" in done.stderr
