// The records the CUDA kernels take: one plain struct per kernel, pointers first. Mirrored field by
// field in cuda_args.py; a test holds every offset equal.
//
// A map is NHWC with unit channel stride and free strides of image, row and pixel (in elements), so
// a slice of the channels of a wider buffer is an ordinary operand; filters are KRSC and
// contiguous. Arrays are fp32; those declared void are of the record's `storage`: 0 fp32, 1 bf16, 2
// fp16. What stands under "plan" is written by the code that plans the launch (cuda/*_plan.h),
// never by the caller.
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
  int slice;                         // fprop: output channels of a block
  int tile_pixels;                   // dgrad: consecutive pixels of a block
};

// gw = sum over the pixels of a chunk of gy^T x, x shifted by the tap; gb = sum of gy
struct ConvWgradCudaArgs {
  const void* gy;  // (N, P, Q, K)
  const void* y;   // (N, P, Q, K), the ReLU mask, or null
  const void* x;   // (N, H, W, C)
  float* gw;       // (chunks, K, R, S, C), =, chunk_stride apart
  float* gb;       // (chunks, K), =, chunk_stride apart, or null
  int H, W, C, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int pixels, chunk_pixels, chunk_stride;
  CudaStrides gy_strides, y_strides, x_strides;
  CudaDivisor map_pixels, map_w;   // P Q, Q
  CudaDivisor column_tiles;        // tiles along R S C
  CudaDivisor channels, filter_w;  // C, S
};

// gw, gb = partial[0] + partial[1] + ..., in this order
struct SumChunksCudaArgs {
  const float* partial;  // (chunks, count), chunk_stride apart
  float* gw;             // (filter_count)
  float* gb;             // (count - filter_count) or null
  int chunks, chunk_stride, filter_count, count;
};

// ---- convolution -------------------------------------------------------------------------------
// One filter with its output. Convolutions that read the same x (1x1 siblings) share a launch.
struct ConvCudaPanel {
  const void* w;   // (K, R, S, C)
  const float* b;  // (K) or null; fprop
  void* y;         // (N, P, Q, K): = in fprop; in backward the ReLU mask, or null
  const void* gy;  // (N, P, Q, K); backward
  CudaStrides y_strides, gy_strides;
  int K, relu;     // relu: fprop applies it; backward masks where y is given
  int first_tile;  // plan: fprop, the first tile of columns that is this panel's
};

// fprop   y_i = relu(conv(x, w_i) + b_i) for every panel
// dgrad   gx = or += the sum over the panels of conv^T(gy_i [y_i > 0], w_i)
// wgrad   gw = (gy [y > 0])^T x, gb = sum gy [y > 0], of the first panel
struct ConvCudaArgs {
  const void* x;     // (N, H, W, C); fprop, wgrad
  void* gx;          // (N, H, W, C), = or += by accumulate; dgrad
  float* gw;         // (K, R, S, C), =; wgrad
  float* gb;         // (K), =, or null; wgrad
  float* workspace;  // 16-byte aligned; wgrad
  long long workspace_bytes;
  ConvCudaPanel panels[4];
  int panel_count, storage;
  int N, H, W, C, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  CudaStrides x_strides, gx_strides;
  int accumulate;

  // plan
  int P, Q;
  int pixels;                      // a launch's rows: N P Q, or N pixels of a dgrad phase
  CudaDivisor map_pixels, map_w;   // of one image of these, and of one of its rows
  CudaDivisor channels, filter_w;  // C, S
  CudaDivisor step_h, step_w;      // stride_h, stride_w
};

// ---- a module ----------------------------------------------------------------------------------
// y = [relu(x w0) | relu(r3 w2) | relu(r5 w4) | relu(pooled w5)], r3 = relu(x w1), r5 = relu(x w3),
// pooled = max of 3x3 of x (stride 1, padding 1); biases b0 .. b5; and its backward.
struct InceptionCudaArgs {
  const void* x;          // (N, H, W, C)
  void* y;                // (N, H, W, K0 + K2 + K4 + K5): = in fprop, the ReLU masks in backward
  void* r3;               // (N, H, W, K1) } = in fprop, all four or none; read in backward
  void* r5;               // (N, H, W, K3) }
  void* pooled;           // (N, H, W, C)  }
  unsigned char* argmax;  // (N, H, W, C)  }, contiguous
  const void* gy;         // as y; backward
  void* gx;               // (N, H, W, C), =, or null; backward
  const void* w[6];       // (K0, C), (K1, C), (K2, 3, 3, K1), (K3, C), (K4, R, R, K3), (K5, C)
  const float* b[6];      // (K_i), or null; fprop
  float* gw[6];           // as w, =, or null; backward
  float* gb[6];           // (K_i), =, or null; only beside its gw
  float* workspace;       // 16-byte aligned
  long long workspace_bytes;
  int N, H, W, C;
  int K[6];
  int filter;                         // R of the third branch: 5 or 3
  int storage;                        // 0 fp32, 1 bf16, 2 fp16
  int tensor_cores;                   // fp32 is multiplied as tf32 there
  int shared_limit, multiprocessors;  // of the device; read on tensor cores
  CudaStrides x_strides, y_strides, r3_strides, r5_strides, pooled_strides, gy_strides, gx_strides;
};

