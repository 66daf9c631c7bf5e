// The records of the tensor-core kernels, as cuda_args.h has those of the CUDA cores. Mirrored
// field by field in cuda_mma_args.py; a test holds every offset equal.
//
// `type` says what the maps and filters are stored as: bf16 or fp16, multiplied as they are, or
// fp32, multiplied as tf32; sums, biases and filter gradients are fp32. Maps are NHWC with unit
// channel stride, filters KRSC and contiguous. A unit is 16 bytes; every map, filter and channel
// count must be whole units, or the plan declines. What stands under "plan" is written by the plan.
#pragma once
#include "cuda_args.h"

// kMmaFp16Sm75: fp16 for the kernels of sm_75, forward only.
enum MmaType { kMmaTf32 = 0, kMmaBf16 = 1, kMmaFp16 = 2, kMmaFp16Sm75 = 3 };

// r = relu(x wr + br), rounded to the storage type, y = relu(conv(r, w) + b)
struct ReduceConvMmaArgs {
  const void* x;    // (N, H, W, C)
  const void* wr;   // (Cr, C)
  const float* br;  // (Cr) or null
  const void* w;    // (K, R, S, Cr)
  const float* b;   // (K) or null
  void* y;          // (N, P, Q, K), =
  void* r;          // (N, H, W, Cr), =, or null: kept on chip
  int N, H, W, C, Cr, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  CudaStrides x_strides, y_strides, r_strides;
  int type, shared_limit, multiprocessors;

  // plan
  int P, Q;
  int reduce_units, conv_units;                           // of a filter row: C, R S Cr
  int tile_images, tile_p, halo_h;                        // a block's images and rows of each
  int slice;                                              // its output channels
  int pixel_units, row_units, image_units, origin_units;  // the reduced tile in shared memory
  int reduced_units;                                      // all of it
  CudaDivisor slices, bands;                              // blocks: ((group, band), slice)
  CudaDivisor map_h, map_w, map_q, tile_rows;             // H, W, Q, tile_p
  CudaDivisor channel_units, filter_w;                    // Cr in units, S
};

// Columns first .. first + count - 1 of a convolution's K go here.
struct MmaOutput {
  void* y;  // (N, P, Q, count)
  CudaStrides strides;
  int first, count;
};

// y = relu(conv(x, w) + b), optionally y [mask > 0], y += ; x dilated by step for the gradient of a
// strided convolution. Stacked filters: the columns of w go to up to four outputs.
struct ConvMmaArgs {
  const void* x;     // (N, H, W, C)
  const void* w;     // (K, R, S, C)
  const float* b;    // (K) or null
  const void* mask;  // (N, P, Q, K) or null; with one output only
  MmaOutput outputs[4];
  int output_count;
  int N, H, W, C, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int step_h, step_w;  // pixels of x lie this far apart on the map that is convolved; 1 in fprop
  int P, Q;            // given: a strided convolution's gradient cannot tell them
  int relu, accumulate;
  CudaStrides x_strides, mask_strides;
  int type, shared_limit, multiprocessors;

  // plan
  int pixels, units;                    // N P Q; units of a filter row
  CudaDivisor map_pixels, map_w;        // P Q, Q
  CudaDivisor channel_units, filter_w;  // C in units, S
  CudaDivisor dilation_h, dilation_w;   // step_h, step_w
  CudaDivisor column_tiles;             // blocks: (rows, columns)
};

// y = the max pool of lrn(relu(conv(x, w) + b)), or with pool_first lrn of the max pool of it. Of
// `conv` outputs, mask, relu and accumulate are not read; of `tail` y, y_strides, the window, the
// constants and pool_first are: its x is the convolution's map, which exists on chip only.
struct ConvLrnPoolMmaArgs {
  ConvMmaArgs conv;
  LrnPoolCudaArgs tail;
  int always;  // even where two kernels are expected to end first

  // plan: tail's tile; its `groups` are units
  int pitch, staged_at;  // bytes in shared memory: of a pixel, before the first one
  int warp_pixels;       // whose units the lanes of a warp hold
};

// A GoogLeNet module in one grid. Blocks in this order: the 3x3 branch, the 5x5 branch, the 1x1 of
// x, the 1x1 of its 3x3 max pool (stride 1, padding 1).
struct InceptionMmaArgs {
  ReduceConvMmaArgs branches[2];
  ConvMmaArgs ones, projection;

  // plan
  int first[3];  // block of the second, third and fourth role
};

// gw = sum over the pixels of a chunk of gy^T x, x shifted by the tap; gb = sum of gy
struct ConvWgradMmaArgs {
  const void* gy;    // (N, P, Q, K), masked already
  const void* x;     // (N, H, W, C)
  float* gw;         // (chunks, K, R, S, C), =, chunk_stride apart
  float* gb;         // (chunks, K), =, chunk_stride apart, or null
  float* workspace;  // 16-byte aligned; chunks of both where there is more than one
  long long workspace_bytes;
  int N, H, W, C, K, R, S;
  int stride_h, stride_w, pad_h, pad_w, P, Q;
  CudaStrides gy_strides, x_strides;
  int type, shared_limit;

  // plan
  int pixels, chunk_pixels, chunk_stride, chunks, units;
  CudaDivisor map_pixels, map_w;        // P Q, Q
  CudaDivisor channel_units, filter_w;  // C in units, S
  CudaDivisor column_tiles;             // tiles along R S C
};

// out = gy [y > 0], pixels out_pitch elements apart
struct MaskMmaArgs {
  const void* gy;  // (N, P, Q, K)
  const void* y;   // (N, P, Q, K)
  void* out;       // (N, P, Q, K), =
  int N, P, Q, K, type;
  int out_pitch;  // elements from pixel to pixel: K or more; 0 is K
  CudaStrides gy_strides, y_strides;

  // plan
  int count;                                     // units
  CudaDivisor channel_units, map_pixels, map_w;  // K in units, P Q, Q
};

// out[c][R - 1 - r][S - 1 - s][k] = w[k][r][s][c]: the filter of dgrad
struct FlipFilterMmaArgs {
  const void* w;  // (K, R, S, C)
  void* out;      // (C, R, S, K), =
  int K, R, S, C, type;
  int out_pitch;  // elements from (c, r, s) to the next, K or more for filters side by side; 0 is K

  // plan
  int count;                        // units
  CudaDivisor channel_units, taps;  // K in units, R S
};

struct FlipFiltersMmaArgs {
  FlipFilterMmaArgs filters[6];
  int filter_count;
};

// wide[n][h][w][c] = narrow[n][h][w - front][c], zero where narrow has no such pixel or channel
struct PadMapMma {
  void* narrow;         // (N, H, W, C)
  void* wide;           // (N, H, columns, channels), contiguous; its lines are whole units
  CudaStrides strides;  // of narrow, unless it is written
  int N, H, W, C;
  int front, columns, channels;  // channels: 4 or 8

  // plan
  int count;                         // units of wide; cropped: elements of narrow
  CudaDivisor line, map_h, channel;  // units (elements) of a line; H; C
};

// Up to two maps in one launch, wide `=`; with crop the way back of fp32 ones, narrow `=` and
// contiguous: narrow[n][h][w][c] = wide[n][h][w + front][c].
struct PadMapsMmaArgs {
  PadMapMma maps[2];
  int map_count, type, crop;
};
