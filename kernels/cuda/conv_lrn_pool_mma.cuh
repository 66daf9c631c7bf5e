// The device code of convolution, normalisation and max pooling in one launch. The contract stands
// at the head of conv_lrn_pool_mma.cu.
//
//   rows     pixels of the convolution that the block's tile of pooled pixels sees, row by row
//   columns  all K, 64 in a pass; x is gathered again for each
//   staged   (rows, K) of 16 bits in shared memory, an odd number of units a pixel: eight rows of
//   one
//            word, and the units of neighbouring pixels, lie in different banks
#pragma once
#include "conv_mma.cuh"
#include "lrn_factor.cuh"

constexpr int kMostReach = 4;  // channels to either side of a normalised one

// A unit of channels normalised; the lanes beside this one hold the units beside it, unless it is
// the `first` or the `last` of its pixel. All 32 lanes must come here. The sums are in the order of
// lrn_pool.cuh, so are the bits.
template <class E>
__device__ __forceinline__ uint4 normalised_unit(const LrnPoolCudaArgs& a, uint4 own, bool first,
                                                 bool last) {
  uint2 before, after;
  before.x = __shfl_up_sync(0xffffffffu, own.z, 1),
  before.y = __shfl_up_sync(0xffffffffu, own.w, 1);
  after.x = __shfl_down_sync(0xffffffffu, own.x, 1),
  after.y = __shfl_down_sync(0xffffffffu, own.y, 1);
  if (first) before = make_uint2(0, 0);
  if (last) after = make_uint2(0, 0);
  const unsigned words[8] = {before.x, before.y, own.x, own.y, own.z, own.w, after.x, after.y};
  float v[16], out[8];
#pragma unroll
  for (int i = 0; i < 8; i++) unpack(words[i], v[2 * i], v[2 * i + 1], E{});
#pragma unroll
  for (int j = 0; j < 8; j++) {
    float sum = 0.f;
#pragma unroll
    for (int d = -kMostReach; d <= kMostReach; d++)
      if (d >= -a.reach && d <= a.reach) sum = fmaf(v[4 + j + d], v[4 + j + d], sum);
    out[j] = v[4 + j] * lrn_factor(a.scale, sum, a.k);
  }
  return make_uint4(pack(out[0], out[1], E{}), pack(out[2], out[3], E{}), pack(out[4], out[5], E{}),
                    pack(out[6], out[7], E{}));
}

