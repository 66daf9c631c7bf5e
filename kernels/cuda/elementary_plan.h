// From what is asked of the layers of elementary.cu to launches as data. Plain C++, no CUDA header.
#pragma once
#include "launch.h"

enum ElementaryKernel {
  kLrnFprop,
  kLrnDgrad,
  kBatchNormSums,
  kBatchNormFinish,
  kBatchNormFprop,
  kBatchNormDgrad,
  kSoftmaxFprop,
  kSoftmaxBackward,
  kAddScaled,
  kDropout,
  kCast,
  kCheckFinite,
  kSgd,
  kLayout,
  kElementaryEntryCount
};

// clang-format off
#define PYI_ELEMENTARY_ENTRIES(X)                                                              \
  X(lrn_fprop) X(lrn_dgrad) X(batch_norm_sums) X(batch_norm_finish) X(batch_norm_fprop)        \
  X(batch_norm_dgrad) X(softmax_fprop) X(softmax_backward) X(add_scaled) X(dropout) X(cast)    \
  X(check_finite) X(sgd) X(layout)
// clang-format on
constexpr const char* kElementaryEntries[] = {PYI_ELEMENTARY_ENTRIES(PYI_NAME)};
static_assert(sizeof kElementaryEntries / sizeof *kElementaryEntries == kElementaryEntryCount,
              "a name for every entry");

// The records of one plan and its launches, at most five.
template <class Args, int kRecords>
struct ElementaryPlan {
  Args args[kRecords];
  CudaLaunch launches[kRecords];
  int count;
  long long workspace_bytes;

  void launch(int entry, int x, int y, int block, int shared_bytes) {
    launches[count] = {kElementaryEntries[entry], (unsigned)x,  (unsigned)y, 1, (unsigned)block,
                       (unsigned)shared_bytes,    &args[count], sizeof(Args)};
    count++;
  }
};
using LrnPlan = ElementaryPlan<LrnCudaArgs, 1>;
using SoftmaxPlan = ElementaryPlan<SoftmaxCudaArgs, 1>;
using BatchNormPlan = ElementaryPlan<BatchNormCudaArgs, 5>;
using DropoutPlan = ElementaryPlan<DropoutCudaArgs, 1>;
using AddScaledPlan = ElementaryPlan<AddScaledCudaArgs, 1>;
using CastPlan = ElementaryPlan<CastCudaArgs, 1>;
using FinitePlan = ElementaryPlan<FiniteCudaArgs, 2>;
using SgdPlan = ElementaryPlan<SgdCudaArgs, 1>;
using LayoutPlan = ElementaryPlan<LayoutCudaArgs, 1>;

inline CudaStatus check_map(int storage, int N, int H, int W, int C) {
  if (storage < 0 || storage > 2) return kCudaBadStorage;
  if (N < 0 || H < 1 || W < 1 || C < 1) return kCudaBadExtent;
  if (!fits(N + 1ll, H + 1ll) || !fits((N + 1ll) * H, W) || !fits((N + 1ll) * H * W, C + 4ll))
    return kCudaTooLarge;
  return kCudaOk;
}
inline CudaStatus check_strides(const CudaStrides& s, int N, int H, int W, int C) {
  if (negative(s)) return kCudaBadStrides;
  return fits(s, N, H, W, C) ? kCudaOk : kCudaTooLarge;
}

// ---- local response normalisation --------------------------------------------------------------
constexpr int kLrnTile = 1024;  // elements of a dgrad block: four a thread

