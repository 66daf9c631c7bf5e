// From what is asked (LrnPoolCudaArgs) to one launch. Plain C++, no CUDA header.
#pragma once
#include "pool_plan.h"

#define PYI_LRN_POOL_ENTRIES(X) X(lrn_pool)
constexpr const char* kLrnPoolEntries[] = {PYI_LRN_POOL_ENTRIES(PYI_NAME)};

struct LrnPoolPlan {
  LrnPoolCudaArgs args;
  CudaLaunch launches[1];
  int count;
  long long workspace_bytes;
};

// Four blocks on the 163 KB of sm_80; a block without extra permission gets 48 KB.
constexpr int kLrnPoolWanted = 40 * 1024, kLrnPoolLimit = 48 * 1024;

inline long long lrn_pool_bytes(const LrnPoolCudaArgs& a, int tile_p, int tile_q) {
  const long long channels = round_up(a.C, 4), row = channels + 2 * a.margin;
  const long long halo = ((tile_p - 1ll) * a.stride_h + a.R) * ((tile_q - 1ll) * a.stride_w + a.S);
  return 4 * (a.pool_first ? (long long)tile_p * tile_q * row : halo * (row + channels));
}

// The tile that reads the fewest pixels, those of several windows' tiles counted for each; the
// smaller one of two. False where none fits.
inline bool choose_lrn_pool_tile(LrnPoolCudaArgs& a, int limit, int& shared_bytes) {
  double best = 0;
  for (int tp = 1; tp <= 16 && tp <= a.P; tp++)
    for (int tq = 1; tq <= 16 && tq <= a.Q; tq++) {
      const long long bytes = lrn_pool_bytes(a, tp, tq);
      if (bytes > limit) break;
      const int halo_h = (tp - 1) * a.stride_h + a.R, halo_w = (tq - 1) * a.stride_w + a.S;
      const double read = (double)ceil_div(a.P, tp) * ceil_div(a.Q, tq) * halo_h * halo_w;
      if (best > 0 && (read > best || (read == best && bytes >= shared_bytes))) continue;
      best = read, shared_bytes = (int)bytes;
      a.tile_p = tp, a.halo_h = halo_h;
      a.tile_q = make_divisor(tq), a.halo_w = make_divisor(halo_w);
    }
  return best > 0;
}

inline CudaStatus plan_lrn_pool(const LrnPoolCudaArgs& asked, LrnPoolPlan& plan) {
  plan = LrnPoolPlan{};
  LrnPoolCudaArgs& a = plan.args;
  a = asked;
  if (a.storage < 0 || a.storage > 2) return kCudaBadStorage;
  if (a.N < 0 || a.H < 1 || a.W < 1 || a.C < 1) return kCudaBadExtent;
  if (a.size < 1 || a.size % 2 == 0 || a.beta != 0.75f || !(a.k > 0) || !(a.alpha >= 0))
    return kCudaBadConstant;
  if (a.R < 1 || a.S < 1 || a.R > 255 || a.S > 255 || a.stride_h < 1 || a.stride_w < 1 ||
      a.stride_h > 255 || a.stride_w > 255 || a.pad_h < 0 || a.pad_w < 0 || a.pad_h >= a.R ||
      a.pad_w >= a.S)
    return kCudaBadWindow;
  if (!fits(a.N + 1ll, (a.H + 2ll * a.R) * (a.W + 2ll * a.S))) return kCudaTooLarge;
  a.P = pool_extent(a.H, a.R, a.stride_h, a.pad_h, a.ceil_mode);
  a.Q = pool_extent(a.W, a.S, a.stride_w, a.pad_w, a.ceil_mode);
  if (a.P == 0 || a.Q == 0) return kCudaNoOutput;
  if (negative(a.x_strides) || negative(a.y_strides)) return kCudaBadStrides;
  if (!fits(a.x_strides, a.N, a.H, a.W, a.C) || !fits(a.y_strides, a.N, a.P, a.Q, a.C))
    return kCudaTooLarge;
  if (a.N > 0 && (!a.x || !a.y)) return kCudaMissingArray;

  a.reach = a.size / 2 < a.C ? a.size / 2 : a.C - 1;
  a.margin = round_up(a.reach, 4), a.margins = make_divisor(a.margin > 0 ? 2 * a.margin : 1);
  a.scale = a.alpha / (float)a.size;
  a.groups = make_divisor(ceil_div(a.C, 4));
  int bytes = 0;
  if (!choose_lrn_pool_tile(a, kLrnPoolWanted, bytes) &&
      !choose_lrn_pool_tile(a, kLrnPoolLimit, bytes))
    return beyond_shared_memory((double)lrn_pool_bytes(a, 1, 1), kLrnPoolLimit);
  const int rows = ceil_div(a.P, a.tile_p), columns = ceil_div(a.Q, (int)a.tile_q.value);
  if (!fits(a.N, (long long)rows * columns)) return kCudaTooLarge;
  a.image_tiles = make_divisor(rows * columns), a.tiles_q = make_divisor(columns);
  if (a.N == 0) return kCudaOk;
  plan.launches[plan.count++] = {
      kLrnPoolEntries[0], (unsigned)(a.N * rows * columns), 1, 1, 256, (unsigned)bytes, &plan.args,
      sizeof(plan.args)};
  return kCudaOk;
}
