// What a whole module should take, forward and backward, on either rung: predictions, no
// measurement.
//
//   c++ -std=c++17 -Ikernels/cuda benchmarks/module_model.cpp -o module_model && ./module_model 256
//
// A launch takes what its busiest multiprocessor computes, or its bytes from device memory, each
// array once, where that is longer, and 1.3 us for the boundary of a kernel in a CUDA graph. On
// tensor cores the compute is the plan's own model (mma_plan.h: multiply-adds, wavefronts of shared
// memory, bytes from L2 at the rates of an H100); on CUDA cores padded multiply-adds at 80 % of the
// device's rate. Bytes of filters and of partial sums count.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "inception_plan.h"

struct Device {
  const char* name;
  int multiprocessors, shared_kb;
  double clocks, bytes;  // a microsecond
  double fma;            // fp32, a clock and multiprocessor
  bool tensor_cores;     // modelled
};
// Data sheets; the H100's memory is that measured on an H200.
constexpr Device kDevices[] = {{"H100", 132, 227, 1830, 4.3e6, 128, true},
                               {"A100", 108, 163, 1410, 1.9e6, 64, false},
                               {"T4", 40, 64, 1590, 0.32e6, 64, false}};
constexpr double kBoundary = 1.3, kCoresEfficiency = .8;

struct Module {
  const char* name;
  int extent, C, K[6];
};
constexpr Module kModules[] = {
    {"3a", 28, 192, {64, 96, 128, 16, 32, 32}},     {"3b", 28, 256, {128, 128, 192, 32, 96, 64}},
    {"4a", 14, 480, {192, 96, 208, 16, 48, 64}},    {"4b", 14, 512, {160, 112, 224, 24, 64, 64}},
    {"4c", 14, 512, {128, 128, 256, 24, 64, 64}},   {"4d", 14, 512, {112, 144, 288, 32, 64, 64}},
    {"4e", 14, 528, {256, 160, 320, 32, 128, 128}}, {"5a", 7, 832, {256, 160, 320, 32, 128, 128}},
    {"5b", 7, 832, {384, 192, 384, 48, 128, 128}}};

struct Cost {
  double clocks, bytes;  // of the busiest multiprocessor; of device memory
};

static bool begins(const char* text, const char* with) {
  return std::strncmp(text, with, std::strlen(with)) == 0;
}

// Tiles of `rows` x `columns` over a summed axis of `depth`, as many blocks as the grid has.
static double gemm_clocks(const CudaLaunch& l, const Device& d, double tile, double depth,
                          double rate) {
  const double blocks = (double)l.grid_x * l.grid_y * l.grid_z;
  const double most = (double)(((long long)blocks + d.multiprocessors - 1) / d.multiprocessors);
  return most * tile * depth / rate;
}

