// From InceptionMmaArgs to one launch: the plans of its four roles under the kernel's one tile.
// Plain C++.
#pragma once
#include "conv_mma_plan.h"
#include "reduce_conv_mma_plan.h"

#define PYI_INCEPTION_MMA_ENTRIES(X) \
  X(inception_mma_tf32) X(inception_mma_bf16) X(inception_mma_fp16)  // by type
constexpr const char* kInceptionMmaEntries[] = {PYI_INCEPTION_MMA_ENTRIES(PYI_NAME)};

using InceptionMmaPlan = MmaPlan<InceptionMmaArgs>;

// The four roles are filled as for their own kernels. Each is planned for its share of the device
// by multiply-adds, so that the slices of all of them together fill it.
inline CudaStatus plan_inception_mma(const InceptionMmaArgs& asked, InceptionMmaPlan& plan) {
  plan = InceptionMmaPlan{};
  plan.args = asked;
  InceptionMmaArgs& a = plan.args;
  CudaStatus why;
  const char* const names[] = {"3x3 branch: ", "5x5 branch: ", "1x1: ", "projection: "};
  const int types[] = {a.branches[0].type, a.branches[1].type, a.ones.type, a.projection.type};
  const int batches[] = {a.branches[0].N, a.branches[1].N, a.ones.N, a.projection.N};
  double work[4], all = 0;
  if (!check_type(why, types[0])) return why;
  for (int i = 0; i < 4; i++) {
    if (types[i] != types[0] || batches[i] != batches[0]) {
      why << names[i] << "type and N are " << types[i] << " and " << batches[i] << ", expected "
          << types[0] << " and " << batches[0] << " as in the 3x3 branch";
      return why;
    }
    if (i < 2) {
      const ReduceConvMmaArgs& r = a.branches[i];
      work[i] = (double)r.H * r.W * r.Cr * (r.C + (double)r.R * r.S * r.K);
    } else {
      const ConvMmaArgs& c = i == 2 ? a.ones : a.projection;
      work[i] = (double)c.P * c.Q * c.K * c.R * c.S * c.C;
    }
    all += work[i];
  }
  const ConvMmaArgs& p = a.projection;
  if (p.R != 1 || p.S != 1 || p.pad_h || p.pad_w || p.stride_h != 1 || p.stride_w != 1 ||
      p.step_h != 1 || p.step_w != 1 || p.P != p.H || p.Q != p.W) {
    why << names[3] << "expected a 1x1 without stride and padding";
    return why;
  }

  const int multiprocessors = a.branches[0].multiprocessors;
  unsigned blocks = 0, shared_bytes = 0;
  double busy = 0;  // clocks of all blocks together
  for (int i = 0; i < 4; i++) {
    CudaLaunch launch{};
    CudaStatus reason;
    double longest = 0;  // clocks of a block
    const auto take = [&](const auto& role, auto& args) {
      launch = role.launches[0];
      const int given = args.multiprocessors;
      if (role.count > 0)  // one block at a time on each of the multiprocessors it was planned for
        longest = role.clocks / ceil_div((int)launch.grid_x, role.args.multiprocessors);
      args = role.args, args.multiprocessors = given;
      return role.count > 0;
    };
    const auto share = [&](int whole) {
      const int part = (int)(whole * work[i] / all);
      return part < 1 ? 1 : part;
    };
    bool runs;
    if (i < 2) {
      ReduceConvMmaArgs role = a.branches[i];
      if (role.multiprocessors > 0) role.multiprocessors = share(role.multiprocessors);
      ReduceConvMmaPlan one;
      reason = plan_reduce_conv_mma(role, one, kMmaMid);
      runs = take(one, a.branches[i]);
    } else {
      ConvMmaArgs& args = i == 2 ? a.ones : a.projection;
      ConvMmaPlan one;
      reason = plan_conv_mma(args, one, kMmaMid);
      runs = take(one, args);
    }
    if (reason) {
      why << names[i] << reason.text;
      return why;
    }
    if (!runs) return why;  // an empty batch
    if (i > 0) a.first[i - 1] = (int)blocks;
    blocks += launch.grid_x;
    if (blocks > (unsigned)kMaxElements) {
      why << "there are " << blocks << " blocks, expected at most " << kMaxElements;
      return why;
    }
    if (shared_bytes < launch.shared_bytes) shared_bytes = launch.shared_bytes;
    busy += longest * launch.grid_x;
    if (plan.clocks < longest) plan.clocks = longest;
  }
  // the longest come first, so that the device is busy until its last blocks
  if (plan.clocks < busy / multiprocessors) plan.clocks = busy / multiprocessors;
  plan.launch(kInceptionMmaEntries[types[0]], blocks, 1, 256, shared_bytes);
  return why;
}