template <class T>
__device__ __forceinline__ void conv_lrn_pool_mma(const ConvLrnPoolMmaArgs& a) {
  using E = typename T::E;
  static_assert(sizeof(E) == 2, "a word is two channels");
  const ConvMmaArgs& c = a.conv;
  const LrnPoolCudaArgs& tail = a.tail;
  const E* __restrict__ x = (const E*)c.x;  // (N, H, W, C)
  const E* __restrict__ w = (const E*)c.w;  // (K, R, S, C)
  const float* __restrict__ b = c.b;        // (K) or null
  E* y = (E*)tail.y;                        // (N, tail.P, tail.Q, K)
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned panels = shared_address(shared), staged = panels + a.staged_at;
  const Lane<T> l(panels);

  const int n = divide(blockIdx.x, tail.image_tiles);
  const int tile = blockIdx.x - n * tail.image_tiles.value;
  const int tile_row = divide(tile, tail.tiles_q);
  const int p0 = tile_row * tail.tile_p;
  const int q0 = (tile - tile_row * tail.tiles_q.value) * tail.tile_q.value;
  const int top = halo_origin(p0, tail.stride_h, tail.pad_h);
  const int left = halo_origin(q0, tail.stride_w, tail.pad_w);
  const int halo = tail.halo_h * tail.halo_w.value;

  // of the rows this thread copies: the corner, and where it lies in x
  int corner[T::kLoadsA], offset[T::kLoadsA];
#pragma unroll
  for (int i = 0; i < T::kLoadsA; i++) {
    const int row = i * T::kLoadRows + l.row;
    const int line = divide(row, tail.halo_w), p = top + line;
    const int q = left + row - line * tail.halo_w.value;
    const int h = halo_origin(p, c.stride_h, c.pad_h), column = halo_origin(q, c.stride_w, c.pad_w);
    corner[i] = row < halo && inside(p, c.P) && inside(q, c.Q) ? join_corner(h, column) : kFarAbove;
    offset[i] = offset_of(c.x_strides, n, h, column);
  }

  const int last_pixel = join_corner(c.H - 1, c.W - 1);

#pragma unroll 1
  for (int n0 = 0; n0 < c.K; n0 += T::kColumns) {
    const int nt = warp_columns<T>(c.K - n0), count = 8 * nt * T::kWarpsN;
    const FilterRows<T> filter(l, w, n0, c.K, count, c.units);
    const unsigned from_b = columns_address(l, nt);
    float acc[T::kWarpTiles][4][4];
    clear<T>(acc);
    ring<T>(
        ceil_div(c.units, T::kStageUnits),
        [&](int stage, int slot, Copies<T>& copies) {
          const int u = stage * T::kStageUnits + l.unit;
          const int tap = divide(u, c.channel_units), tap_r = divide(tap, c.filter_w);
          const int tap_s = tap - tap_r * c.filter_w.value;
          const int channel = (u - tap * c.channel_units.value) * T::kUnit;
          const int shift = u < c.units ? join_corner(tap_r, tap_s) : kFarBelow;
          const int tap_at = offset_of(c.x_strides, 0, tap_r, tap_s) + channel;
          load_pixels(copies, l, slot, [&](int i) {
            return Source<E>{element(x, offset[i] + tap_at),
                             inside_map(corner[i] + shift, last_pixel)};
          });
          filter.load(copies, l, slot, stage);
        },
        [&](int, int slot) { multiply_panels<T>(nt, acc, l.a_at + slot, from_b + slot); });

    finish_results<T>(acc, l, nt, b, n0, c.K);
    each_pair<T>(acc, l, nt, [&](int row) {
      const int end = row < halo ? c.K - n0 : 0;
      return [=, to = staged + row * a.pitch + 2 * n0](int column, const float* v) {
        if (column < end) store_shared(to + 2 * column, pack(v[0], v[1], E{}));
      };
    });
  }
  __syncthreads();

  // A warp has whole pixels, a lane a unit of one. f(pixel among `columns`, its line and column,
  // whether the lane has any), of all lanes alike.
  const int units = tail.groups.value, per_warp = a.warp_pixels, own = divide(l.lane, tail.groups);
  const int unit = l.lane - own * units;
  const auto each = [&](int pixels, const CudaDivisor& columns, auto f) {
    for (int i = threadIdx.x / 32 * per_warp; i < pixels; i += T::kThreads / 32 * per_warp) {
      const int pixel = i + own, line = divide(pixel, columns);
      f(pixel, line, pixel - line * (int)columns.value, own < per_warp && pixel < pixels);
    }
  };
  const auto maximum = [&](int p, int q) {
    const int h = halo_origin(p, tail.stride_h, tail.pad_h);
    const int column = halo_origin(q, tail.stride_w, tail.pad_w);
    uint4 most = make_uint4(0, 0, 0, 0);  // nothing is less behind a ReLU
    for (int r = max(-h, 0); r < min(tail.R, c.P - h); r++)
      for (int s = max(-column, 0); s < min(tail.S, c.Q - column); s++) {
        const int row = (h + r - top) * tail.halo_w.value + column + s - left;
        const uint4 v = *(const uint4*)(shared + a.staged_at + row * a.pitch + 16 * unit);
        most.x = larger(most.x, v.x, E{}), most.y = larger(most.y, v.y, E{});
        most.z = larger(most.z, v.z, E{}), most.w = larger(most.w, v.w, E{});
      }
    return most;
  };
  const bool first = unit == 0, last = unit == units - 1;

  if (!tail.pool_first) {
    each(halo, tail.halo_w, [&](int row, int, int, bool mine) {
      const int at = a.staged_at + row * a.pitch + 16 * unit;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (mine) v = *(const uint4*)(shared + at);
      v = normalised_unit<E>(tail, v, first, last);
      if (mine) store_shared(panels + at, v);
    });
    __syncthreads();
  }
  each(tail.tile_p * tail.tile_q.value, tail.tile_q, [&](int, int line, int column, bool mine) {
    const int p = p0 + line, q = q0 + column;
    mine = mine && p < tail.P && q < tail.Q;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (mine) v = maximum(p, q);
    if (tail.pool_first) v = normalised_unit<E>(tail, v, first, last);
    if (mine) store_global(y + offset_of(tail.y_strides, n, p, q) + T::kUnit * unit, v);
  });
}
