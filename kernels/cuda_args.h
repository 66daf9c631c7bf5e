// The records the CUDA kernels take: one plain struct per kernel, pointers first. Mirrored field by
// field in cuda_args.py; a test holds every offset equal.
//
// Arrays are fp32. A map is NHWC with unit channel stride and free strides of image, row and pixel
// (in elements), so a slice of the channels of a wider buffer is an ordinary operand; filters are
// KRSC and contiguous. What stands under "plan" is written by the code that plans the launch
// (cuda/reduce_conv_plan.h), never by the caller.
#pragma once

// n / value = (2 n multiplier) >> (32 + shift) for 0 <= n < 2^31; see cuda/index.cuh.
struct CudaDivisor {
  unsigned value, multiplier, shift;
};

struct CudaStrides {
  int image, row, pixel;  // elements
};

// r = relu(x wr + br), y = relu(conv(r, w) + b), and its backward
struct ReduceConvCudaArgs {
  const float* x;    // (N, H, W, C)
  const float* wr;   // (Cr, C)
  const float* br;   // (Cr) or null
  const float* w;    // (K, R, S, Cr)
  const float* b;    // (K) or null
  float* y;          // (N, P, Q, K): out in fprop, the ReLU mask in backward
  float* r;          // (N, H, W, Cr): out in fprop, null keeps it on chip; operand in backward
  const float* gy;   // (N, P, Q, K)
  float* gx;         // (N, H, W, C), = or += by accumulate, or null
  float* gwr;        // (Cr, C), =, or null with gw null
  float* gbr;        // (Cr), =, or null
  float* gw;         // (K, R, S, Cr), =, or null with gwr null
  float* gb;         // (K), =, or null
  float* workspace;  // 16-byte aligned; backward only
  long long workspace_bytes;

  int N, H, W, C, Cr, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  CudaStrides x_strides, y_strides, r_strides, gy_strides, gx_strides;
  int accumulate;    // gx += instead of gx =
  int shared_limit;  // bytes of shared memory a block may have on this device

  // plan
  float* gr;  // (N, H, W, Cr), contiguous, in the workspace
  int P, Q;
  int tile_p, halo_h;                // rows of a tile: output, reduced map with its halo
  CudaDivisor tile_q, halo_w;        // columns of the same
  CudaDivisor image_tiles, tiles_q;  // tiles of an image, of a row of tiles
  CudaDivisor map_pixels, map_w;     // H W, W
  CudaDivisor step_h, step_w;        // stride_h, stride_w
  int tile_pixels;                   // dgrad: consecutive pixels of a block
};

// gw = sum over the pixels of a chunk of gy^T x, x shifted by the tap; gb = sum of gy
struct ConvWgradCudaArgs {
  const float* gy;  // (N, P, Q, K)
  const float* y;   // (N, P, Q, K), the ReLU mask, or null
  const float* x;   // (N, H, W, C)
  float* gw;        // (chunks, K, R, S, C), =, chunk_stride apart
  float* gb;        // (chunks, K), =, chunk_stride apart, or null
  int H, W, C, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int pixels, chunk_pixels, chunk_stride;
  CudaStrides gy_strides, y_strides, x_strides;
  CudaDivisor map_pixels, map_w;  // P Q, Q
  CudaDivisor column_tiles;       // tiles along C
  CudaDivisor filter_w;           // S
};

// gw, gb = partial[0] + partial[1] + ..., in this order
struct SumChunksCudaArgs {
  const float* partial;  // (chunks, count), chunk_stride apart
  float* gw;             // (filter_count)
  float* gb;             // (count - filter_count) or null
  int chunks, chunk_stride, filter_count, count;
};
