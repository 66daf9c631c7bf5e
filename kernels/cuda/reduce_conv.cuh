// The device code of reduce_conv, fprop and dgrad. The contract stands at the head of
// reduce_conv.cu.
#pragma once
#include "tile.cuh"

// ---- fprop -------------------------------------------------------------------------------------
// A block makes tile_p x tile_q outputs of one image, `slice` channels of them. First the reduced
// tile with its halo into shared memory, 64 pixels x kColumns channels at a time, then the KxK
// reading it tap by tap.
template <class T>
__device__ __forceinline__ void fprop(const ReduceConvCudaArgs& a) {
  const float* __restrict__ x = a.x;           // (N, H, W, C)
  const float* __restrict__ wr = a.wr;         // (Cr, C)
  const float* __restrict__ br = a.br;         // (Cr) or null
  const float* __restrict__ w = a.w;           // (K, R, S, Cr)
  const float* __restrict__ b = a.b;           // (K) or null
  float* y = a.y;                              // (N, P, Q, K)
  float* r = blockIdx.y == 0 ? a.r : nullptr;  // (N, H, W, Cr) or null; every slice has the same
  extern __shared__ __align__(16) float shared[];
  float *panel_a = shared, *panel_b = shared + 2 * T::kPanelA;
  float* reduced = shared + T::kPanels;  // (halo_h, halo_w, pitch)
  const int pitch = resident_pitch(a.Cr), resident_channels = pitch - 4;

  const int n = divide(blockIdx.x, a.image_tiles), tile = blockIdx.x - n * a.image_tiles.value;
  const int tile_row = divide(tile, a.tiles_q), tile_column = tile - tile_row * a.tiles_q.value;
  const int p0 = tile_row * a.tile_p, q0 = tile_column * a.tile_q.value;
  const int h0 = halo_origin(p0, a.stride_h, a.pad_h), w0 = halo_origin(q0, a.stride_w, a.pad_w);
  const int halo_pixels = a.halo_h * a.halo_w.value;

  // 1x1
  using A = Panel<kStepsInner, T::kRows>;
  using B = Panel<kStepsInner, T::kColumns>;
  const bool vector_r = is_vector(r, a.r_strides);
  const bool whole = a.C % 4 == 0 && is_vector(x, a.x_strides) && is_vector(wr, CudaStrides{});
  const int lead_h = owned_lead(a.R, a.stride_h, a.pad_h);
  const int lead_w = owned_lead(a.S, a.stride_w, a.pad_w);
  for (int m0 = 0; m0 < halo_pixels; m0 += T::kRows) {
    int source[A::kQuads];  // where the rows this thread fetches begin in x
#pragma unroll
    for (int i = 0; i < A::kQuads; i++) {
      const int m = m0 + A::major(i), row = divide(m, a.halo_w);
      const int h = h0 + row, column = w0 + m - row * a.halo_w.value;
      const bool in = m < halo_pixels && inside(h, a.H) && inside(column, a.W);
      source[i] = in ? offset_of(a.x_strides, n, h, column) : kNowhere;
    }
    for (int n0 = 0; n0 < a.Cr; n0 += T::kColumns) {
      const int cr = n0 + lane_x<T>() * 4;
      float acc[T::kThreadRows][4];
      Quad<float> va[A::kQuads], vb[B::kQuads];
      start<T>(acc, br, cr, a.Cr);
      int from[B::kQuads];  // where the rows of wr begin
#pragma unroll
      for (int i = 0; i < B::kQuads; i++) {
        const int k = n0 + column_of<T>(B::major(i));
        from[i] = k < a.Cr ? k * a.C : kNowhere;
      }
      int c0 = 0;
      pipeline(
          ceil_div(a.C, T::kStep),
          [&] {
            A::fetch(va, x, whole, [&](int i, int j) {
              const int c = c0 + A::minor(i, j);
              return c < a.C ? source[i] + c : kNowhere;
            });
            B::fetch(vb, wr, whole, [&](int i, int j) {
              const int c = c0 + B::minor(i, j);
              return c < a.C ? from[i] + c : kNowhere;
            });
            c0 += T::kStep;
          },
          [&](int buffer) {
            A::store(va, panel_a + buffer * T::kPanelA);
            B::store(vb, panel_b + buffer * T::kPanelB);
          },
          [&](int buffer) {
            multiply<T, kStepsInner, kStepsInner>(acc, panel_a + buffer * T::kPanelA,
                                                  panel_b + buffer * T::kPanelB);
          });
#pragma unroll
      for (int i = 0; i < T::kThreadRows; i++) {
        const int m = m0 + row_of<T>(i), row = divide(m, a.halo_w);
        const int column = m - row * a.halo_w.value;
        const bool in = inside(h0 + row, a.H) && inside(w0 + column, a.W);
        if (m < halo_pixels && cr < resident_channels) {
#pragma unroll
          for (int j = 0; j < 4; j++)  // the halo outside the map is zero, not relu(br)
            acc[i][j] = in && cr + j < a.Cr ? relu(acc[i][j]) : 0.f;
          *(float4*)(reduced + m * pitch + cr) =
              make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
          if (r && in && owns(row, lead_h, a.tile_p, a.stride_h) &&
              owns(column, lead_w, a.tile_q.value, a.stride_w))
            store4_whole(r + offset_of(a.r_strides, n, h0 + row, w0 + column) + cr, acc[i],
                         a.Cr - cr, vector_r);
        }
      }
    }
  }
  if (p0 >= a.P || q0 >= a.Q) return;  // a tile that only owns pixels of r

  // KxK
  const bool vector_y = is_vector(y, a.y_strides);
  const bool whole_w = a.Cr % 4 == 0 && is_vector(w, CudaStrides{});
  const int slice_end = min((int)(blockIdx.y + 1) * a.slice, a.K);  // whole tiles of columns
  const int tile_outputs = a.tile_p * a.tile_q.value, steps_per_tap = ceil_div(a.Cr, T::kStep);
  for (int m0 = 0; m0 < tile_outputs; m0 += T::kRows) {
    unsigned base[T::kThreadRows];  // of the output's first tap in the reduced tile
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) {
      int m = m0 + row_of<T>(i);
      m = m < tile_outputs ? m : 0;  // computed, not stored
      const int row = divide(m, a.tile_q), column = m - row * a.tile_q.value;
      base[i] = shared_address(reduced +
                               (row * a.stride_h * a.halo_w.value + column * a.stride_w) * pitch);
    }
    for (int n0 = blockIdx.y * a.slice; n0 < slice_end; n0 += T::kColumns) {
      const int k = n0 + lane_x<T>() * 4;
      float acc[T::kThreadRows][4];
      Quad<float> vb[B::kQuads];
      start<T>(acc, b, k, a.K);
      int from[B::kQuads];  // where the filter's tap begins, a step ahead of what is multiplied
#pragma unroll
      for (int i = 0; i < B::kQuads; i++) {
        const int column = n0 + column_of<T>(B::major(i));
        from[i] = column < a.K ? column * a.R * a.S * a.Cr : kNowhere;
      }
      int fetch_c = 0, tap_s = 0, tap = 0, c0 = 0;
      pipeline(
          a.R * a.S * steps_per_tap,
          [&] {
            B::fetch(vb, w, whole_w, [&](int i, int j) {
              const int c = fetch_c + B::minor(i, j);
              return c < a.Cr ? from[i] + c : kNowhere;
            });
            fetch_c += T::kStep;
            if (fetch_c >= a.Cr) {
              fetch_c = 0;
#pragma unroll
              for (int i = 0; i < B::kQuads; i++) from[i] += a.Cr;
            }
          },
          [&](int buffer) { B::store(vb, panel_b + buffer * T::kPanelB); },
          [&](int buffer) {
            const unsigned at = 4 * (tap * pitch + c0);  // tap: its pixel in the halo
            multiply_resident<T, kStepsInner>(
                acc, [&](int i) { return base[i] + at; }, panel_b + buffer * T::kPanelB);
            c0 += T::kStep;
            if (c0 >= a.Cr) {
              c0 = 0, tap++;
              if (++tap_s == a.S) tap_s = 0, tap += a.halo_w.value - a.S;
            }
          });
#pragma unroll
      for (int i = 0; i < T::kThreadRows; i++) {
        const int m = m0 + row_of<T>(i), row = divide(m, a.tile_q);
        const int p = p0 + row, q = q0 + m - row * a.tile_q.value;
        if (m < tile_outputs && p < a.P && q < a.Q) {
#pragma unroll
          for (int j = 0; j < 4; j++) acc[i][j] = relu(acc[i][j]);
          store4_whole(y + offset_of(a.y_strides, n, p, q) + k, acc[i], a.K - k, vector_y);
        }
      }
    }
  }
}

