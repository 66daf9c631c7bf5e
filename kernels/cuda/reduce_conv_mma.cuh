// The device code of the fused 1x1 -> KxK on tensor cores. The contract stands at the head of
// reduce_conv_mma.cu.
//
// The reduced tile in shared memory, for a band of rows (pad 1; every cell is a pixel's units):
//
//   origin  zero | row -1 (outside: zeros)          | gap |
//                | r(0,0) r(0,1) ... r(0,W-1)       | gap |    the gap is the right halo of its row
//                | r(1,0) ...                       | gap |    and the left halo of the next: zero
//
// A pixel has an odd number of units and the gap makes up what a row lacks to P Q units modulo 8,
// so that 8 outputs in a row or across its end, whatever the tap, read 8 different groups of 4
// banks. A tap is then one offset, and (tap, channel unit) one entry of a list in shared memory.
#pragma once
#include "mma_results.cuh"

// Past the end of the list: any address plus this is negative, and the zero unit is read instead.
constexpr unsigned kNoUnit = 0x80000000u;

template <class T>
__device__ __forceinline__ void reduce_conv_mma(const ReduceConvMmaArgs& a, int block) {
  using E = typename T::E;
  const E* __restrict__ x = (const E*)a.x;    // (N, H, W, C)
  const E* __restrict__ wr = (const E*)a.wr;  // (Cr, C)
  const float* __restrict__ br = a.br;        // (Cr) or null
  const E* __restrict__ w = (const E*)a.w;    // (K, R, S, Cr)
  const float* __restrict__ b = a.b;          // (K) or null
  E *y = (E*)a.y, *r = (E*)a.r;               // (N, P, Q, K), (N, H, W, Cr) or null
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned panels = shared_address(shared), reduced = panels + T::kRing;
  const unsigned list = reduced + a.reduced_units * 16;
  const int stages = ceil_div(a.conv_units, T::kStageUnits);
  const Lane<T> l(panels);

  const int tile = divide(block, a.slices), slice = block - tile * a.slices.value;
  const int group = divide(tile, a.bands), band = tile - group * a.bands.value;
  const int n = group * a.tile_images, images = min(a.tile_images, a.N - n);
  const int p0 = band * a.tile_p, h0 = halo_origin(p0, a.stride_h, a.pad_h);
  const int top = max(h0, 0), rows = min(h0 + a.halo_h, a.H) - top;  // of the map, in the halo
  const int sources = images * rows * a.W;
  // Row m of the 1x1: pixel (image, h, column). Several images come with whole maps only.
  const auto locate = [&](int m, int& image, int& h, int& column) {
    const int line = divide(m, a.map_w);
    image = a.tile_images > 1 ? divide(line, a.map_h) : 0;
    h = top + line - image * a.H, column = m - line * a.map_w.value;
  };

  for (int i = threadIdx.x; i < a.reduced_units; i += T::kThreads)
    store_shared(reduced + i * 16, make_uint4(0, 0, 0, 0));
  for (int u = threadIdx.x; u < stages * T::kStageUnits; u += T::kThreads) {
    const int tap = divide(u, a.channel_units), tap_r = divide(tap, a.filter_w);
    const int tap_s = tap - tap_r * a.filter_w.value;
    const int units = tap_r * a.row_units + tap_s * a.pixel_units + u - tap * a.channel_units.value;
    store_shared(list + u * 4, u < a.conv_units ? units * 16u : kNoUnit);
  }

  // ---- 1x1 into the reduced tile
  float acc[T::kWarpTiles][4][4];
  const int lead = owned_lead(a.R, a.stride_h, a.pad_h);
  for (int m0 = 0; m0 < sources; m0 += T::kRows) {
    int source[T::kLoadsA];  // where the pixels this thread copies begin in x; -1: none
#pragma unroll
    for (int i = 0; i < T::kLoadsA; i++) {
      const int m = m0 + i * T::kLoadRows + l.row;
      int image, h, column;
      locate(m < sources ? m : 0, image, h, column);
      source[i] = m < sources ? offset_of(a.x_strides, n + image, h, column) : -1;
    }
    for (int n0 = 0; n0 < a.Cr;) {
      const int nt = warp_columns<T>(a.Cr - n0), count = 8 * nt * T::kWarpsN;
      const FilterRows<T> filter(l, wr, n0, a.Cr, count, a.reduce_units);
      const E* own = element<T::kUnit>(x, l.unit);
      const unsigned from_b = columns_address(l, nt);
      clear<T>(acc);
      ring<T>(
          ceil_div(a.reduce_units, T::kStageUnits),
          [&](int stage, int slot, Copies<T>& copies) {
            const bool there = stage * T::kStageUnits < filter.units_left;
            const E* units = element<T::kStageUnits * T::kUnit>(own, stage);
            load_pixels(copies, l, slot, [&](int i) {
              return Source<E>{element(units, source[i]), there && source[i] >= 0};
            });
            filter.load(copies, l, slot, stage);
          },
          [&](int, int slot) { multiply_panels<T>(nt, acc, l.a_at + slot, from_b + slot); });

      finish_results<T>(acc, l, nt, br, n0, a.Cr);
      each_pair<T>(acc, l, nt, [&](int row) {
        const int m = m0 + row;
        int image, h, q;
        locate(m < sources ? m : 0, image, h, q);
        const int units =
            a.origin_units + image * a.image_units + (h - h0) * a.row_units + q * a.pixel_units;
        const int end = m < sources ? a.Cr - n0 : 0;
        return [=, to = reduced + units * 16 + n0 * (int)sizeof(E)](int column, const float* v) {
          if (column >= end) return;
          const unsigned at = to + column * sizeof(E);
          if constexpr (sizeof(E) == 2) {
            store_shared(at, pack(v[0], v[1], E{}));
          } else {  // rounded once here, not at every tap; word by word without a bank conflict
            const bool turned = column % 8 >= 4;
            store_shared(at + (turned ? 4 : 0), to_tf32(__float_as_uint(turned ? v[1] : v[0])));
            store_shared(at + (turned ? 0 : 4), to_tf32(__float_as_uint(turned ? v[0] : v[1])));
          }
        };
      });
      if (r && slice == 0)
        store_results<T>(acc, l, nt, panels, [&](int row) {
          const int m = m0 + row;
          int image, h, q;
          locate(m < sources ? m : 0, image, h, q);
          const bool mine = m < sources && owns(h - h0, lead, a.tile_p, a.stride_h);
          return Row<E>{r + offset_of(a.r_strides, n + image, h, q) + n0, mine ? a.Cr - n0 : 0};
        });
      n0 += count;
    }
  }
  if (p0 >= a.P) return;  // a band that only owns pixels of r

  // ---- KxK from the reduced tile, published by the first barrier of the ring
  const int outputs = images * a.tile_p * a.Q;
  const int begin = slice * a.slice, end = min(begin + a.slice, a.K);
  const int first = a.origin_units - a.pad_w * a.pixel_units;  // tap (0, 0) of output (0, 0)
  const auto locate_output = [&](int m, int& image, int& p, int& q) {
    const int line = divide(m, a.map_q);
    image = a.tile_images > 1 ? divide(line, a.tile_rows) : 0;
    p = line - image * a.tile_p, q = m - line * a.map_q.value;
  };
  for (int m0 = 0; m0 < outputs; m0 += T::kRows) {
    unsigned base[T::kWarpTiles];
#pragma unroll
    for (int i = 0; i < T::kWarpTiles; i++) {
      const int m = m0 + l.address_row(i);
      int image, p, q;
      // rows past the end are computed and not stored: of other banks than their neighbours
      locate_output(m < outputs ? m : outputs >= 8 ? m % 8 : 0, image, p, q);
      base[i] = reduced + 16 * (first + image * a.image_units + p * a.stride_h * a.row_units +
                                q * a.stride_w * a.pixel_units);
    }
    for (int n0 = begin; n0 < end;) {
      const int nt = warp_columns<T>(end - n0), count = 8 * nt * T::kWarpsN;
      const FilterRows<T> filter(l, w, n0, end, count, a.conv_units);
      const unsigned own_list = computed_here(list + l.lane / 16 * 4);
      const unsigned from_b = columns_address(l, nt);
      clear<T>(acc);
      ring<T>(
          stages,
          [&](int stage, int slot, Copies<T>& copies) { filter.load(copies, l, slot, stage); },
          [&](int stage, int slot) {
            const unsigned entry = own_list + stage * (T::kStageUnits * 4);
            const unsigned taps[2] = {load_shared(entry), load_shared(entry + 8)};
            multiply<T, false>(
                nt, acc,
                [&](int step, int i) {
                  const unsigned tap = step == 0 ? taps[0] : taps[1];
                  return (unsigned)max((int)(base[i] + tap), (int)reduced);
                },
                from_b + slot);
          });

      finish_results<T>(acc, l, nt, b, n0, end);
      store_results<T>(acc, l, nt, panels, [&](int row) {
        const int m = m0 + row;
        int image, p, q;
        locate_output(m < outputs ? m : 0, image, p, q);
        const bool in = m < outputs && p0 + p < a.P;
        return Row<E>{y + offset_of(a.y_strides, n + image, p0 + p, q) + n0, in ? end - n0 : 0};
      });
      n0 += count;
    }
  }
}