// ---- pooling -----------------------------------------------------------------------------------
// Windows clipped to the image; P and Q by the floor rule, or Caffe's ceil rule in ceil_mode.
struct PoolCudaArgs {
  const void* x;          // (N, H, W, C); fprop
  void* y;                // (N, P, Q, C), =; fprop
  unsigned char* argmax;  // (N, P, Q, C), contiguous: max only, = in fprop (or null), read in dgrad
  const void* gy;         // (N, P, Q, C); dgrad
  void* gx;               // (N, H, W, C), = or += by accumulate; dgrad
  int average;            // the mean instead of the maximum
  int storage, N, H, W, C, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int ceil_mode, count_include_pad, accumulate;
  CudaStrides x_strides, y_strides, gy_strides, gx_strides;

  // plan
  int P, Q;
  int count;                         // threads: groups of four channels of all pixels of the result
  CudaDivisor groups, map_w, map_h;  // groups of a pixel; columns and rows of the result
  CudaDivisor step_h, step_w;        // stride_h, stride_w
};

// y[k] = relu(b[k] + conv(x[k / M], w[k])), M = K / C, and its gradients
struct DepthwiseCudaArgs {
  const void* x;     // (N, H, W, C); fprop, wgrad
  const void* w;     // (K, R, S); fprop, dgrad
  const float* b;    // (K) or null; fprop
  void* y;           // (N, P, Q, K): = in fprop; in backward the ReLU mask, or null
  const void* gy;    // (N, P, Q, K); backward
  void* gx;          // (N, H, W, C), = or += by accumulate; dgrad
  float* gw;         // (K, R, S), =; wgrad
  float* gb;         // (K), =, or null; wgrad
  float* workspace;  // 16-byte aligned; wgrad
  long long workspace_bytes;
  CudaStrides x_strides, y_strides, gy_strides, gx_strides;
  int storage, N, H, W, C, K, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int relu, accumulate;

  // plan
  float* partial;  // (chunks, R S + 1, K) in the workspace
  int P, Q, pixels, block_pixels, chunks;
  int lanes;                                 // pixels of a block at a time
  CudaDivisor multiplier, slab;              // K / C; groups of four channels of a block
  CudaDivisor taps, filter_w, channels;      // R S; S; K
  CudaDivisor map_w, map_h, step_h, step_w;  // columns, rows of the result; stride_h, stride_w
};

// ---- the other layers --------------------------------------------------------------------------
// y_c = x_c s_c^-beta, s_c = k + (alpha / size) sum of x_c'^2, |c' - c| <= size / 2
struct LrnCudaArgs {
  const void* x;   // (N, H, W, C)
  void* y;         // (N, H, W, C), =; fprop
  const void* gy;  // (N, H, W, C); dgrad
  void* gx;        // (N, H, W, C), =; dgrad
  CudaStrides x_strides, y_strides, gy_strides, gx_strides;
  int storage, N, H, W, C, size;
  float alpha, beta, k;

  // plan
  float scale, slope;                // alpha / size, 2 alpha beta / size
  int reach, pixels;                 // channels to either side that matter; N H W
  int tile_pixels, tile_channels;    // dgrad: of a block
  CudaDivisor tile, x_row, t_row;    // tile_channels; staged channels of x, and of the summed term
  CudaDivisor groups, map_w, map_h;  // fprop: groups of four channels; columns and rows
};

// y = the max pool of lrn(x), or with pool_first lrn of the max pool of x; windows and P, Q as in
// PoolCudaArgs, lrn as in LrnCudaArgs
struct LrnPoolCudaArgs {
  const void* x;  // (N, H, W, C)
  void* y;        // (N, P, Q, C), =
  CudaStrides x_strides, y_strides;
  int storage, N, H, W, C, R, S;
  int stride_h, stride_w, pad_h, pad_w;
  int ceil_mode, pool_first, size;
  float alpha, beta, k;

  // plan
  float scale;                       // alpha / size
  int P, Q, reach, margin;           // channels to either side that matter; whole fours of them
  int tile_p, halo_h;                // rows of a tile: outputs, pixels of their windows
  CudaDivisor tile_q, halo_w;        // columns of the same
  CudaDivisor image_tiles, tiles_q;  // tiles of an image, of a row of tiles
  CudaDivisor groups, margins;       // groups of four channels; 2 margin
};

