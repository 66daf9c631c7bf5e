// What both rungs of a module's plan share: the maps of its six convolutions, the list of launches,
// the workspace. Plain C++, no CUDA header.
//
//   filters  0 1x1, 1 reduce of 3x3, 2 3x3, 3 reduce of 5x5, 4 5x5, 5 projection of the pool
//   inputs     x        x              r3     x              r5     pooled
//   outputs    y        r3             y      r5             y      y        (slices of channels)
#pragma once
#include "conv_mma_plan.h"
#include "conv_plan.h"
#include "inception_mma_plan.h"
#include "pool_plan.h"

enum InceptionFilter { kPlain, kReduce3, kFilter3, kReduce5, kFilter5, kProjection };
constexpr const char* kInceptionNames[] = {
    "1x1: ", "reduce of 3x3: ", "3x3: ", "reduce of 5x5: ", "5x5: ", "projection: "};
constexpr int kInceptionOutputs[] = {kPlain, kFilter3, kFilter5, kProjection};  // slices of y
constexpr int kInceptionSiblings[] = {kReduce3, kReduce5, kPlain};              // read x
constexpr int kInceptionReduced[] = {kFilter3, kFilter5};  // i reads what i - 1 reduced
// The longest first, so that short launches fill the tails of long ones where they overlap.
constexpr int kInceptionWgrads[] = {kFilter3, kReduce3, kFilter5, kPlain, kProjection, kReduce5};

constexpr int kInceptionLaunches = 24;

// The launches point into the plans below them, which keep their records.
struct InceptionPlan {
  InceptionCudaArgs args;
  CudaLaunch launches[kInceptionLaunches];
  int count;
  long long workspace_bytes;
  ConvPlan convs[10];
  PoolPlan pool;
  InceptionMmaPlan fused;
  MaskMmaPlan mask;
  FlipFiltersMmaPlan flips;
  ReduceConvMmaPlan branches[2];
  ConvMmaPlan convs_mma[4];
  ConvWgradMmaPlan wgrads[6];
};

// A map of N x H x W pixels: where it begins, and how many channels it has.
struct InceptionMap {
  unsigned long long at;
  CudaStrides strides;
  int channels;
  void* data() const { return (void*)at; }
};

struct InceptionModule {
  InceptionPlan& plan;
  InceptionCudaArgs& a;
  CudaArena arena;
  long long shared_tail;  // bytes behind the arena for partial sums: wgrads run one after another
  int element_bytes;
  InceptionMap input[6], output[6], gradient[6];
  CudaStatus why;

  InceptionModule(const InceptionCudaArgs& asked, bool backward, bool dry, InceptionPlan& to)
      : plan(to), a(to.args), arena{}, shared_tail(0), element_bytes(asked.storage ? 2 : 4) {
    plan = InceptionPlan{};
    a = asked;
    if (!check(backward, dry)) return;
    // What is missing is said at the end, with the bytes; until then any address serves.
    arena.base = a.workspace ? (unsigned long long)a.workspace : kMadeUp;
    const InceptionMap x{(unsigned long long)a.x, a.x_strides, a.C};
    const InceptionMap y{(unsigned long long)a.y, a.y_strides, 0};
    const InceptionMap gy{(unsigned long long)a.gy, a.gy_strides, 0};
    input[kPlain] = input[kReduce3] = input[kReduce5] = x;
    output[kReduce3] = input[kFilter3] = {(unsigned long long)a.r3, a.r3_strides, a.K[kReduce3]};
    output[kReduce5] = input[kFilter5] = {(unsigned long long)a.r5, a.r5_strides, a.K[kReduce5]};
    input[kProjection] = {(unsigned long long)a.pooled, a.pooled_strides, a.C};
    int first = 0;
    for (int i : kInceptionOutputs) {
      output[i] = slice(y, first, a.K[i]), gradient[i] = slice(gy, first, a.K[i]);
      first += a.K[i];
    }
  }

  static constexpr unsigned long long kMadeUp = 256;
  int filter(int i) const { return i == kFilter3 ? 3 : i == kFilter5 ? a.filter : 1; }
  int y_channels() const { return a.K[kPlain] + a.K[kFilter3] + a.K[kFilter5] + a.K[kProjection]; }
  bool saves() const { return a.argmax != nullptr; }

