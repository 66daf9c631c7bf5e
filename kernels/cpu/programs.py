"""Every tile program of the CPU, by the name it has in the core's table."""

from collections.abc import Callable
from functools import partial

from . import (
    add_scaled,
    batch_norm,
    bfloat16,
    conv,
    conv_plain,
    depthwise,
    depthwise_plain,
    depthwise_wgrad,
    dropout,
    lrn,
    pointwise_wgrad,
    pool,
    pool_bfloat16,
    sgd,
    softmax,
    space_to_depth,
    wgrad,
    winograd,
    winograd_wgrad,
)
from . import winograd_plain as winograd_twins
from .bfloat16_tile import EmitBfloat16, EmitDot
from .target import Target

PROGRAMS: dict[str, Callable] = {
    "conv": conv.conv,
    "reduce_conv": conv.reduce_conv,
    "conv_bfloat16": partial(conv.conv, emit=EmitBfloat16),
    "reduce_conv_bfloat16": partial(conv.reduce_conv, emit=EmitBfloat16),
    "conv_bfloat16_dot": partial(conv.conv, emit=EmitDot),
    "reduce_conv_bfloat16_dot": partial(conv.reduce_conv, emit=EmitDot),
    "winograd_bfloat16": partial(winograd.winograd, emit=EmitBfloat16),
    "pack_winograd_bfloat16": partial(winograd.pack_winograd, emit=EmitBfloat16),
    "conv_fprop_bfloat16_plain": bfloat16.conv_fprop_bfloat16_plain,
    "pack_bfloat16": bfloat16.pack_bfloat16,
    "copy_bfloat16": bfloat16.copy_bfloat16,
    "conv_wgrad": wgrad.conv_wgrad,
    "pointwise_wgrad": pointwise_wgrad.pointwise_wgrad,
    "pack": wgrad.pack,
    "conv_fprop_plain": conv_plain.conv_fprop_plain,
    "conv_dgrad_plain": conv_plain.conv_dgrad_plain,
    "conv_wgrad_plain": conv_plain.conv_wgrad_plain,
    "winograd": winograd.winograd,
    "pack_winograd": winograd.pack_winograd,
    "winograd_wgrad": winograd_wgrad.winograd_wgrad,
    "space_to_depth": space_to_depth.space_to_depth,
    "winograd_plain": winograd_twins.winograd_plain,
    "winograd_wgrad_plain": winograd_twins.winograd_wgrad_plain,
    "pack_winograd_plain": winograd_twins.pack_winograd_plain,
    "depthwise_fprop": depthwise.depthwise_fprop,
    "depthwise_dgrad": depthwise.depthwise_dgrad,
    "depthwise_wgrad": depthwise_wgrad.depthwise_wgrad,
    "depthwise_wgrad_merge": depthwise_wgrad.depthwise_wgrad_merge,
    "depthwise_fprop_plain": depthwise_plain.depthwise_fprop_plain,
    "depthwise_dgrad_plain": depthwise_plain.depthwise_dgrad_plain,
    "depthwise_wgrad_plain": depthwise_plain.depthwise_wgrad_plain,
    "add_scaled_fprop": add_scaled.add_scaled_fprop,
    "add_scaled_dgrad": add_scaled.add_scaled_dgrad,
    "add_scaled_fprop_plain": add_scaled.add_scaled_fprop_plain,
    "add_scaled_dgrad_plain": add_scaled.add_scaled_dgrad_plain,
    "max_pool_fprop": pool.max_pool_fprop,
    "max_pool_dgrad": pool.max_pool_dgrad,
    "avg_pool_fprop": pool.avg_pool_fprop,
    "avg_pool_dgrad": pool.avg_pool_dgrad,
    "max_pool_fprop_bfloat16": pool_bfloat16.max_pool_fprop_bfloat16,
    "avg_pool_fprop_bfloat16": pool_bfloat16.avg_pool_fprop_bfloat16,
    "max_pool_fprop_plain": pool.max_pool_fprop_plain,
    "max_pool_dgrad_plain": pool.max_pool_dgrad_plain,
    "avg_pool_fprop_plain": pool.avg_pool_fprop_plain,
    "avg_pool_dgrad_plain": pool.avg_pool_dgrad_plain,
    "lrn_fprop": lrn.lrn_fprop,
    "lrn_dgrad": lrn.lrn_dgrad,
    "lrn_fprop_bfloat16": pool_bfloat16.lrn_fprop_bfloat16,
    "lrn_fprop_plain": lrn.lrn_fprop_plain,
    "lrn_dgrad_plain": lrn.lrn_dgrad_plain,
    "softmax_cross_entropy_fprop": softmax.softmax_cross_entropy_fprop,
    "softmax_cross_entropy_dgrad": softmax.softmax_cross_entropy_dgrad,
    "softmax_cross_entropy_fprop_plain": softmax.softmax_cross_entropy_fprop_plain,
    "softmax_cross_entropy_dgrad_plain": softmax.softmax_cross_entropy_dgrad_plain,
    "batch_norm_statistics": batch_norm.batch_norm_statistics,
    "batch_norm_merge": batch_norm.batch_norm_merge,
    "batch_norm_inference": batch_norm.batch_norm_inference,
    "batch_norm_gradient_sums": batch_norm.batch_norm_gradient_sums,
    "batch_norm_gradient_merge": batch_norm.batch_norm_gradient_merge,
    "batch_norm_gradient": batch_norm.batch_norm_gradient,
    "batch_norm_statistics_plain": batch_norm.batch_norm_statistics_plain,
    "batch_norm_inference_plain": batch_norm.batch_norm_inference_plain,
    "batch_norm_dgrad_plain": batch_norm.batch_norm_dgrad_plain,
    "dropout": dropout.dropout,
    "dropout_plain": dropout.dropout_plain,
    "sgd": sgd.sgd,
    "sgd_plain": sgd.sgd_plain,
}


WIDEST = {name for name in PROGRAMS if name.endswith("_dot")}  # of the level with zmm registers


def names(target: Target) -> list[str]:
    """The programs that a level has."""
    return [name for name in PROGRAMS if name not in WIDEST or target.vl == 16]


def compile_all(target: Target) -> dict[str, object]:
    """Compiled cfunc of every program for one CPU level."""
    return {name: PROGRAMS[name](target) for name in names(target)}
