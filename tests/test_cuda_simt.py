"""The CUDA-core kernels without a GPU: plans and refusals.

Their execution is tested in test_cuda_conv.py, test_cuda_depthwise.py, test_cuda_pool.py and
test_cuda_elementary.py.
"""

import numpy as np
import pytest
from cuda_run import SENTENCES, Refused, plan
from pyinception.kernels import cuda_args

# ---- plans -------------------------------------------------------------------------------------
SIZES = {"N": 2, "H": 9, "W": 8, "C": 20, "R": 3, "S": 3, "stride_h": 1, "stride_w": 1}


def conv(k=24, panels=1, **fields):
    """A record over dense maps at made-up addresses; nothing here follows a pointer."""
    a = np.zeros((), cuda_args.CONV_CUDA_ARGS)
    for i, name in enumerate(("x", "gx", "gw", "gb", "workspace")):
        a[name] = (i + 1) << 32
    a["workspace_bytes"] = 1 << 40
    for name, value in {**SIZES, "pad_h": 1, "pad_w": 1, "panel_count": panels}.items():
        a[name] = value
    a["x_strides"] = a["gx_strides"] = (1440, 160, 20)
    for i in range(panels):
        p = a["panels"][i]
        p["w"], p["b"], p["y"], p["gy"] = (((10 * (i + 1) + j) << 32) for j in range(4))
        p["K"], p["y_strides"], p["gy_strides"] = k, (9 * 8 * k, 8 * k, k), (9 * 8 * k, 8 * k, k)
    for name, value in fields.items():
        target = a["panels"][0] if name in ("K", "w", "y", "gy", "y_strides") else a
        target[name] = value
    return a


CONV_REFUSED = {
    "storage": (-9, "conv_fprop", {"storage": 3}),
    "N -1": (-1, "conv_dgrad", {"N": -1}),
    "K 0": (-1, "conv_fprop", {"K": 0}),
    "no panel": (-1, "conv_fprop", {"panel_count": 0}),
    "five panels": (-1, "conv_fprop", {"panel_count": 5}),
    "stride 0": (-2, "conv_wgrad", {"stride_w": 0}),
    "padding 64": (-2, "conv_dgrad", {"pad_h": 64}),
    "filter of 65": (-2, "conv_fprop", {"R": 65}),
    "filter too large": (-3, "conv_fprop", {"R": 13}),
    "negative stride": (-4, "conv_fprop", {"x_strides": (-1440, 160, 20)}),
    "negative stride of y": (-4, "conv_dgrad", {"y_strides": (1440, -160, 20)}),
    "x beyond 32 bits": (-5, "conv_fprop", {"x_strides": (2**31 - 1, 160, 20)}),
    "y beyond 32 bits": (-5, "conv_fprop", {"y_strides": (2**31 - 1, 192, 24)}),
    "filter beyond 32 bits": (-5, "conv_fprop", {"K": 2**24}),
    "no x": (-7, "conv_fprop", {"x": 0}),
    "no y": (-7, "conv_fprop", {"y": 0}),
    "no filter": (-7, "conv_dgrad", {"w": 0}),
    "no gx": (-7, "conv_dgrad", {"gx": 0}),
    "no gy": (-7, "conv_wgrad", {"gy": 0}),
    "no gw": (-7, "conv_wgrad", {"gw": 0}),
    "misaligned workspace": (-8, "conv_wgrad", {"workspace": 8}),
    "small workspace": (-8, "conv_wgrad", {"N": 64, "workspace_bytes": 100}),
}


@pytest.mark.parametrize("name", CONV_REFUSED)
def test_conv_declines(name):
    status, function, fields = CONV_REFUSED[name]
    with pytest.raises(Refused, match=SENTENCES[status]):
        plan(function, conv(**fields))


def test_conv_plans():
    [wide], _ = plan("conv_fprop", conv(k=64, N=1024))
    [small], _ = plan("conv_fprop", conv(k=64))  # too few blocks: twice as many of half the size
    [narrow], _ = plan("conv_fprop", conv(k=24, storage=1))
    assert wide.entry == "conv_fprop_wide_f32" and small.entry == "conv_fprop_narrow_f32"
    assert narrow.entry == "conv_fprop_narrow_bf16" and wide.block == 128
    assert narrow.grid == (3, 1, 1) and small.grid == (3, 2, 1)  # 144 pixels
    assert wide.grid == (1152, 1, 1)
    [siblings], _ = plan("conv_fprop", conv(k=100, panels=4, storage=2, N=256))
    assert siblings.entry == "conv_fprop_wide_f16" and siblings.grid == (288, 8, 1)
    done = np.frombuffer(siblings.params, cuda_args.CONV_CUDA_ARGS)[0]
    assert done["panels"]["first_tile"].tolist() == [0, 2, 4, 6]
    [phases], _ = plan("conv_dgrad", conv(stride_h=2, stride_w=3))
    assert phases.grid == (1, 1, 6)  # 2 x 5 x 3 pixels of each phase
    for function in ("conv_fprop", "conv_dgrad"):
        assert plan(function, conv(N=0, x=0, gx=0)) == ([], 0)
    launches, workspace = plan("conv_wgrad", conv(N=0))
    assert [launch.entry for launch in launches] == ["conv_wgrad_wide_f32"] and workspace == 0
    launches, workspace = plan("conv_wgrad", conv(N=64))
    assert [launch.entry for launch in launches] == ["conv_wgrad_wide_f32", "conv_sum_chunks"]
    assert workspace == plan("conv_wgrad_size", conv(N=64, workspace=0, gw=0, x=0))[1] > 0


