// The index arithmetic of the CUDA kernels that can be wrong, apart from the kernels: host and
// device, no CUDA header, so that a plain C++ program tests it.
//
// Two output tiles of reduce_conv, one axis (stride 1, filter 3, pad 1, tile 4):
//
//   reduced map  . 0 1 2 3 4 5 6 7 .      the dots are outside the map: ZERO, not relu(br)
//   halo         [---------]              halo_origin = 0 * 1 - 1, halo_extent = 3 * 1 + 3
//                        [---------]      halo_origin = 4 * 1 - 1
//   owned          [-----] [-----]        the one tile that stores the pixel of r; lead 1
//   outputs        0 1 2 3 4 5 6 7
#pragma once
#include "../cuda_args.h"

#ifdef __CUDACC__
#define PYI_BOTH __host__ __device__ __forceinline__
#else
#define PYI_BOTH inline
#endif

constexpr int kChannelStep = 16;  // the summed axis goes in steps of this many channels or pixels

PYI_BOTH int ceil_div(int n, int d) { return (n + d - 1) / d; }
PYI_BOTH int round_up(int n, int d) { return ceil_div(n, d) * d; }

// With L = ceil(log2 d) the multiplier is m = ceil(2^(31+L) / d) < 2^32. It is too large by less
// than 1, which adds less than n / 2^(31+L) < 1 / d to n / d: too little to reach the next integer.
PYI_BOTH CudaDivisor make_divisor(unsigned d) {
  unsigned shift = 0;
  while ((1ull << shift) < d) shift++;
  return {d, (unsigned)(((1ull << (31 + shift)) + d - 1) / d), shift};
}

PYI_BOTH int divide(int n, const CudaDivisor& d) {
#ifdef __CUDA_ARCH__
  return (int)(__umulhi((unsigned)n << 1, d.multiplier) >> d.shift);
#else
  return (int)(((unsigned long long)((unsigned)n << 1) * d.multiplier >> 32) >> d.shift);
#endif
}

// 0 <= i < extent in one comparison
PYI_BOTH bool inside(int i, int extent) { return (unsigned)i < (unsigned)extent; }

PYI_BOTH int offset_of(const CudaStrides& s, int image, int row, int pixel) {
  return image * s.image + row * s.row + pixel * s.pixel;
}

// P (Q): 0 where the filter is larger than the padded map
PYI_BOTH int output_extent(int extent, int filter, int stride, int pad) {
  const int span = extent + 2 * pad - filter;
  return span < 0 ? 0 : span / stride + 1;
}

// First row (column) of the reduced map that the tile of outputs starting at `first` reads
PYI_BOTH int halo_origin(int first, int stride, int pad) { return first * stride - pad; }

// Rows of the halo. max(): where the stride steps over pixels, the tile still owns them.
PYI_BOTH int halo_extent(int tile, int filter, int stride) {
  return (tile - 1) * stride + (filter > stride ? filter : stride);
}

// The tile owns the pixels at rows lead .. lead + tile * stride - 1 of its halo. They lie inside
// the halo, and follow on those of the tile before; the first tile has no map above its lead.
PYI_BOTH int owned_lead(int filter, int stride, int pad) {
  const int most = filter > stride ? filter - stride : 0;
  return pad < most ? pad : most;
}
PYI_BOTH bool owns(int i, int lead, int tile, int stride) {
  return inside(i - lead, tile * stride);
}

// Tiles along one axis. When r is stored they must own the whole map, also rows that no output
// reads (stride 2, no padding, an odd rest).
PYI_BOTH int tiles_along(int outputs, int extent, int tile, int filter, int stride, int pad,
                         bool store_r) {
  const int read = ceil_div(outputs, tile);
  const int owned = ceil_div(extent + pad - owned_lead(filter, stride, pad), tile * stride);
  return store_r && owned > read ? owned : read;
}

// The output row p with p * stride - pad + tap == h, or -1: where dgrad of row h finds its gy.
PYI_BOTH int gradient_source(int h, int tap, int pad, const CudaDivisor& stride, int outputs) {
  const int shifted = h + pad - tap;
  if (shifted < 0) return -1;
  const int p = divide(shifted, stride);
  return p * (int)stride.value == shifted && p < outputs ? p : -1;
}

// An index that stays below zero whatever offset within an array is added: nothing is read there.
constexpr int kNowhere = -0x7fffffff - 1;

// Floats from pixel to pixel of a tile kept in shared memory: whole steps, so that the tail is
// there to be zero, and 4 more, so that neighbouring pixels lie in different banks.
PYI_BOTH int resident_pitch(int channels) { return round_up(channels, kChannelStep) + 4; }

// Pixels of a wgrad chunk: enough chunks for about two blocks on each of 132 multiprocessors, at
// most 32 of them and none under 256 pixels. A function of shape and batch alone: the split is
// part of the sum's order, so it must not follow the machine.
PYI_BOTH int chunk_extent(int pixels, int blocks_per_chunk) {
  int chunks = ceil_div(264, blocks_per_chunk);
  if (chunks > 32) chunks = 32;
  int extent = round_up(ceil_div(pixels, chunks), kChannelStep);
  return extent < 256 ? 256 : extent;
}