inline CudaStatus plan_lrn(const LrnCudaArgs& asked, bool dgrad, LrnPlan& plan) {
  plan = LrnPlan{};
  LrnCudaArgs& a = plan.args[0];
  a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, a.H, a.W, a.C)) return status;
  if (a.size < 1 || a.size % 2 == 0 || a.beta != 0.75f || !(a.k > 0) || !(a.alpha >= 0))
    return kCudaBadConstant;
  const CudaStrides& out = dgrad ? a.gx_strides : a.y_strides;
  if (const CudaStatus status = check_strides(a.x_strides, a.N, a.H, a.W, a.C)) return status;
  if (const CudaStatus status = check_strides(out, a.N, a.H, a.W, a.C)) return status;
  if (const CudaStatus status =
          dgrad ? check_strides(a.gy_strides, a.N, a.H, a.W, a.C) : CudaStatus())
    return status;
  if (a.N == 0) return kCudaOk;
  if (!a.x || (dgrad ? !a.gy || !a.gx : !a.y)) return kCudaMissingArray;

  const int reach = a.size / 2 < a.C ? a.size / 2 : a.C - 1;
  a.reach = reach, a.scale = a.alpha / (float)a.size;
  a.slope = 2 * a.alpha * a.beta / (float)a.size;
  a.pixels = a.N * a.H * a.W, a.map_w = make_divisor(a.W), a.map_h = make_divisor(a.H);
  if (!dgrad) {
    a.groups = make_divisor(ceil_div(a.C, 4));
    plan.launch(kLrnFprop, ceil_div(a.pixels * (int)a.groups.value, 256), 1, 256, 0);
    return kCudaOk;
  }
  a.tile_channels = a.C < 128 ? a.C : 128;
  a.tile_pixels = kLrnTile / a.tile_channels;
  const long long x_row = a.tile_channels + 4ll * reach, t_row = a.tile_channels + 2ll * reach;
  while (a.tile_pixels > 1 && 4 * a.tile_pixels * (x_row + 2 * t_row) > 48 * 1024)
    a.tile_pixels /= 2;
  const long long bytes = 4 * a.tile_pixels * (x_row + 2 * t_row);
  if (bytes > 48 * 1024) return beyond_shared_memory((double)bytes, 48 * 1024);
  a.tile = make_divisor(a.tile_channels);
  a.x_row = make_divisor((int)x_row), a.t_row = make_divisor((int)t_row);
  plan.launch(kLrnDgrad, ceil_div(a.pixels, a.tile_pixels), ceil_div(a.C, a.tile_channels), 256,
              (int)bytes);
  return kCudaOk;
}

// ---- softmax cross-entropy ---------------------------------------------------------------------
constexpr int kSoftmaxBlock = 128;

inline CudaStatus plan_softmax(const SoftmaxCudaArgs& asked, bool backward, SoftmaxPlan& plan) {
  plan = SoftmaxPlan{};
  SoftmaxCudaArgs& a = plan.args[0];
  a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, 1, 1, a.K)) return status;
  if (a.logits_row < 0) return kCudaBadStrides;
  if (a.N > 0 && (a.N - 1ll) * a.logits_row + a.K > kMaxElements) return kCudaTooLarge;
  if (a.N == 0) return kCudaOk;
  if (!a.labels || !a.probs || (backward ? !a.g || !a.glogits : !a.logits || !a.loss))
    return kCudaMissingArray;
  if (backward)
    plan.launch(kSoftmaxBackward, a.N, ceil_div(a.K, 256), 256, 0);
  else
    plan.launch(kSoftmaxFprop, a.N, 1, kSoftmaxBlock, kSoftmaxBlock * 4);
  return plan.launches[0].grid_y > 65535 ? kCudaTooLarge : kCudaOk;
}

// ---- batch normalisation -----------------------------------------------------------------------
constexpr int kBatchNormChannels = 32, kBatchNormShared = 2 * 256 * 4;  // of a block that sums
constexpr int kBatchNormPixels = 8;  // of a thread that normalises

enum class BatchNormPass { kTraining, kInference, kBackward };

