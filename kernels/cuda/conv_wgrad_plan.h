// The launches of one filter gradient, for every plan that has one, and what the register tile of
// tile.cuh means to a plan. Plain C++, no CUDA header.
#pragma once
#include "launch.h"

constexpr int kBlockThreads = 128, kTileRows = 64;
constexpr int kPanelFloats = 2 * kTileRows * (kChannelStep + 4);  // A in both buffers, without B

inline int panel_bytes(int columns) {
  return 4 * (kPanelFloats + 2 * columns * (kChannelStep + 4));
}

// Clocks of a launch by its steps alone, on an H100-class device: blocks of a multiprocessor take
// turns at its issue slots, one alone waits for itself. A choice of tile needs no more than the
// proportion, and so the instructions of a step (sm_90a, benchmarks/cuda_sass.py). Not measured.
constexpr int kPlannedMultiprocessors = 132;
constexpr double kAloneTurns = 1.4;  // of four warps
constexpr int kWideStep = 670, kNarrowStep = 390;
inline double tile_clocks(double blocks, double steps, int columns) {
  const double turns =
      (double)(long long)((blocks + kPlannedMultiprocessors - 1) / kPlannedMultiprocessors);
  return (turns > kAloneTurns ? turns : kAloneTurns) * steps *
         (columns == 64 ? kWideStep : kNarrowStep);
}

// Of padded multiply-adds, where the tile does not decide how many blocks there are.
inline bool prefer_narrow(double wide, double narrow) {
  return narrow / 32 * kNarrowStep < wide / 64 * kWideStep;
}

// Where a plan keeps the wgrad: two launches at most, and their records.
struct WgradSlot {
  ConvWgradCudaArgs& args;
  SumChunksCudaArgs& sum;
  CudaLaunch* launches;
  int& count;
  const char *wide, *narrow, *sum_chunks;  // the plan's entries
};

// One wgrad and, where the pixels are split, the sum of its chunks. Fields of the record that the
// split does not decide are set by the caller; gw and gb are where the result goes.
inline CudaStatus plan_wgrad(const WgradSlot& slot, int N, int P, int Q, float* gw, float* gb,
                             CudaArena& arena) {
  ConvWgradCudaArgs& g = slot.args;
  const long long row = (long long)g.R * g.S * g.C;  // elements of one output channel's filter
  if (!fits(g.K, row) || row > kMaxElements || !fits((long long)N * P, Q)) return kCudaTooLarge;
  const long long filter_count = g.K * row, count = filter_count + g.K;
  const long long chunk_stride = (count + 3) / 4 * 4;  // chunks begin on 16 bytes
  const int rows = ceil_div(g.K, kTileRows);
  const bool is_narrow = prefer_narrow(round_up((int)row, 64), round_up((int)row, 32));
  const int columns = is_narrow ? 32 : 64, column_tiles = ceil_div((int)row, columns);
  if (!fits(rows, column_tiles) || count > kMaxElements) return kCudaTooLarge;
  g.pixels = N * P * Q;
  g.chunk_pixels = chunk_extent(g.pixels, rows * column_tiles);
  const int chunks = g.pixels > g.chunk_pixels ? ceil_div(g.pixels, g.chunk_pixels) : 1;
  if (!fits(chunk_stride, chunks)) return kCudaTooLarge;
  g.map_pixels = make_divisor(P * Q), g.map_w = make_divisor(Q);
  g.column_tiles = make_divisor(column_tiles);
  g.channels = make_divisor(g.C), g.filter_w = make_divisor(g.S);
  g.chunk_stride = (int)chunk_stride, g.gw = gw, g.gb = gb;
  if (chunks > 1) {
    float* partial = arena.take(chunks * chunk_stride);
    g.gw = partial, g.gb = partial ? partial + filter_count : nullptr;
    slot.sum = {partial, gw, gb, chunks, (int)chunk_stride, (int)filter_count, (int)count};
  }
  slot.launches[slot.count++] = {is_narrow ? slot.narrow : slot.wide,
                                 (unsigned)(rows * column_tiles),
                                 1,
                                 (unsigned)chunks,
                                 kBlockThreads,
                                 (unsigned)panel_bytes(columns),
                                 &g,
                                 sizeof(g)};
  if (chunks > 1)
    slot.launches[slot.count++] = {
        slot.sum_chunks, (unsigned)ceil_div((int)count, 256), 1, 1, 256, 0, &slot.sum,
        sizeof(slot.sum)};
  return kCudaOk;
}