// ---- dgrad -------------------------------------------------------------------------------------
// A block makes tile_pixels (at most 64) consecutive pixels of (N, H, W). The KxK comes first, so
// the second step, the 1x1, needs no halo: gr of the same pixels stays in shared memory, and goes
// to the workspace for wgrad as well. gx null: only gr.
template <class T>
__device__ __forceinline__ void dgrad(const ReduceConvCudaArgs& a) {
  const float* __restrict__ gy = a.gy;  // (N, P, Q, K)
  const float* __restrict__ y = a.y;    // (N, P, Q, K), mask
  const float* __restrict__ r = a.r;    // (N, H, W, Cr), mask
  const float* __restrict__ w = a.w;    // (K, R, S, Cr)
  const float* __restrict__ wr = a.wr;  // (Cr, C)
  float* gr = a.gr;                     // (N, H, W, Cr), contiguous
  float* gx = a.gx;                     // (N, H, W, C) or null
  extern __shared__ __align__(16) float shared[];
  float *panel_a = shared, *panel_b = shared + 2 * T::kPanelA;
  float* reduced = shared + T::kPanels;  // (tile_pixels, pitch)
  const int pitch = resident_pitch(a.Cr), resident_channels = pitch - 4;

  const int m0 = blockIdx.x * a.tile_pixels, pixels = a.N * a.map_pixels.value;
  const int end = min(m0 + a.tile_pixels, pixels);

  // KxK
  const int steps_per_tap = ceil_div(a.K, T::kStep);
  using A = Panel<kStepsInner, T::kRows>;
  using B = Panel<kStepsOuter, T::kColumns>;
  const bool whole = a.K % 4 == 0 && is_vector(gy, a.gy_strides) && is_vector(y, a.y_strides);
  const bool whole_w = a.Cr % 4 == 0 && is_vector(w, CudaStrides{});
  const bool vector_r = is_vector(r, a.r_strides);
  for (int n0 = 0; n0 < a.Cr; n0 += T::kColumns) {
    const int cr = n0 + lane_x<T>() * 4;
    float acc[T::kThreadRows][4];
    Quad<float> va[A::kQuads], mask[A::kQuads], vb[B::kQuads];
    start<T>(acc, nullptr, 0, 0);
    int tap_r = 0, tap_s = 0, k0 = 0;
    int from_gy[A::kQuads], from_y[A::kQuads];  // where the tap's rows begin
    pipeline(
        a.R * a.S * steps_per_tap,
        [&] {
          if (k0 == 0)
#pragma unroll
            for (int i = 0; i < A::kQuads; i++) {
              const int m = m0 + A::major(i), n = divide(m, a.map_pixels);
              const int pixel = m - n * a.map_pixels.value, h = divide(pixel, a.map_w);
              const int column = pixel - h * a.map_w.value;
              const int p = gradient_source(h, tap_r, a.pad_h, a.step_h, a.P);
              const int q = gradient_source(column, tap_s, a.pad_w, a.step_w, a.Q);
              const bool in = m < end && p >= 0 && q >= 0;
              from_gy[i] = in ? offset_of(a.gy_strides, n, p, q) : kNowhere;
              from_y[i] = in ? offset_of(a.y_strides, n, p, q) : kNowhere;
            }
          const auto channel = [&](int from, int j) {
            const int k = k0 + A::minor(0, j);
            return k < a.K ? from + k : kNowhere;
          };
          A::fetch(va, gy, whole, [&](int i, int j) { return channel(from_gy[i], j); });
          A::fetch(mask, y, whole, [&](int i, int j) { return channel(from_y[i], j); });
          B::fetch(vb, w, whole_w, [&](int i, int j) {
            const int k = k0 + B::major(i), c = n0 + B::minor(i, j);
            const int row = (k * a.R + tap_r) * a.S + tap_s;
            return k < a.K && c < a.Cr ? row * a.Cr + c : kNowhere;
          });
          k0 += T::kStep;
          if (k0 >= a.K) {
            k0 = 0;
            if (++tap_s == a.S) tap_s = 0, tap_r++;
          }
        },
        [&](int buffer) {
          A::store(va, mask, true, panel_a + buffer * T::kPanelA);
          B::store(vb, panel_b + buffer * T::kPanelB);
        },
        [&](int buffer) {
          multiply<T, kStepsInner, kStepsOuter>(acc, panel_a + buffer * T::kPanelA,
                                                panel_b + buffer * T::kPanelB);
        });
    const bool vector_gr = (a.Cr & 3) == 0;
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) {
      const int row = row_of<T>(i), m = m0 + row;
      if (row < a.tile_pixels && cr < resident_channels) {
        const int n = divide(m, a.map_pixels), pixel = m - n * a.map_pixels.value;
        const int h = divide(pixel, a.map_w);
        const int from = offset_of(a.r_strides, n, h, pixel - h * a.map_w.value) + cr;
        float mask[4];
        load4(r + from, mask, m < end ? a.Cr - cr : 0, vector_r);
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = mask[j] > 0.f ? acc[i][j] : 0.f;
        *(float4*)(reduced + row * pitch + cr) =
            make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
        if (m < end) store4_whole(gr + m * a.Cr + cr, acc[i], a.Cr - cr, vector_gr);
      }
    }
  }
  if (!gx) return;

  // 1x1
  const bool vector_gx = is_vector(gx, a.gx_strides);
  const bool whole_wr = a.C % 4 == 0 && is_vector(wr, CudaStrides{});
  unsigned base[T::kThreadRows];  // of this thread's pixels in the reduced tile
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int row = row_of<T>(i);  // past the tile: computed, not stored
    base[i] = shared_address(reduced + (row < a.tile_pixels ? row : 0) * pitch);
  }
  for (int n0 = 0; n0 < a.C; n0 += T::kColumns) {
    const int c = n0 + lane_x<T>() * 4;
    float acc[T::kThreadRows][4];
    Quad<float> vb[B::kQuads];
    start<T>(acc, nullptr, 0, 0);
    int fetch_cr = 0, cr0 = 0;
    pipeline(
        ceil_div(a.Cr, T::kStep),
        [&] {
          B::fetch(vb, wr, whole_wr, [&](int i, int j) {
            const int cr = fetch_cr + B::major(i), column = n0 + B::minor(i, j);
            return cr < a.Cr && column < a.C ? cr * a.C + column : kNowhere;
          });
          fetch_cr += T::kStep;
        },
        [&](int buffer) { B::store(vb, panel_b + buffer * T::kPanelB); },
        [&](int buffer) {
          multiply_resident<T, kStepsOuter>(
              acc, [&](int i) { return base[i] + 4 * cr0; }, panel_b + buffer * T::kPanelB);
          cr0 += T::kStep;
        });
#pragma unroll
    for (int i = 0; i < T::kThreadRows; i++) {
      const int m = m0 + row_of<T>(i);
      if (m < end) {
        const int n = divide(m, a.map_pixels), pixel = m - n * a.map_pixels.value;
        const int h = divide(pixel, a.map_w);
        float* out = gx + offset_of(a.gx_strides, n, h, pixel - h * a.map_w.value) + c;
        if (a.accumulate) {
          float old[4];
          load4(out, old, a.C - c, vector_gx);
#pragma unroll
          for (int j = 0; j < 4; j++) acc[i][j] = old[j] + acc[i][j];
        }
        store4_whole(out, acc[i], a.C - c, vector_gx);
      }
    }
  }
}