static Cost cost_of(const CudaLaunch& l, const Device& d, int bytes) {
  const bool narrow = std::strstr(l.entry, "_narrow") != nullptr;
  const double tile = 64. * (narrow ? 32 : 64), rate = d.fma * kCoresEfficiency;
  if (begins(l.entry, "conv_fprop") || begins(l.entry, "conv_dgrad")) {
    const ConvCudaArgs& a = *(const ConvCudaArgs*)l.params;
    const bool fprop = begins(l.entry, "conv_fprop");
    const double pixels = (double)a.N * a.H * a.W;
    double K = 0;
    for (int i = 0; i < a.panel_count; i++) K += a.panels[i].K;
    const double depth = a.R * a.S * (fprop ? a.C : K);
    const double maps = fprop ? a.C + K : (a.accumulate ? 2 : 1) * a.C + 2 * K;  // gy and its mask
    return {gemm_clocks(l, d, tile, depth, rate), bytes * (pixels * maps + a.R * a.S * K * a.C)};
  }
  if (begins(l.entry, "conv_wgrad_mma")) {
    const ConvWgradMmaArgs& a = *(const ConvWgradMmaArgs*)l.params;
    const double rows = (double)a.K * a.R * a.S * a.C;
    return {gemm_clocks(l, d, 64. * 128, a.chunk_pixels, kMmaPerClock / (bytes == 4 ? 2 : 1)),
            bytes * (double)a.pixels * (a.K + a.C) + 4. * a.chunks * rows};
  }
  if (begins(l.entry, "conv_wgrad")) {
    const ConvWgradCudaArgs& a = *(const ConvWgradCudaArgs*)l.params;
    const double rows = (double)a.K * a.R * a.S * a.C;
    return {gemm_clocks(l, d, tile, a.chunk_pixels < a.pixels ? a.chunk_pixels : a.pixels, rate),
            bytes * (double)a.pixels * (2 * a.K + a.C) + 4. * l.grid_z * rows};
  }
  if (std::strstr(l.entry, "sum")) {
    const SumChunksCudaArgs& a = *(const SumChunksCudaArgs*)l.params;
    return {0, 4. * (a.chunks + 1.) * a.count};
  }
  if (begins(l.entry, "pool")) {
    const PoolCudaArgs& a = *(const PoolCudaArgs*)l.params;
    return {0, (double)a.N * a.H * a.W * a.C * (2 * bytes + 1)};
  }
  if (begins(l.entry, "mask_units")) {
    const MaskMmaArgs& a = *(const MaskMmaArgs*)l.params;
    return {0, 3. * bytes * a.N * a.P * a.Q * a.K};
  }
  if (begins(l.entry, "flip_filters")) {
    const FlipFiltersMmaArgs& a = *(const FlipFiltersMmaArgs*)l.params;
    double units = 0;
    for (int i = 0; i < a.filter_count; i++) units += a.filters[i].count;
    return {0, 32 * units};
  }
  if (begins(l.entry, "inception_mma")) {
    const InceptionMmaArgs& a = *(const InceptionMmaArgs*)l.params;
    double channels = a.ones.C + a.ones.K + a.projection.K;
    double filters = (double)a.ones.C * (a.ones.K + a.projection.K);
    for (const ReduceConvMmaArgs& b : a.branches) {
      channels += b.K + (b.r ? b.Cr : 0);
      filters += (double)b.Cr * (b.C + b.R * b.S * b.K);
    }
    return {l.clocks, bytes * ((double)a.ones.N * a.ones.H * a.ones.W * channels + filters)};
  }
  const ConvMmaArgs& a = *(const ConvMmaArgs*)l.params;
  const double maps = a.C + (a.accumulate || a.mask ? 2 : 1) * a.K;
  return {l.clocks, bytes * ((double)a.pixels * maps + (double)a.R * a.S * a.K * a.C)};
}

struct Time {
  double us;
  int launches;
};

static Time predict(const Module& m, const Device& d, int N, bool tensor, int storage,
                    bool backward) {
  InceptionCudaArgs a{};
  a.N = N, a.H = a.W = m.extent, a.C = m.C, a.filter = 5, a.storage = storage;
  for (int i = 0; i < 6; i++) a.K[i] = m.K[i];
  a.tensor_cores = tensor, a.shared_limit = d.shared_kb * 1024;
  a.multiprocessors = d.multiprocessors;
  const auto packed = [&](int c) { return CudaStrides{m.extent * m.extent * c, m.extent * c, c}; };
  const int K = m.K[0] + m.K[2] + m.K[4] + m.K[5];
  a.x_strides = a.gx_strides = a.pooled_strides = packed(m.C);
  a.y_strides = a.gy_strides = packed(K);
  a.r3_strides = packed(m.K[1]), a.r5_strides = packed(m.K[3]);
  static InceptionPlan plan;
  const CudaStatus status = backward ? plan_inception_backward(a, true, plan)  // no array is there
                                     : plan_inception_fprop(a, true, plan);
  if (status) {
    std::fprintf(stderr, "%s: %s\n", m.name, status.text);
    std::exit(1);
  }
  Time time{0, plan.count};
  for (int i = 0; i < plan.count; i++) {
    const Cost c = cost_of(plan.launches[i], d, storage ? 2 : 4);
    const double compute = c.clocks / d.clocks, memory = c.bytes / d.bytes;
    time.us += kBoundary + (compute > memory ? compute : memory);
  }
  return time;
}

int main(int count, char** values) {
  std::printf(
      "| device | rung | batch | modules, forward: us | launches | backward: us | launches |"
      "\n|---|---|---|---|---|---|---|\n");
  for (int i = 1; i < count; i++)
    for (const Device& d : kDevices)
      for (int tensor = 0; tensor <= (d.tensor_cores ? 1 : 0); tensor++) {
        Time forward{}, backward{};
        for (const Module& m : kModules) {
          const Time f = predict(m, d, std::atoi(values[i]), tensor, tensor, false);
          const Time b = predict(m, d, std::atoi(values[i]), tensor, tensor, true);
          forward.us += f.us, forward.launches += f.launches;
          backward.us += b.us, backward.launches += b.launches;
        }
        std::printf("| %s | %s | %s | %.0f | %d | %.0f | %d |\n", d.name,
                    tensor ? "tensor cores, bf16" : "CUDA cores, fp32", values[i], forward.us,
                    forward.launches, backward.us, backward.launches);
      }
}