MAP = {"N": 2, "H": 3, "W": 4, "C": 8, "x": 64, "y": 128, "gx": 192, "gy": 256}
VECTORS = {"gamma": 64, "beta": 64, "mean": 64, "var": 64, "ggamma": 64, "gbeta": 64}
ROWS = {"N": 2, "K": 9, "logits_row": 9, "logits": 64, "glogits": 64, "labels": 64, "loss": 64,
        "probs": 64, "g": 64}  # fmt: skip
GIVEN = {
    "LRN": {**MAP, "size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1},
    "SOFTMAX": ROWS,
    "BATCH_NORM": {**MAP, **VECTORS, "eps": 1e-3, "workspace": 64, "workspace_bytes": 1 << 20},
    "DROPOUT": {**MAP, "divisor": 0.5, "threshold": 1 << 31},
    "CAST": {"x": 64, "y": 64, "count": 9},
    "FINITE": {"x": 64, "verdict": 64, "workspace": 64, "workspace_bytes": 1 << 20, "count": 9},
    "SGD": {"w": 64, "v": 64, "g": 64, "count": 9},
    "LAYOUT": MAP,
}
STRIDES = ("x_strides", "y_strides", "gx_strides", "gy_strides", "strides")
ELEMENTARY_REFUSED = [
    (-9, "lrn_fprop", "LRN", {"storage": -1}),
    (-1, "lrn_dgrad", "LRN", {"H": 0}),
    (-11, "lrn_fprop", "LRN", {"size": 4}),
    (-11, "lrn_fprop", "LRN", {"beta": 0.5}),
    (-11, "lrn_fprop", "LRN", {"k": 0}),
    (-11, "lrn_fprop", "LRN", {"k": np.nan}),
    (-11, "lrn_dgrad", "LRN", {"alpha": np.nan}),
    (-4, "lrn_dgrad", "LRN", {"gy_strides": (-96, 32, 8)}),
    (-5, "lrn_fprop", "LRN", {"y_strides": (2**31 - 1, 32, 8)}),
    (-6, "lrn_dgrad", "LRN", {"size": 9001, "C": 5000}),
    (-7, "lrn_dgrad", "LRN", {"gy": 0}),
    (-4, "softmax_fprop", "SOFTMAX", {"logits_row": -9}),
    (-5, "softmax_fprop", "SOFTMAX", {"logits_row": 2**31 - 1, "N": 3}),
    (-5, "softmax_backward", "SOFTMAX", {"N": 2**20, "K": 2**12}),
    (-7, "softmax_fprop", "SOFTMAX", {"loss": 0}),
    (-7, "softmax_backward", "SOFTMAX", {"g": 0}),
    (-11, "batch_norm_fprop", "BATCH_NORM", {"eps": -1}),
    (-7, "batch_norm_fprop", "BATCH_NORM", {"beta": 0}),
    (-7, "batch_norm_dgrad", "BATCH_NORM", {"gbeta": 0}),
    (-8, "batch_norm_dgrad", "BATCH_NORM", {"workspace": 8}),
    (-8, "batch_norm_fprop", "BATCH_NORM", {"workspace_bytes": 8}),
    (-11, "dropout", "DROPOUT", {"threshold": (1 << 32) + 1}),
    (-11, "dropout", "DROPOUT", {"divisor": 0}),
    (-11, "dropout", "DROPOUT", {"first_sample": 2**32 - 1}),
    (-9, "cast", "CAST", {"to": 3}),
    (-1, "cast", "CAST", {"count": -1}),
    (-5, "cast", "CAST", {"count": 2**31 - 1}),
    (-7, "check_finite", "FINITE", {"verdict": 0}),
    (-8, "check_finite", "FINITE", {"workspace": 0}),
    (-7, "sgd", "SGD", {"v": 0}),
    (-7, "layout", "LAYOUT", {"y": 0}),
    (-1, "layout", "LAYOUT", {"padding": -1}),
    (-4, "layout", "LAYOUT", {"strides": (96, -32, 8)}),
]


@pytest.mark.parametrize(("status", "function", "record", "fields"), ELEMENTARY_REFUSED, ids=str)
def test_the_other_plans_decline(status, function, record, fields):
    a = np.zeros((), getattr(cuda_args, f"{record}_CUDA_ARGS"))
    given = dict.fromkeys(STRIDES, (96, 32, 8)) | GIVEN[record]
    for name in a.dtype.names:
        a[name] = given.get(name, 0)
    plan(function, a)  # as it stands, the plan takes it
    for name, value in fields.items():
        a[name] = value
    with pytest.raises(Refused, match=SENTENCES[status]):
        plan(function, a)
