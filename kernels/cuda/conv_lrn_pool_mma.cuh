// The device code of convolution, normalisation and max pooling in one launch. The contract stands
// at the head of conv_lrn_pool_mma.cu.
//
//   rows     pixels of the convolution that the block's tile of pooled pixels sees, row by row
//   columns  all K, 64 in a pass; x is gathered again for each
//   staged   (rows, K) of 16 bits in shared memory, a unit of pad behind a pixel: eight rows of one
//            word, and the units of neighbouring pixels, lie in different banks
#pragma once
#include "conv_mma.cuh"
#include "lrn.cuh"

constexpr int kMostReach = 4;  // channels to either side of a normalised one

// A unit of channels normalised: `at` is its place in its pixel's row, the neighbours beside it.
// The sums are in the order of lrn.cuh, so are the bits.
template <class E>
__device__ __forceinline__ uint4 normalised_unit(const LrnPoolCudaArgs& a, const unsigned char* at,
                                                 bool first, bool last) {
  const uint4 own = *(const uint4*)at;
  uint2 before = make_uint2(0, 0), after = make_uint2(0, 0);
  if (!first) before = *(const uint2*)(at - 8);
  if (!last) after = *(const uint2*)(at + 16);
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
  const Lane<T> l;

  const int n = divide(blockIdx.x, tail.image_tiles);
  const int tile = blockIdx.x - n * tail.image_tiles.value;
  const int tile_row = divide(tile, tail.tiles_q);
  const int p0 = tile_row * tail.tile_p;
  const int q0 = (tile - tile_row * tail.tiles_q.value) * tail.tile_q.value;
  const int top = halo_origin(p0, tail.stride_h, tail.pad_h);
  const int left = halo_origin(q0, tail.stride_w, tail.pad_w);
  const int halo = tail.halo_h * tail.halo_w.value;

  int corner[T::kLoadsA];
#pragma unroll
  for (int i = 0; i < T::kLoadsA; i++) {
    const int row = i * T::kLoadRows + threadIdx.x / T::kStageUnits;
    const int line = divide(row, tail.halo_w), p = top + line;
    const int q = left + row - line * tail.halo_w.value;
    corner[i] =
        row < halo && inside(p, c.P) && inside(q, c.Q)
            ? join_corner(halo_origin(p, c.stride_h, c.pad_h), halo_origin(q, c.stride_w, c.pad_w))
            : join_corner(-32768, 0);
  }

#pragma unroll 1
  for (int n0 = 0; n0 < c.K; n0 += T::kColumns) {
    const int nt = warp_columns<T>(c.K - n0), count = 8 * nt * T::kWarpsN;
    float acc[T::kWarpTiles][4][4];
    clear<T>(acc);
    ring<T>(
        ceil_div(c.units, T::kStageUnits),
        [&](int stage, int slot, Copies<T>& copies) {
          const int unit = threadIdx.x % T::kStageUnits, u = stage * T::kStageUnits + unit;
          const int tap = divide(u, c.channel_units), tap_r = divide(tap, c.filter_w);
          const int tap_s = tap - tap_r * c.filter_w.value;
          const int channel = (u - tap * c.channel_units.value) * T::kUnit;
#pragma unroll
          for (int i = 0; i < T::kLoadsA; i++) {
            const int row = i * T::kLoadRows + threadIdx.x / T::kStageUnits;
            const int h = (corner[i] >> 16) + tap_r, column = (short)corner[i] + tap_s;
            const bool wanted = u < c.units && inside(h, c.H) && inside(column, c.W);
            const int offset = offset_of(c.x_strides, n, h, column) + channel;
            copies.copy(i, panels + slot + panel_offset(row, unit), x + (wanted ? offset : 0),
                        wanted);
          }
          load_filter<T>(copies, panels + slot + T::kPanelA, w, n0, c.K, count, stage, c.units);
        },
        [&](int, int slot) {
          const unsigned panel = panels + slot;
          multiply<T, true>(
              nt, acc, l,
              [&](int step, int i) {
                return panel + panel_offset(l.address_row(0), 2 * step + l.lane / 16) + i * 1024;
              },
              panel + T::kPanelA);
        });

    const int column0 = n0 + l.first_column(nt) + 2 * l.t;
    float bias[4][2];
    load_bias(bias, b, column0, c.K);
#pragma unroll
    for (int i = 0; i < T::kWarpTiles; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int row = l.result_row(i, half), k = column0 + 8 * j;
          if (row < halo && j < nt && k < c.K)
            store_shared(staged + row * a.pitch + 2 * k,
                         pack(relu(acc[i][j][2 * half] + bias[j][0]),
                              relu(acc[i][j][2 * half + 1] + bias[j][1]), E{}));
        }
  }
  __syncthreads();

  // f(output of the tile, its p and q, unit of channels) for those inside the map
  const int units = tail.groups.value, outputs = tail.tile_p * tail.tile_q.value;
  const auto each_output = [&](auto f) {
    for (int i = threadIdx.x; i < outputs * units; i += T::kThreads) {
      const int at = divide(i, tail.groups), line = divide(at, tail.tile_q);
      const int p = p0 + line, q = q0 + at - line * tail.tile_q.value;
      if (p < tail.P && q < tail.Q) f(at, p, q, i - at * units);
    }
  };
  const auto maximum = [&](int p, int q, int unit) {
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
  const auto store = [&](int p, int q, int unit, uint4 v) {
    store_global(y + offset_of(tail.y_strides, n, p, q) + T::kUnit * unit, v);
  };

  if (tail.pool_first) {
    each_output([&](int at, int p, int q, int unit) {
      store_shared(panels + a.pooled_at + at * a.pitch + 16 * unit, maximum(p, q, unit));
    });
    __syncthreads();
    each_output([&](int at, int p, int q, int unit) {
      const unsigned char* from = shared + a.pooled_at + at * a.pitch + 16 * unit;
      store(p, q, unit, normalised_unit<E>(tail, from, unit == 0, unit == units - 1));
    });
    return;
  }
  // in place: a warp has whole pixels, and writes when all its lanes have read
  const int per_warp = 32 / units, pixel = divide(l.lane, tail.groups);
  const int unit = l.lane - pixel * units;
  for (int first = threadIdx.x / 32 * per_warp; first < halo;
       first += T::kThreads / 32 * per_warp) {
    const int row = first + pixel, at = a.staged_at + row * a.pitch + 16 * unit;
    const bool mine = pixel < per_warp && row < halo;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (mine) v = normalised_unit<E>(tail, shared + at, unit == 0, unit == units - 1);
    __syncwarp();
    if (mine) store_shared(panels + at, v);
  }
  __syncthreads();
  each_output([&](int, int p, int q, int unit) { store(p, q, unit, maximum(p, q, unit)); });
}
