// The device code of conv, fprop and dgrad; conv_wgrad.cuh has wgrad. The contract stands at the
// head of conv.cu.
#pragma once
#include "tile.cuh"

// ---- fprop -------------------------------------------------------------------------------------
// A block makes 64 consecutive pixels of (N, P, Q) x kColumns channels of one panel. The summed
// axis is the filter's row (r, s, c), flat: a step of 16 spans taps where C is small or odd.
template <class T, class S>
__device__ __forceinline__ void conv_fprop(const ConvCudaArgs& a) {
  int column_panel = 0;
  for (int i = 1; i < a.panel_count; i++)
    if ((int)blockIdx.y >= a.panels[i].first_tile) column_panel = i;
  const ConvCudaPanel& panel = a.panels[column_panel];
  const S* __restrict__ x = (const S*)a.x;
  const S* __restrict__ w = (const S*)panel.w;
  const float* __restrict__ b = panel.b;
  S* y = (S*)panel.y;
  extern __shared__ __align__(16) float shared[];
  float *panel_a = shared, *panel_b = shared + 2 * T::kPanelA;

  const int m0 = blockIdx.x * T::kRows, k0 = (blockIdx.y - panel.first_tile) * T::kColumns;
  const int row = a.R * a.S * a.C, k = k0 + lane_x<T>() * 4;

  // the rows this thread fetches: the window's first pixel in the image, and in memory
  int top[T::kRows / 16], left[T::kRows / 16], from[T::kRows / 16];
#pragma unroll
  for (int i = 0; i < T::kRows / 16; i++) {
    const int m = m0 + threadIdx.x / 8 + 16 * i, n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value, p = divide(pixel, a.map_w);
    top[i] = halo_origin(p, a.stride_h, a.pad_h);
    left[i] = halo_origin(pixel - p * a.map_w.value, a.stride_w, a.pad_w);
    from[i] = offset_of(a.x_strides, n, top[i], left[i]);
    if (m >= a.pixels) left[i] = a.W;  // no tap of this row lies inside
  }
  const bool paired_x = a.C % 2 == 0 && is_paired(x, a.x_strides);
  const bool paired_w = row % 2 == 0 && is_paired(w, CudaStrides{});
  // element t of row i of A: where it lies in x; -1: nowhere
  const auto locate = [&](int i, int t) {
    const int tap = divide(t, a.channels), r = divide(tap, a.filter_w);
    const int s = tap - r * a.filter_w.value;
    const bool in = t < row && inside(top[i] + r, a.H) && inside(left[i] + s, a.W);
    return in ? from[i] + offset_of(a.x_strides, 0, r, s) + t - tap * a.C : -1;
  };
  float acc[T::kThreadRows][4];
  Pair<S> va[T::kRows / 16], vb[T::kColumns / 16];
  start<T>(acc, b, k, panel.K);
  int t0 = 0;
  pipeline(
      ceil_div(row, T::kStep),
      [&] {
        fetch_rows<T::kRows>(va, [&](int i, int step) {
          const int at = locate(i, t0 + step);  // an even C keeps both within a tap
          return fetch_pair(x, at, paired_x ? at : locate(i, t0 + step + 1), paired_x);
        });
        fetch_rows<T::kColumns>(vb, [&](int i, int step) {
          const int column = k0 + threadIdx.x / 8 + 16 * i, t = t0 + step, at = column * row + t;
          const int rest = column < panel.K ? row - t : 0;
          return fetch_pair(w, rest > 0 ? at : -1, rest > 1 ? at + 1 : -1, paired_w);
        });
        t0 += T::kStep;
      },
      [&](int buffer) {
        store_rows_a<T>(va, panel_a + buffer * T::kPanelA);
        store_rows_b<T>(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        const float* rows = panel_a + buffer * T::kPanelA + lane_y<T>() * T::kRowsPitchA;
        multiply<T>(
            acc, [&](int i) { return rows + i * (T::kLanesY * T::kRowsPitchA); },
            panel_b + buffer * T::kPanelB, T::kRowsPitchB);
      });

  const bool vector_y = is_vector(y, panel.y_strides);
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int m = m0 + lane_y<T>() + i * T::kLanesY, n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value, p = divide(pixel, a.map_w);
    if (m < a.pixels) {
      if (panel.relu)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = relu(acc[i][j]);
      store4_whole(y + offset_of(panel.y_strides, n, p, pixel - p * a.map_w.value) + k, acc[i],
                   panel.K - k, vector_y);
    }
  }
}

