// Convolution on tensor cores, sm_80 and later, and what its gradients need:
//
//   conv_mma_*        y = relu(conv(x, w) + b)                   fprop, any filter, stride, padding
//                     gx (+)= conv^T(gy, w) [mask > 0]           dgrad: w flipped, x dilated
//   conv_wgrad_mma_*  gw = sum over pixels of gy^T x, gb = sum gy
//   mask_units        gy [y > 0]                                 the prologue of both gradients
//   flip_filters      out[c][R-1-r][S-1-s][k] = w[k][r][s][c]    the filters of dgrad, several in
//                     one launch, side by side where they are stacked
//   pad_maps          wide[n][h][w][c] = narrow[n][h][w - front][c]
//                     a first layer's few channels (of x and w) as whole units; gw the way back
//
// The chunks of wgrad are added by conv_sum_chunks of conv.cu.
//
// Layout: maps NHWC with unit channel stride, other strides and bases multiples of 16 bytes;
// filters KRSC, contiguous, read as they are. Stacked filters (1x1s that read the same x) go to up
// to four outputs, each a slice of its own buffer. Everything is `=` but y where accumulate is set.
// Storage bf16, fp16 or fp32 as tf32; sums, biases and filter gradients fp32.
//
// Sums: over (tap, channel) units in ascending order, two an mma, whatever the tile and the batch;
// no atomics. Filter gradients over the pixels of a chunk, then over chunks; the chunks are a
// function of shape and batch. Lost: the mask as a prologue in the kernel (copies past registers
// cannot be masked, and the masked map serves dgrad, wgrad and the bias); a kernel per tap in wgrad
// (C = 16 would fill an eighth of the tile: taps and channels are one axis instead).
#include "conv_mma.cuh"
#include "conv_wgrad_mma.cuh"

template <class E>
using Wide = MmaTile<E, 7, 2, 4>;
template <class E>
using Tall = MmaTile<E, 4, 4, 1>;
template <class E>
using Flat = MmaTile<E, 4, 1, 4>;

// ---- entries -----------------------------------------------------------------------------------
#define PYI_ENTRY(NAME, THREADS, BLOCKS, ARGS, BODY)            \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
      NAME(const __grid_constant__ ARGS a) {                    \
    await_launches_before();                                    \
    BODY;                                                       \
  }
PYI_ENTRY(conv_mma_tf32_wide, 256, 1, ConvMmaArgs, conv_mma<Wide<float>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_tf32_tall, 128, 2, ConvMmaArgs, conv_mma<Tall<float>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_tf32_flat, 128, 2, ConvMmaArgs, conv_mma<Flat<float>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_bf16_wide, 256, 1, ConvMmaArgs, conv_mma<Wide<bf16>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_bf16_tall, 128, 2, ConvMmaArgs, conv_mma<Tall<bf16>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_bf16_flat, 128, 3, ConvMmaArgs, conv_mma<Flat<bf16>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_fp16_wide, 256, 1, ConvMmaArgs, conv_mma<Wide<f16>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_fp16_tall, 128, 2, ConvMmaArgs, conv_mma<Tall<f16>>(a, blockIdx.x))
PYI_ENTRY(conv_mma_fp16_flat, 128, 3, ConvMmaArgs, conv_mma<Flat<f16>>(a, blockIdx.x))
PYI_ENTRY(conv_wgrad_mma_tf32, 128, 3, ConvWgradMmaArgs, conv_wgrad_mma<WgradTile<float>>(a))
PYI_ENTRY(conv_wgrad_mma_bf16, 128, 3, ConvWgradMmaArgs, conv_wgrad_mma<WgradTile<bf16>>(a))
PYI_ENTRY(conv_wgrad_mma_fp16, 128, 3, ConvWgradMmaArgs, conv_wgrad_mma<WgradTile<f16>>(a))

// ---- small kernels ------------------------------------------------------------------------------
// The words of a unit where the mask is positive.
template <class E>
__device__ __forceinline__ unsigned masked_word(unsigned value, unsigned mask) {
  if constexpr (sizeof(E) == 4) {
    return __uint_as_float(mask) > 0.f ? value : 0;
  } else {
    float lo, hi;
    unpack(mask, lo, hi, E{});
    return (lo > 0.f ? value & 0xffffu : 0) | (hi > 0.f ? value & 0xffff0000u : 0);
  }
}

template <class E>
__device__ __forceinline__ void mask_unit(const MaskMmaArgs& a, int i) {
  const E* __restrict__ gy = (const E*)a.gy;  // (N, P, Q, K)
  const E* __restrict__ y = (const E*)a.y;    // (N, P, Q, K)
  const int m = divide(i, a.channel_units), n = divide(m, a.map_pixels);
  const int pixel = m - n * a.map_pixels.value, p = divide(pixel, a.map_w);
  const int q = pixel - p * a.map_w.value;
  const int k = (i - m * a.channel_units.value) * (16 / sizeof(E));
  const uint4 v = *(const uint4*)(gy + offset_of(a.gy_strides, n, p, q) + k);
  const uint4 mask = *(const uint4*)(y + offset_of(a.y_strides, n, p, q) + k);
  store_global((E*)a.out + m * a.out_pitch + k,
               make_uint4(masked_word<E>(v.x, mask.x), masked_word<E>(v.y, mask.y),
                          masked_word<E>(v.z, mask.z), masked_word<E>(v.w, mask.w)));
}

