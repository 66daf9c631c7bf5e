// What the plans of the fused kernel expect of a device: a table of predictions, no measurement.
//
//   c++ -std=c++17 -Ikernels/cuda benchmarks/mma_model.cpp -o mma_model && ./mma_model [batch ...]
//
// A device of 132 multiprocessors at 1.83 GHz with 227 KB of shared memory and 4.3 TB/s, bf16. The
// time of a branch is that of its busiest multiprocessor by the plan's model, or of its bytes from
// device memory where that is longer.
#include <cstdio>
#include <cstdlib>

#include "reduce_conv_mma_plan.h"

constexpr double kClocks = 1.83e3, kBytes = 4.3e6;  // a microsecond
struct Branch {
  const char* name;
  int extent, C, Cr, K, filter;
};
constexpr Branch kBranches[] = {
    {"3a 3x3", 28, 192, 96, 128, 3},  {"3a 5x5", 28, 192, 16, 32, 5},
    {"3b 3x3", 28, 256, 128, 192, 3}, {"3b 5x5", 28, 256, 32, 96, 5},
    {"4a 3x3", 14, 480, 96, 208, 3},  {"4a 5x5", 14, 480, 16, 48, 5},
    {"4b 3x3", 14, 512, 112, 224, 3}, {"4b 5x5", 14, 512, 24, 64, 5},
    {"4c 3x3", 14, 512, 128, 256, 3}, {"4c 5x5", 14, 512, 24, 64, 5},
    {"4d 3x3", 14, 512, 144, 288, 3}, {"4d 5x5", 14, 512, 32, 64, 5},
    {"4e 3x3", 14, 528, 160, 320, 3}, {"4e 5x5", 14, 528, 32, 128, 5},
    {"5a 3x3", 7, 832, 160, 320, 3},  {"5a 5x5", 7, 832, 32, 128, 5},
    {"5b 3x3", 7, 832, 192, 384, 3},  {"5b 5x5", 7, 832, 48, 128, 5},
};

static double row(const Branch& b, int N) {
  ReduceConvMmaArgs a{};
  a.N = N, a.H = a.W = b.extent, a.C = b.C, a.Cr = b.Cr, a.K = b.K, a.R = a.S = b.filter;
  a.stride_h = a.stride_w = 1, a.pad_h = a.pad_w = b.filter / 2;
  a.x = a.wr = a.w = (const void*)16, a.y = (void*)16;
  a.x_strides = {b.extent * b.extent * b.C, b.extent * b.C, b.C};
  a.y_strides = {b.extent * b.extent * b.K, b.extent * b.K, b.K};
  a.type = kMmaBf16, a.shared_limit = 227 * 1024, a.multiprocessors = 132;
  ReduceConvMmaPlan plan;
  if (const CudaStatus status = plan_reduce_conv_mma(a, plan)) {
    std::fprintf(stderr, "%s: %s\n", b.name, status.text);
    std::exit(1);
  }
  const CudaLaunch& l = plan.launches[0];
  int shape = 0;  // the entry's, in the order of the tiles
  while (kReduceConvMmaEntries[kMmaBf16 * kMmaShapeCount + shape] != l.entry) shape++;
  const MmaCost cost = reduce_conv_mma_cost(plan.args, kMmaShapes[shape], 8);
  const double pixels = (double)N * b.extent * b.extent;
  const double useful = pixels * b.Cr * (b.C + b.filter * b.filter * b.K);
  const double bytes = 2 * (pixels * (b.C + b.K) + b.Cr * (b.C + b.filter * b.filter * b.K));
  const double time =
      plan.clocks / kClocks > bytes / kBytes ? plan.clocks / kClocks : bytes / kBytes;
  const char* const bound = bytes / kBytes >= plan.clocks / kClocks    ? "memory"
                            : cost.clocks() <= cost.mma / kMmaPerClock ? "mma"
                            : cost.clocks() <= cost.wavefronts         ? "shared"
                                                                       : "L2";
  static const char* const kTiles[] = {"wide", "tall", "flat"};
  std::printf("| %s | %d | %s %dx%dx%d | %u | %u | %.2f | %.2f | %.2f | %s | %.1f |\n", b.name, N,
              kTiles[shape], plan.args.tile_images, plan.args.tile_p, plan.args.slice, l.grid_x,
              l.shared_bytes / 1024, useful / (cost.mma * l.grid_x),
              cost.wavefronts / (cost.mma / kMmaPerClock), bytes / 1e6, bound, time);
  return time;
}

int main(int count, char** values) {
  std::printf(
      "| branch | batch | tile, images x rows x channels | blocks | KB | useful mma | wavefronts a "
      "clock of mma | MB | bound | us, predicted |\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (int i = 1; i < count; i++) {
    double total = 0;
    for (const Branch& b : kBranches) total += row(b, std::atoi(values[i]));
    std::printf("| all | %s | | | | | | | | %.1f |\n", values[i], total);
  }
}
