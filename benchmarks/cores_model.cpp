// What the plans of the CUDA cores expect of the 18 branches in fp32: one launch of the fused
// kernel against two of conv, a table of predictions, no measurement.
//
//   c++ -std=c++17 -Ikernels/cuda benchmarks/cores_model.cpp -o cores_model && ./cores_model [batch
//   ...]
//
// Clocks are those by which the plans choose their tiles (tile_clocks, 132 multiprocessors), at
// 1.755 GHz; a kernel after another waits as long as the plans of the tensor cores reckon.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "mma_plan.h"
#include "reduce_conv_plan.h"

constexpr double kClocks = 1.755e3;  // a microsecond
struct Branch {
  int extent, C, Cr, K, filter;
};
constexpr Branch kBranches[] = {
    {28, 192, 96, 128, 3},  {28, 192, 16, 32, 5},  {28, 256, 128, 192, 3}, {28, 256, 32, 96, 5},
    {14, 480, 96, 208, 3},  {14, 480, 16, 48, 5},  {14, 512, 112, 224, 3}, {14, 512, 24, 64, 5},
    {14, 512, 128, 256, 3}, {14, 512, 24, 64, 5},  {14, 512, 144, 288, 3}, {14, 512, 32, 64, 5},
    {14, 528, 160, 320, 3}, {14, 528, 32, 128, 5}, {7, 832, 160, 320, 3},  {7, 832, 32, 128, 5},
    {7, 832, 192, 384, 3},  {7, 832, 48, 128, 5},
};

static CudaStrides dense(int extent, int channels) {
  return {extent * extent * channels, extent * channels, channels};
}

static double one_launch(const Branch& b, int N) {
  ReduceConvCudaArgs a{};
  a.N = N, a.H = a.W = b.extent, a.C = b.C, a.Cr = b.Cr, a.K = b.K, a.R = a.S = b.filter;
  a.stride_h = a.stride_w = 1, a.pad_h = a.pad_w = b.filter / 2, a.shared_limit = 227 * 1024;
  a.x = a.wr = a.w = a.y = (float*)16;  // nobody follows them
  a.x_strides = dense(b.extent, b.C), a.y_strides = dense(b.extent, b.K);
  ReduceConvPlan plan;
  if (plan_reduce_conv_fprop(a, plan)) exit(1);
  const CudaLaunch& l = plan.launches[0];
  const ReduceConvCudaArgs& p = plan.args;
  const int columns = l.entry == kReduceConvEntries[kFpropWide] ? 64 : 32;
  const int halo = p.halo_h * p.halo_w.value, tile = p.tile_p * p.tile_q.value;
  const double reduce =
      (double)ceil_div(halo, kTileRows) * ceil_div(b.Cr, columns) * ceil_div(b.C, kChannelStep);
  const double conv = (double)ceil_div(tile, kTileRows) * (p.slice / columns) * b.filter *
                      b.filter * ceil_div(b.Cr, kChannelStep);
  return kBoundaryClocks + tile_clocks((double)l.grid_x * l.grid_y, reduce + conv, columns);
}

static double conv_launch(const Branch& b, int N, int C, int K, int filter) {
  ConvCudaArgs a{};
  a.N = N, a.H = a.W = b.extent, a.C = C, a.R = a.S = filter, a.panel_count = 1;
  a.stride_h = a.stride_w = 1, a.pad_h = a.pad_w = filter / 2;
  a.x = (void*)16, a.panels[0].w = a.x, a.panels[0].y = (void*)16, a.panels[0].K = K;
  a.x_strides = dense(b.extent, C), a.panels[0].y_strides = dense(b.extent, K);
  ConvPlan plan;
  if (plan_conv_fprop(a, plan)) exit(1);
  const CudaLaunch& l = plan.launches[0];
  const int columns = l.entry == kConvEntries[kConvFpropWide] ? 64 : 32;
  const double steps = ceil_div(filter * filter * C, kChannelStep);
  return kBoundaryClocks + tile_clocks((double)l.grid_x * l.grid_y, steps, columns);
}

static void row(int N) {
  double one = 0, two = 0;
  for (const Branch& b : kBranches) {
    one += one_launch(b, N) / kClocks;
    two += (conv_launch(b, N, b.C, b.Cr, 1) + conv_launch(b, N, b.Cr, b.K, b.filter)) / kClocks;
  }
  printf("| %d | %.0f | %.0f |\n", N, one, two);
}

int main(int argc, char** argv) {
  printf("| batch | one launch, us | two launches of conv, us |\n| ---: | ---: | ---: |\n");
  for (int i = 1; i < argc; i++) row(atoi(argv[i]));
  if (argc == 1)
    for (int N : {1, 8, 32, 128}) row(N);
}