extern "C" __global__ void __launch_bounds__(256, 4)
    mask_units(const __grid_constant__ MaskMmaArgs a) {
  await_launches_before();
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= a.count) return;
  if (a.type == kMmaTf32)
    mask_unit<float>(a, i);
  else if (a.type == kMmaBf16)
    mask_unit<bf16>(a, i);
  else
    mask_unit<f16>(a, i);
}

// A thread makes one unit, k .. of (c, tap), from as many filters: bits move, nothing is computed.
__device__ __forceinline__ void flip_unit(const FlipFilterMmaArgs& a, int i) {
  const int line = divide(i, a.channel_units), c = divide(line, a.taps);
  const int taps = a.taps.value, tap = taps - 1 - (line - c * taps);
  const int unit = a.type == kMmaTf32 ? 4 : 8, k = (i - line * a.channel_units.value) * unit;
  const int from = (k * taps + tap) * a.C + c, next = taps * a.C, to = line * a.out_pitch + k;
  unsigned v[4];
  if (a.type == kMmaTf32) {
    const unsigned* __restrict__ w = (const unsigned*)a.w;
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = w[from + j * next];
  } else {
    const unsigned short* __restrict__ w = (const unsigned short*)a.w;
#pragma unroll
    for (int j = 0; j < 4; j++)
      v[j] = w[from + 2 * j * next] | (unsigned)w[from + (2 * j + 1) * next] << 16;
  }
  const int bytes = a.type == kMmaTf32 ? 4 : 2;
  store_global((unsigned char*)a.out + (long long)to * bytes, make_uint4(v[0], v[1], v[2], v[3]));
}

// A plane of blocks a filter.
extern "C" __global__ void __launch_bounds__(256, 4)
    flip_filters(const __grid_constant__ FlipFiltersMmaArgs a) {
  await_launches_before();
  const int i = blockIdx.x * 256 + threadIdx.x;
  const FlipFilterMmaArgs& filter = a.filters[blockIdx.y];
  if (i < filter.count) flip_unit(filter, i);
}

// A unit of a padded map: four channels of a pixel, or of two pixels in 16 bits, or eight of one.
template <class Bits>
__device__ __forceinline__ void pad_unit(const PadMapMma& a, int i) {
  constexpr int kUnit = 16 / sizeof(Bits);
  const Bits* __restrict__ narrow = (const Bits*)a.narrow;  // (N, H, W, C)
  const int line = divide(i, a.line), n = divide(line, a.map_h), h = line - n * a.map_h.value;
  const int first = (i - line * a.line.value) * kUnit, shift = a.channels == 4 ? 2 : 3;
  const Bits* __restrict__ row = narrow + offset_of(a.strides, n, h, 0);
  unsigned v[4] = {0, 0, 0, 0};
#pragma unroll
  for (int j = 0; j < kUnit; j++) {
    const int w = ((first + j) >> shift) - a.front, c = (first + j) & (a.channels - 1);
    if (inside(w, a.W) && c < a.C)
      v[j * 4 / kUnit] |= (unsigned)row[w * a.strides.pixel + c] << (8 * sizeof(Bits) * j) % 32;
  }
  store_global((unsigned char*)a.wide + i * 16ll, make_uint4(v[0], v[1], v[2], v[3]));
}

extern "C" __global__ void __launch_bounds__(256, 4)
    pad_maps(const __grid_constant__ PadMapsMmaArgs a) {
  await_launches_before();
  const int i = blockIdx.x * 256 + threadIdx.x;
  const PadMapMma& map = a.maps[blockIdx.y];
  if (i >= map.count) return;
  if (a.crop) {
    const float* __restrict__ wide = (const float*)map.wide;
    const int line = divide(i, map.line), at = i - line * map.line.value;
    const int w = divide(at, map.channel), pixel = line * map.columns + w + map.front;
    ((float*)map.narrow)[i] = wide[pixel * map.channels + at - w * map.C];
  } else if (a.type == kMmaTf32) {
    pad_unit<unsigned>(map, i);
  } else {
    pad_unit<unsigned short>(map, i);
  }
}

// ---- for the launcher
// ----------------------------------------------------------------------------
#ifndef __CUDACC_RTC__
#include "conv_mma_plan.h"
#include "launcher.cuh"

static_assert(is_shape<Wide<bf16>, kMmaWide>() && is_shape<Tall<bf16>, kMmaTall>() &&
                  is_shape<Flat<bf16>, kMmaFlat>(),
              "kMmaShapes are the tiles");
static_assert(kWgradRows == WgradTile<bf16>::kRows && kWgradColumns == WgradTile<bf16>::kColumns &&
                  kWgradRing == WgradTile<bf16>::kRing && kWgradRing == WgradTile<float>::kRing,
              "the plan's tile is the kernels' tile");

PYI_ENTRY_TABLE(conv_mma, PYI_CONV_MMA_ENTRIES)
#endif
