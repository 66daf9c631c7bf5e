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

  using A = Panel<kStepsInner, T::kRows>;
  using B = Panel<kStepsInner, T::kColumns>;
  // the rows this thread fetches: the window's first pixel in the image, and in memory
  int top[A::kQuads], left[A::kQuads], from[A::kQuads];
#pragma unroll
  for (int i = 0; i < A::kQuads; i++) {
    const int m = m0 + A::major(i), n = divide(m, a.map_pixels);
    const int pixel = m - n * a.map_pixels.value, p = divide(pixel, a.map_w);
    top[i] = halo_origin(p, a.stride_h, a.pad_h);
    left[i] = halo_origin(pixel - p * a.map_w.value, a.stride_w, a.pad_w);
    from[i] = offset_of(a.x_strides, n, top[i], left[i]);
    if (m >= a.pixels) left[i] = a.W;  // no tap of this row lies inside
  }
  int from_w[B::kQuads];
#pragma unroll
  for (int i = 0; i < B::kQuads; i++) {
    const int column = k0 + column_of<T>(B::major(i));
    from_w[i] = column < panel.K ? column * row : kNowhere;
  }
  // four channels within a tap are four in memory
  const bool whole = a.C % 4 == 0 && is_vector(x, a.x_strides) && is_vector(w, CudaStrides{});
  float acc[T::kThreadRows][4];
  Quad<S> va[A::kQuads], vb[B::kQuads];
  start<T>(acc, b, k, panel.K);
  int t0 = 0;
  pipeline(
      ceil_div(row, T::kStep),
      [&] {
        A::fetch(va, x, whole, [&](int i, int j) {
          const int t = t0 + A::minor(i, j), tap = divide(t, a.channels);
          const int r = divide(tap, a.filter_w), s = tap - r * a.filter_w.value;
          const bool in = t < row && inside(top[i] + r, a.H) && inside(left[i] + s, a.W);
          const int distance = offset_of(a.x_strides, 0, r, s) + t - tap * a.C;
          return in ? from[i] + distance : kNowhere;
        });
        B::fetch(vb, w, whole, [&](int i, int j) {
          const int t = t0 + B::minor(i, j);
          return t < row ? from_w[i] + t : kNowhere;
        });
        t0 += T::kStep;
      },
      [&](int buffer) {
        A::store(va, panel_a + buffer * T::kPanelA);
        B::store(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        multiply<T, kStepsInner, kStepsInner>(acc, panel_a + buffer * T::kPanelA,
                                              panel_b + buffer * T::kPanelB);
      });

  const bool vector_y = is_vector(y, panel.y_strides);
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int m = m0 + row_of<T>(i), n = divide(m, a.map_pixels);
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
  using A = Panel<kStepsInner, T::kRows>;
  using B = Panel<kStepsOuter, T::kColumns>;
  int image[A::kQuads], p0[A::kQuads], q0[A::kQuads];
#pragma unroll
  for (int i = 0; i < A::kQuads; i++) {
    const int m = m0 + A::major(i);
    image[i] = divide(m, a.map_pixels);
    const int pixel = m - image[i] * a.map_pixels.value, row = divide(pixel, a.map_w);
    p0[i] = m < a.pixels ? row + first_p : -1;
    q0[i] = pixel - row * a.map_w.value + first_q;
  }

  float acc[T::kThreadRows][4];
  Quad<S> va[A::kQuads], mask[A::kQuads], vb[B::kQuads];
  start<T>(acc, nullptr, 0, 0);
  int source = 0, tap_r = 0, tap_s = 0, k0 = 0;  // fetch runs a step ahead
  const S *gy = nullptr, *y = nullptr, *w = nullptr;
  int K = 0, from_gy[A::kQuads], from_y[A::kQuads];  // where the tap's rows begin
  bool whole = false, whole_w = false;
  pipeline(
      steps,
      [&] {
        if (k0 == 0) {
          const ConvCudaPanel& panel = a.panels[source];
          gy = (const S*)panel.gy, y = (const S*)panel.y, w = (const S*)panel.w, K = panel.K;
          whole = K % 4 == 0 && is_vector(gy, panel.gy_strides) && is_vector(y, panel.y_strides);
          whole_w = a.C % 4 == 0 && is_vector(w, CudaStrides{});
#pragma unroll
          for (int i = 0; i < A::kQuads; i++) {
            const int p = p0[i] - tap_r, q = q0[i] - tap_s;
            const bool in = inside(p, a.P) && inside(q, a.Q);
            from_gy[i] = in ? offset_of(panel.gy_strides, image[i], p, q) : kNowhere;
            from_y[i] = in ? offset_of(panel.y_strides, image[i], p, q) : kNowhere;
          }
        }
        const auto channel = [&](int from, int j) {
          const int k = k0 + A::minor(0, j);
          return k < K ? from + k : kNowhere;
        };
        A::fetch(va, gy, whole, [&](int i, int j) { return channel(from_gy[i], j); });
        if (y) A::fetch(mask, y, whole, [&](int i, int j) { return channel(from_y[i], j); });
        const int tap = (first_r + tap_r * a.stride_h) * a.S + first_s + tap_s * a.stride_w;
        B::fetch(vb, w, whole_w, [&](int i, int j) {
          const int k = k0 + B::major(i), c = c0 + B::minor(i, j);
          return k < K && c < a.C ? (k * a.R * a.S + tap) * a.C + c : kNowhere;
        });
        k0 += T::kStep;
        if (k0 >= K) {
          k0 = 0;
          if (++tap_s == taps_s) tap_s = 0, tap_r++;
          if (tap_r == taps_r) tap_r = 0, source++;
        }
      },
      [&](int buffer) {
        A::store(va, mask, y != nullptr, panel_a + buffer * T::kPanelA);
        B::store(vb, panel_b + buffer * T::kPanelB);
      },
      [&](int buffer) {
        multiply<T, kStepsInner, kStepsOuter>(acc, panel_a + buffer * T::kPanelA,
                                              panel_b + buffer * T::kPanelB);
      });

  const bool vector_gx = is_vector(gx, a.gx_strides);
  const int c = c0 + lane_x<T>() * 4;
#pragma unroll
  for (int i = 0; i < T::kThreadRows; i++) {
    const int m = m0 + row_of<T>(i), n = divide(m, a.map_pixels);
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