// ---- dgrad -------------------------------------------------------------------------------------
// A block makes kColumns input channels of 64 consecutive pixels of one phase: the pixels (h, w)
// with h = phase_h mod stride_h, w = phase_w mod stride_w. They see the same taps, every
// stride_h-th row of the filter, so that no zero between strided outputs is multiplied. The summed
// axis is panel, tap, output channel.
template <class T, class S>
__device__ __forceinline__ void conv_dgrad(const ConvCudaArgs& a) {
  S* gx = (S*)a.gx;
  extern __shared__ __align__(16) float shared[];
  float *panel_a = shared, *panel_b = shared + 2 * T::kPanelA;

  const int phase = blockIdx.z, phase_h = divide(phase, a.step_w);
  const int phase_w = phase - phase_h * a.stride_w;
  const int shift_h = phase_h + a.pad_h, shift_w = phase_w + a.pad_w;
  const int first_p = divide(shift_h, a.step_h), first_r = shift_h - first_p * a.stride_h;
  const int first_q = divide(shift_w, a.step_w), first_s = shift_w - first_q * a.stride_w;
  const int taps_r = divide(a.R - first_r + a.stride_h - 1, a.step_h);
  const int taps_s = divide(a.S - first_s + a.stride_w - 1, a.step_w);
  const int m0 = blockIdx.x * T::kRows, c0 = blockIdx.y * T::kColumns;

  int steps = 0;
  for (int i = 0; i < a.panel_count; i++) steps += ceil_div(a.panels[i].K, T::kStep);
  steps *= taps_r * taps_s;

  // the rows this thread fetches: image, and the output that tap (first_r, first_s) leads to
  int image[T::kRows / 16], p0[T::kRows / 16], q0[T::kRows / 16];
#pragma unroll
  for (int i = 0; i < T::kRows / 16; i++) {
    const int m = m0 + threadIdx.x / 8 + 16 * i;
    image[i] = divide(m, a.map_pixels);
    const int pixel = m - image[i] * a.map_pixels.value, row = divide(pixel, a.map_w);
    p0[i] = m < a.pixels ? row + first_p : -1;
    q0[i] = pixel - row * a.map_w.value + first_q;
  }

  float acc[T::kThreadRows][4];
  Pair<S> va[T::kRows / 16], vb[T::kColumns / 16];
  start<T>(acc, nullptr, 0, 0);
  int source = 0, tap_r = 0, tap_s = 0, k0 = 0;       // fetch runs a step ahead
  int from_gy[T::kRows / 16], from_y[T::kRows / 16];  // where the tap's rows begin
  bool in[T::kRows / 16];
  pipeline(
      steps,
      [&] {
        const ConvCudaPanel& panel = a.panels[source];
        const S *gy = (const S*)panel.gy, *y = (const S*)panel.y, *w = (const S*)panel.w;
        if (k0 == 0)
#pragma unroll
          for (int i = 0; i < T::kRows / 16; i++) {
            const int p = p0[i] - tap_r, q = q0[i] - tap_s;
            in[i] = inside(p, a.P) && inside(q, a.Q);
            from_gy[i] = offset_of(panel.gy_strides, image[i], p, q);
            from_y[i] = offset_of(panel.y_strides, image[i], p, q);
          }
        const bool even_k = panel.K % 2 == 0;
        const bool paired_gy = even_k && is_paired(gy, panel.gy_strides);
        const bool paired_y = even_k && is_paired(y, panel.y_strides);
        const bool paired_w = a.C % 2 == 0 && is_paired(w, CudaStrides{});
        fetch_rows<T::kRows>(va, [&](int i, int step) {
          const int k = k0 + step, left = in[i] ? panel.K - k : 0;
          const auto fetch = [&](const S* p, int at, bool paired) {
            return fetch_pair(p, left > 0 ? at : -1, left > 1 ? at + 1 : -1, paired);
          };
          const Pair<S> value = fetch(gy, from_gy[i] + k, paired_gy);
          if (!y) return value;
          return keep_positive(value, fetch(y, from_y[i] + k, paired_y));  // both in flight
        });
        const int k = k0 + threadIdx.x / 8;
        const int tap = (first_r + tap_r * a.stride_h) * a.S + first_s + tap_s * a.stride_w;
        const int row = (k * a.R * a.S + tap) * a.C;
        fetch_columns<T::kColumns>(vb, [&](int, int column) {
          const int c = c0 + column, left = k < panel.K ? a.C - c : 0;
          return fetch_pair(w, left > 0 ? row + c : -1, left > 1 ? row + c + 1 : -1, paired_w);
        });
        k0 += T::kStep;
        if (k0 >= panel.K) {
          k0 = 0;
          if (++tap_s == taps_s) tap_s = 0, tap_r++;
          if (tap_r == taps_r) tap_r = 0, source++;
        }
      },
      [&](int buffer) {
        store_rows_a<T>(va, panel_a + buffer * T::kPanelA);
        store_columns_b<T>(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        const float* rows = panel_a + buffer * T::kPanelA + lane_y<T>() * T::kRowsPitchA;
        multiply<T>(
            acc, [&](int i) { return rows + i * (T::kLanesY * T::kRowsPitchA); },
            panel_b + buffer * T::kPanelB, T::kColumnsPitchB);
      });

  const bool vector_gx = is_vector(gx, a.gx_strides);
  const int c = c0 + lane_x<T>() * 4;
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int m = m0 + lane_y<T>() + i * T::kLanesY, n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value, row = divide(pixel, a.map_w);
    const int h = row * a.stride_h + phase_h;
    const int column = (pixel - row * a.map_w.value) * a.stride_w + phase_w;
    if (m < a.pixels && h < a.H && column < a.W) {
      S* out = gx + offset_of(a.gx_strides, n, h, column) + c;
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