// Training: sum of x, mean, sum of squares, var, y. Backward: sums of gy h and gy, ggamma and
// gbeta, gx. Set size_only for the dry run, whose answer is plan.workspace_bytes.
inline CudaStatus plan_batch_norm(const BatchNormCudaArgs& asked, BatchNormPass pass,
                                  bool size_only, BatchNormPlan& plan) {
  plan = BatchNormPlan{};
  BatchNormCudaArgs a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, a.H, a.W, a.C)) return status;
  if (!(a.eps >= 0)) return kCudaBadConstant;
  const bool backward = pass == BatchNormPass::kBackward;
  if (!size_only) {
    const CudaStrides unused{}, &gy = backward ? a.gy_strides : unused,
                                &gx = backward ? a.gx_strides : unused;
    const CudaStrides all[] = {a.x_strides, a.y_strides, gy, gx};
    for (const CudaStrides& s : all)
      if (const CudaStatus status = check_strides(s, a.N, a.H, a.W, a.C)) return status;
    if (!a.gamma || !a.mean || !a.var || (backward ? !a.ggamma || !a.gbeta : !a.beta))
      return kCudaMissingArray;
    if (a.N > 0 && (!a.x || (backward ? !a.gy || !a.gx : !a.y))) return kCudaMissingArray;
  }
  a.pixels = a.N * a.H * a.W, a.map_w = make_divisor(a.W), a.map_h = make_divisor(a.H);
  a.groups = make_divisor(ceil_div(a.C, 4));
  a.count = ceil_div(a.pixels, kBatchNormPixels) * (int)a.groups.value;
  const int tiles = ceil_div(a.C, kBatchNormChannels);
  a.chunk_pixels = chunk_extent(a.pixels, tiles);
  a.chunks = ceil_div(a.pixels, a.chunk_pixels);
  if (pass != BatchNormPass::kInference) {
    CudaArena arena{size_only ? 0 : (unsigned long long)a.workspace, 0};
    a.partial = arena.take(2ll * a.chunks * a.C);
    plan.workspace_bytes = (long long)arena.used;
    if (size_only) return kCudaOk;
    if (((unsigned long long)a.workspace & 15) || (arena.used > 0 && !a.workspace) ||
        plan.workspace_bytes > a.workspace_bytes)
      return kCudaWorkspace;
  }
  const auto sum = [&](int mode) {
    a.mode = mode;
    plan.args[plan.count] = a;
    if (a.chunks > 0) plan.launch(kBatchNormSums, tiles, a.chunks, 256, kBatchNormShared);
    plan.args[plan.count] = a;
    plan.launch(kBatchNormFinish, ceil_div(a.C, 128), 1, 128, 0);
  };
  if (pass == BatchNormPass::kTraining) sum(0), sum(1);
  if (backward) sum(2);
  plan.args[plan.count] = a;
  if (a.count > 0)
    plan.launch(backward ? kBatchNormDgrad : kBatchNormFprop, ceil_div(a.count, 256), 1, 256, 0);
  return kCudaOk;
}

// ---- dropout, residual sum, cast, finite check, SGD, layout
// --------------------------------------------------
inline CudaStatus plan_dropout(const DropoutCudaArgs& asked, DropoutPlan& plan) {
  plan = DropoutPlan{};
  DropoutCudaArgs& a = plan.args[0];
  a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, a.H, a.W, a.C)) return status;
  if (a.threshold < 0 || a.threshold > 1ll << 32 || !(a.divisor > 0)) return kCudaBadConstant;
  if (a.first_sample + (long long)a.N > 1ll << 32) return kCudaBadConstant;
  if (const CudaStatus status = check_strides(a.x_strides, a.N, a.H, a.W, a.C)) return status;
  if (const CudaStatus status = check_strides(a.y_strides, a.N, a.H, a.W, a.C)) return status;
  if (a.N == 0) return kCudaOk;
  if (!a.x || !a.y) return kCudaMissingArray;
  a.elements = a.H * a.W * a.C;
  a.blocks = make_divisor(ceil_div(a.elements, 4));
  a.channels = make_divisor(a.C), a.map_w = make_divisor(a.W);
  a.count = a.N * (int)a.blocks.value;
  plan.launch(kDropout, ceil_div(a.count, 256), 1, 256, 0);
  return kCudaOk;
}

inline CudaStatus plan_add_scaled(const AddScaledCudaArgs& asked, bool backward,
                                  AddScaledPlan& plan) {
  plan = AddScaledPlan{};
  AddScaledCudaArgs& a = plan.args[0];
  a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, a.H, a.W, a.C)) return status;
  const CudaStrides all[] = {a.a_strides, a.b_strides, a.y_strides, a.gy_strides};
  for (const CudaStrides& s : all)
    if (const CudaStatus status = check_strides(s, a.N, a.H, a.W, a.C)) return status;
  if (a.N == 0) return kCudaOk;
  if (backward ? !a.gy || (!a.a && !a.b) : !a.a || !a.y || (!a.b && !a.relu))
    return kCudaMissingArray;
  a.backward = backward;
  a.groups = make_divisor(ceil_div(a.C, 4));
  a.map_w = make_divisor(a.W), a.map_h = make_divisor(a.H);
  a.count = a.N * a.H * a.W * (int)a.groups.value;
  plan.launch(kAddScaled, ceil_div(a.count, 256), 1, 256, 0);
  return kCudaOk;
}

