"""What a GPU session checks of our kernels, named here so that a list of rows stays light."""

_CONV = (("conv", "fprop"), ("conv", "dgrad"), ("conv", "wgrad"))
_FUSED = (("reduce_conv", "fprop"), ("reduce_conv", "backward"))
_MODULE = (("inception", "fprop"), ("inception", "backward"))
_OTHERS = (
    ("max_pool", "fprop"), ("max_pool", "dgrad"), ("avg_pool", "fprop"), ("avg_pool", "dgrad"),
    ("lrn", "fprop"), ("lrn", "dgrad"), ("linear", "fprop"), ("linear", "dgrad"),
    ("linear", "wgrad"), ("softmax_cross_entropy", "fprop"), ("softmax_cross_entropy", "dgrad"),
    ("batch_norm", "fprop"), ("batch_norm", "inference"), ("batch_norm", "dgrad"),
    ("dropout", "fprop"), ("dropout", "dgrad"), ("depthwise_conv", "fprop"),
    ("depthwise_conv", "dgrad"), ("depthwise_conv", "wgrad"), ("add_scaled", "fprop"),
    ("add_scaled", "dgrad"),
)  # fmt: skip

_STEM = [("conv_lrn_pool", "fprop", "mma"), ("lrn_pool", "fprop", "direct")]  # in every storage

# (op, direction, rung): every op on CUDA cores, what multiplies on tensor cores too.
CHECKS = [(op, way, rung) for rung in ("mma", "tf32") for op, way in (*_CONV, *_FUSED, *_MODULE)]
CHECKS += [(op, way, "direct") for op, way in (*_CONV, *_FUSED, *_MODULE, *_OTHERS)]
CHECKS += _STEM
