// Plans of convolutions, shared by the entry points of conv, reduce_conv, inception and linear.
#pragma once

#include "core.h"

namespace pyi {

struct Geometry {
  int64_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
};

int64_t packed_floats(const Level& level, int64_t K, int64_t R, int64_t S, int64_t C,
                      bool winograd);
// The same for a filter's own storage, in its elements.
int64_t packed_elements(const Level& level, const Filter& w, int64_t K, int64_t C, bool winograd);
// Address of the packed filter; appends a pack launch to the current phase if it is not packed yet,
// into `to` or memory of the list's.
const float* packed(Call& call, const Filter& w, bool dgrad, float* to = nullptr);

// Winograd: a reason why it cannot, or NULL; `auto`'s rule, by the filter alone, so that a packed
// filter needs no map to know its format; the choice for one call, which fails where
// algorithm='winograd' cannot be had.
int64_t winograd_numbers(int64_t R, int64_t S);  // that a channel's taps become; 0: no transform
const char* why_not_winograd(int64_t R, int64_t S, const Geometry& g, bool dgrad);
bool winograd_pays(int64_t K, int64_t R, int64_t S, int64_t C);
bool choose_winograd(const Call& call, const Filter& w, const Geometry& g, bool dgrad = false);
// The same for packing, which knows no map: what is not 3x3 is packed for direct, as in modules.
bool choose_winograd_format(const Call& call, const Filter& w, bool dgrad);
// A 7x7 filter of stride 2 is one of 4x4, without stride or padding, over the four phases of the
// map as channels: whether it is one, and that filter, as it is packed.
bool is_by_phases(int64_t R, int64_t S);
Filter by_phases(Filter w);
void add_winograd(Call& call, const Map& x, const Map& mask, const Filter& w, const float* weights,
                  const float* bias, const Map& y, const Geometry& g, bool relu, bool accumulate);
void add_winograd_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, float* gw,
                        float* gb, int64_t R, int64_t S, const Geometry& g);

struct ConvSource {
  Map x, mask;           // mask.data NULL: none
  const float* weights;  // packed
  int64_t R, S;
  Geometry geometry;
  int64_t dilation_h = 1, dilation_w = 1;
};
struct ConvOutput {
  Map y;
  const float* bias;     // or NULL
  const float* weights;  // packed, for siblings; NULL: the sources' own
};
// The record of a convolution but for its tiling.
ConvArgs* fill_conv(Call& call, const std::vector<ConvSource>& sources,
                    const std::vector<ConvOutput>& outputs, bool relu, bool accumulate);
constexpr int64_t kStagedBytes = 512 << 10;  // staged rows of a tile: half of an L2 of 1 MiB
int64_t staged_width(const ConvSource& s, bool merged, int64_t Q);
int64_t staged_bytes(const ConvSource& s, bool merged, int64_t tile_pixels, int64_t Q);
// Images of a group whose maps, made and read again at once, lie in L2 and L3.
int64_t images_in_cache(const Call& call, int64_t N, int64_t image_bytes);
void add_conv(Call& call, const std::vector<ConvSource>& sources,
              const std::vector<ConvOutput>& outputs, bool relu, bool accumulate);
void add_fprop(Call& call, const Map& x, const Filter& w, const float* packed, const float* bias,
               const Map& y, const Geometry& g, bool relu);
void add_dgrad(Call& call, const Map& gy, const Filter& w, const float* packed, const Map& mask,
               const Map& gx, const Geometry& g, bool accumulate);
void add_wgrad(Call& call, const Map& x, const Map& gy, const Map& mask, float* gw, float* gb,
               int64_t R, int64_t S, const Geometry& g, bool winograd);
// The filter gradients of 1x1s of stride 1 that read one map; y: the mask of its ReLU, or none.
struct PointwiseGradient {
  Map gy, y;
  float *gw, *gb;  // gb may be NULL
};
void add_pointwise_wgrad(Call& call, const Map& x, const std::vector<PointwiseGradient>& gradients);
// add_conv of bfloat16 maps, and of one that is computed on the way.
void add_conv_bfloat16(Call& call, std::vector<ConvSource> sources, std::vector<ConvOutput> outputs,
                       bool relu);
void add_copy(Call& call, const Map& x, const Map& y);  // bfloat16, cut or filled with zeros
bool is_even(const Map& m);                             // pixels whole pairs apart
Map in_pairs(Map m, bool channels);  // strides, and channels, counted in elements of four bytes
const char* conv_program(const Call& call, bool reduce, int64_t size);
Map new_map(Call& call, int64_t N, int64_t H, int64_t W, int64_t C, int64_t size = 4);
Geometry geometry(Check& check, const pyi_conv_params* params);
// Extents of a packed filter, which has none of its own, from its neighbours; checks its size.
Filter checked(Check& check, Filter w, const Level& level, int64_t K, int64_t C, const char* name);
void check_conv(Check& check, const Map& x, const Filter& w, const Map& y, const Geometry& g);

}  // namespace pyi