inline CudaStatus plan_cast(const CastCudaArgs& asked, CastPlan& plan) {
  plan = CastPlan{};
  plan.args[0] = asked;
  if (asked.from < 0 || asked.from > 2 || asked.to < 0 || asked.to > 2) return kCudaBadStorage;
  if (asked.count < 0) return kCudaBadExtent;
  if (asked.count > kMaxElements) return kCudaTooLarge;
  if (asked.count == 0) return kCudaOk;
  if (!asked.x || !asked.y) return kCudaMissingArray;
  plan.launch(kCast, ceil_div(asked.count, 1024), 1, 256, 0);
  return kCudaOk;
}

constexpr int kFiniteBlocks = 264;  // two on each of 132 multiprocessors

inline CudaStatus plan_check_finite(const FiniteCudaArgs& asked, bool size_only, FinitePlan& plan) {
  plan = FinitePlan{};
  FiniteCudaArgs& a = plan.args[0];
  a = asked;
  if (a.storage < 0 || a.storage > 2) return kCudaBadStorage;
  if (a.count < 0) return kCudaBadExtent;
  if (a.count > kMaxElements) return kCudaTooLarge;
  CudaArena arena{size_only ? 0 : (unsigned long long)a.workspace, 0};
  float* partial = arena.take(kFiniteBlocks);
  plan.workspace_bytes = (long long)arena.used;
  if (size_only) return kCudaOk;
  if (!a.verdict || (a.count > 0 && !a.x)) return kCudaMissingArray;
  if (!a.workspace || ((unsigned long long)a.workspace & 15) ||
      plan.workspace_bytes > a.workspace_bytes)
    return kCudaWorkspace;
  FiniteCudaArgs& last = plan.args[1];
  last = a, last.last = 1;
  const int blocks = a.count > kFiniteBlocks * 256ll ? kFiniteBlocks : ceil_div(a.count, 256);
  if (blocks <= 1) {
    a = last;
  } else {
    a.verdict = partial;
    last.x = partial, last.storage = 0, last.count = blocks;
    plan.launch(kCheckFinite, blocks, 1, 256, 0);
  }
  plan.launch(kCheckFinite, 1, 1, 256, 0);
  return kCudaOk;
}

inline CudaStatus plan_sgd(const SgdCudaArgs& asked, SgdPlan& plan) {
  plan = SgdPlan{};
  plan.args[0] = asked;
  if (asked.storage < 0 || asked.storage > 2) return kCudaBadStorage;
  if (asked.count < 0) return kCudaBadExtent;
  if (asked.count > kMaxElements) return kCudaTooLarge;
  if (asked.count == 0) return kCudaOk;
  if (!asked.w || !asked.v || !asked.g) return kCudaMissingArray;
  plan.launch(kSgd, ceil_div(asked.count, 256), 1, 256, 0);
  return kCudaOk;
}

inline CudaStatus plan_layout(const LayoutCudaArgs& asked, LayoutPlan& plan) {
  plan = LayoutPlan{};
  LayoutCudaArgs& a = plan.args[0];
  a = asked;
  if (const CudaStatus status = check_map(a.storage, a.N, a.H, a.W, a.C)) return status;
  if (a.padding < 0 || a.padding > 64) return kCudaBadExtent;
  const int channels = a.C + a.padding;
  if (const CudaStatus status = check_strides(a.strides, a.N, a.H, a.W, channels)) return status;
  if (a.N == 0) return kCudaOk;
  if (!a.x || !a.y) return kCudaMissingArray;
  a.pixels = a.H * a.W, a.map_w = make_divisor(a.W);
  const int tiles = ceil_div(a.pixels, 32), slabs = ceil_div(channels, 32);
  if (slabs > 65535) return kCudaTooLarge;
  a.tiles = make_divisor(tiles);
  plan.launch(kLayout, a.N * tiles, slabs, 256, 32 * 33 * 4);
  return kCudaOk;
}
