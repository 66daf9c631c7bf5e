// A fused branch of your own to start from: right, short, slow. docs/your_kernel.md walks through
// it.
//
//   r = relu(x wr^T + br)        1x1, (N, H, W, C) -> (N, H, W, Cr), kept on chip
//   y = relu(conv(r, w) + b)     RxS, (N, H, W, Cr) -> (N, P, Q, K)
//
// launch my_reduce_conv: threads=128 tile_p=4 tile_q=7 tile_k=32 reduced=0
//
// The line above is read by `pyinception bench reduce_conv --kernel`: blocks of 128 threads; a
// block makes 4 x 7 outputs of one image for a group of 32 output channels; its dynamic shared
// memory holds the reduced tile with its halo, Cr + 0 floats a pixel. The record is filled for
// these tiles.
#include "cuda/index.cuh"
#include "cuda/relu.cuh"

extern "C" __global__ void __launch_bounds__(128, 4)
    my_reduce_conv(const __grid_constant__ ReduceConvCudaArgs a) {
  const float* __restrict__ x = a.x;    // (N, H, W, C), pixels a.x_strides apart
  const float* __restrict__ wr = a.wr;  // (Cr, C)
  const float* __restrict__ br = a.br;  // (Cr) or null
  const float* __restrict__ w = a.w;    // (K, R, S, Cr)
  const float* __restrict__ b = a.b;    // (K) or null
  float* y = a.y;                       // (N, P, Q, K), a slice of a wider map
  extern __shared__ float reduced[];    // (halo_h, halo_w, Cr)

  // ---- which tile: the images' tiles in one line along grid.x
  const int n = divide(blockIdx.x, a.image_tiles);
  const int tile = blockIdx.x - n * a.image_tiles.value, row = divide(tile, a.tiles_q);
  const int p0 = row * a.tile_p, q0 = (tile - row * a.tiles_q.value) * a.tile_q.value;
  const int h0 = halo_origin(p0, a.stride_h, a.pad_h), w0 = halo_origin(q0, a.stride_w, a.pad_w);

  // ---- 1x1: neighbouring threads make neighbouring channels of one pixel
  for (int i = threadIdx.x; i < a.halo_h * (int)a.halo_w.value * a.Cr; i += blockDim.x) {
    const int pixel = i / a.Cr, cr = i - pixel * a.Cr, line = divide(pixel, a.halo_w);
    const int h = h0 + line, column = w0 + pixel - line * (int)a.halo_w.value;
    float sum = 0.f;  // outside the map the 3x3 sees zeros, not relu(br)
    if (inside(h, a.H) && inside(column, a.W)) {
      const float* from = x + offset_of(a.x_strides, n, h, column);
      for (int c = 0; c < a.C; c++) sum += from[c] * wr[cr * a.C + c];
      sum = relu(sum + (br ? br[cr] : 0.f));
    }
    reduced[i] = sum;
  }
  __syncthreads();  // all of the tile is there before anyone reads a neighbour's part

  // ---- RxS: neighbouring threads make neighbouring channels of one output
  const int group = ceil_div(a.K, gridDim.y), k0 = blockIdx.y * group;
  for (int i = threadIdx.x; i < a.tile_p * (int)a.tile_q.value * group; i += blockDim.x) {
    const int pixel = i / group, k = k0 + i - pixel * group, line = divide(pixel, a.tile_q);
    const int column = pixel - line * (int)a.tile_q.value, p = p0 + line, q = q0 + column;
    if (p >= a.P || q >= a.Q || k >= a.K) continue;  // tiles hang over the map's edge
    float sum = 0.f;
    for (int r = 0; r < a.R; r++)
      for (int s = 0; s < a.S; s++) {
        const int at = (line * a.stride_h + r) * a.halo_w.value + column * a.stride_w + s;
        const float* filter = w + ((k * a.R + r) * a.S + s) * a.Cr;
        for (int c = 0; c < a.Cr; c++) sum += reduced[at * a.Cr + c] * filter[c];
      }
    y[offset_of(a.y_strides, n, p, q) + k] = relu(sum + (b ? b[k] : 0.f));
  }
}