// loss_n = log sum_k e^(l_nk) - l_n,label; glogits = g (probs - onehot)
struct SoftmaxCudaArgs {
  const void* logits;       // (N, K), rows logits_row apart; fprop
  void* glogits;            // (N, K), rows logits_row apart, =; backward
  const long long* labels;  // (N); one outside [0, K) gives a NaN loss and a zero gradient
  float* loss;              // (N), =; fprop
  float* probs;             // (N, K), = in fprop, read in backward
  const float* g;           // (N), the gradient of each loss; backward
  int storage, N, K, logits_row;
};

// y = relu(gamma (x - mean) / sqrt(var + eps) + beta), mean and var of the batch, and its backward
struct BatchNormCudaArgs {
  const void* x;       // (N, H, W, C)
  void* y;             // (N, H, W, C): = in fprop; in backward the ReLU mask, or null
  const void* gy;      // (N, H, W, C); backward
  void* gx;            // (N, H, W, C), =; backward
  const float* gamma;  // (C)
  const float* beta;   // (C); fprop
  float* mean;         // (C): = in training's fprop, else read
  float* var;          // (C), biased: = in training's fprop, else read
  float* ggamma;       // (C), =; backward
  float* gbeta;        // (C), =; backward
  float* workspace;    // 16-byte aligned
  long long workspace_bytes;
  CudaStrides x_strides, y_strides, gy_strides, gx_strides;
  int storage, N, H, W, C, relu;
  float eps;

  // plan
  int mode;        // what is summed: x, (x - mean)^2, or gy and gy h
  float* partial;  // (chunks, 2, C) in the workspace
  int pixels, chunk_pixels, chunks, count;
  CudaDivisor groups, map_w, map_h;  // groups of four channels; columns and rows
};

// y = x / divisor where word e % 4 of philox((e / 4, first_sample + n, step, layer), seed) is at
// least threshold, else +0; e counts a sample's elements in (H, W, C) order. Backward: x is gy.
struct DropoutCudaArgs {
  const void* x;        // (N, H, W, C)
  void* y;              // (N, H, W, C), =
  long long threshold;  // round(p 2^32)
  CudaStrides x_strides, y_strides;
  unsigned seed_low, seed_high, step, layer, first_sample;
  float divisor;  // 1 - p
  int storage, N, H, W, C;

  // plan
  int elements, count;                  // of a sample; blocks of four of all samples
  CudaDivisor blocks, channels, map_w;  // blocks of a sample; C; W
};

// y = relu(a + scale b), without b relu(a); backward: a = gy where y > 0, b = scale a
struct AddScaledCudaArgs {
  void* a;         // (N, H, W, C); backward: the gradient of a, =, or null
  void* b;         // (N, H, W, C) or null; backward: the gradient of b, =, or null
  void* y;         // (N, H, W, C): = in fprop; in backward the ReLU mask, or null
  const void* gy;  // (N, H, W, C); backward
  CudaStrides a_strides, b_strides, y_strides, gy_strides;
  int storage, N, H, W, C, relu;
  float scale;

  // plan
  int backward, count;               // threads: groups of four channels of all pixels
  CudaDivisor groups, map_w, map_h;  // groups of a pixel; columns and rows
};

// y = x in another storage, both contiguous
struct CastCudaArgs {
  const void* x;  // (count), of storage `from`
  void* y;        // (count), of storage `to`, =
  int from, to, count;
};

// verdict = 1 if any element is infinite or NaN, else 0
struct FiniteCudaArgs {
  const void* x;     // (count)
  float* verdict;    // (1), =
  float* workspace;  // 16-byte aligned
  long long workspace_bytes;
  int storage, count;

  // plan
  int last;  // the launch that gives the verdict
};

// v = momentum v + rate (scale g + decay w), w = w - v, copy = w; nothing where *skip is not 0
struct SgdCudaArgs {
  float* w;           // (count), =
  float* v;           // (count), =
  const float* g;     // (count)
  void* copy;         // (count), of the record's storage, =, or null
  const float* skip;  // (1), a verdict, or null
  float rate, momentum, decay, scale;
  int storage, count;
};

// (N, C, H, W), contiguous, to (N, H, W, C + padding), or back where to_nchw is set; the padding is
// zero: a first layer of three channels becomes one of whole units for the tensor cores
struct LayoutCudaArgs {
  const void* x;
  void* y;              // =
  CudaStrides strides;  // of the NHWC side
  int storage, N, H, W, C, to_nchw, padding;

  // plan
  int pixels;                // H W
  CudaDivisor tiles, map_w;  // tiles of 32 pixels of an image; W
};