  InceptionMap slice(const InceptionMap& map, int first, int channels) const {
    return {map.at + (unsigned long long)first * element_bytes, map.strides, channels};
  }
  void* take(long long elements) { return arena.take((elements * element_bytes + 3) / 4); }
  // A contiguous map of the workspace.
  InceptionMap new_map(int channels) {
    const long long elements = (long long)a.N * a.H * a.W * channels;
    return {(unsigned long long)take(elements),
            {a.H * a.W * channels, a.W * channels, channels},
            channels};
  }

  // Takes a part's launches over; false where it declined.
  template <class Plan>
  bool append(const char* name, const CudaStatus& status, const Plan& part) {
    if (status) {
      why << name << status.text;
      return false;
    }
    for (int i = 0; i < part.count; i++) plan.launches[plan.count++] = part.launches[i];
    return true;
  }

  // The workspace of a part that is done with it when the next one begins.
  float* tail() const { return (float*)(arena.base + arena.used); }
  void share_tail(long long bytes) {
    if (bytes > shared_tail) shared_tail = bytes;
  }

  CudaStatus finish(bool dry) {
    plan.workspace_bytes = (long long)arena.used + shared_tail;
    const long long given = a.workspace ? a.workspace_bytes : 0;
    if (!why && !dry && plan.workspace_bytes > given)
      why << "the workspace has " << given << " bytes, expected " << plan.workspace_bytes;
    if (why) plan.count = 0;
    return why;
  }

 private:
  template <class T>
  static void stand_in(T*& p) {
    if (!p) p = (T*)kMadeUp;
  }

  // What the parts do not see. A dry run plans with made-up addresses in place of null ones, so
  // that it is the same run; null results count as wanted there.
  bool check(bool backward, bool dry) {
    const char* const names[] = {"H", "W", "C", "K0", "K1", "K2", "K3", "K4", "K5"};
    const int values[] = {a.H, a.W, a.C, a.K[0], a.K[1], a.K[2], a.K[3], a.K[4], a.K[5]};
    if (a.N < 0) why << "N is " << a.N << ", expected at least 0";
    if (why || !check_extents(why, names, values, 9)) return false;
    if (a.storage < 0 || a.storage > 2)
      why << "storage is " << a.storage << ", expected 0 (fp32), 1 (bf16) or 2 (fp16)";
    else if (a.filter != 3 && a.filter != 5)
      why << "filter is " << a.filter << ", expected 3 or 5";
    else if ((unsigned long long)a.workspace % 16)
      why << "the workspace begins " << (int)((unsigned long long)a.workspace % 16)
          << " bytes past a multiple of 16, expected 0";
    const long long wide = (long long)a.K[0] + a.K[2] + a.K[4] + a.K[5] + a.K[1] + a.K[3] + a.C;
    const long long pixels = (long long)a.N * a.H * a.W;
    if (!why && (wide > kMaxElements || !fits(pixels, wide)))
      why << "there are " << pixels << " pixels of " << wide << " channels, expected at most "
          << kMaxElements << " elements";
    if (dry) {
      stand_in(a.x), stand_in(a.y), stand_in(a.gy), stand_in(a.gx);
      if (backward) stand_in(a.r3), stand_in(a.r5), stand_in(a.pooled), stand_in(a.argmax);
      for (int i = 0; i < 6; i++) stand_in(a.w[i]), stand_in(a.gw[i]), stand_in(a.gb[i]);
    }
    const void* const saved[] = {a.r3, a.r5, a.pooled, a.argmax};
    int given = 0;
    for (const void* p : saved) given += p != nullptr;
    if (!why && !backward && given % 4)
      why << given << " of r3, r5, pooled and argmax are given, expected all or none";
    if (!why && backward && a.N > 0 && given < 4)
      why << given << " of r3, r5, pooled and argmax are given, expected all";
    for (int i = 0; i < 6 && !why; i++)
      if (a.gb[i] && !a.gw[i]) why << "b" << i << " has a gradient and w" << i << " has none";
    return !why;
  }
};
