// The argument records of the tile programs, as C structs; args.py is the same for Numba.
//
// A tile program is kernel(args, tile, scratch). Every field has eight bytes but the floats, which
// come in pairs. Pointers are addresses in bytes, strides count elements, pixels have unit channel
// stride. tests/test_args.py compiles this header and compares every offset with args.py.
#pragma once

namespace pyi {

using Int = long long;

constexpr Int kSumChunk = 256;  // terms of one chain of multiply-adds at most; see cpu/sums.py

// What a convolution reads: one map, one filter; see args.py for the meaning of each field.
struct Source {
  Int x, x_n, x_h, x_w, mask, m_n, m_h, m_w, H, W, C, R, S, stride_h, stride_w, pad_h, pad_w,
      dilation_h, dilation_w, staged, merged;
};

// A group of at most NR output channels.
struct Panel {
  Int bias, y, y_n, y_h, y_w, lanes;
};

// A convolution: sources x panels of one output map.
struct ConvArgs {
  Int sources, source_count, panels, panel_count, weights, reduce, zero, N, P, Q, phase_w, lists,
      tile_pixels, pixel_tiles, tile_panels, panel_tiles, relu, accumulate;
};

// The filter gradient.
struct WgradArgs {
  Int x, x_n, x_h, x_w, gy, gy_n, gy_h, gy_w, mask, m_n, m_h, m_w, gw, gb, N, H, W, C, K, R, S, P,
      Q, stride_h, stride_w, pad_h, pad_w, chunk_rows, tile_k, tile_b, b_tiles, rows, staged_gy,
      lanes, staged_x, zero;
};

// The filter gradients of 1x1 convolutions that read one map.
struct Gradient {
  Int gy, gy_n, gy_h, gy_w, mask, m_n, m_h, m_w, gw, gb, K, first;
};
struct PointwiseWgradArgs {
  Int x, x_n, x_h, x_w, gradients, gradient_count, N, H, W, C, chunk, tile_vectors, tile_lanes,
      lane_tiles, lists, staged_gy, staged_x;
};

// Packing of a filter into panels of lanes.
struct PackArgs {
  Int w, w_k, w_r, w_s, w_c, packed, K, R, S, C;
};

// Winograd, fprop and dgrad.
struct WinogradArgs {
  Int x, x_n, x_h, x_w, mask, m_n, m_h, m_w, y, y_n, y_h, y_w, weights, bias, zero, H, W, C, K, R,
      S, P, Q, pad_h, pad_w, tiles_h, tiles_w, tile_count, block_tiles, tile_panels, panel_tiles, v,
      v_row, v_plane, m, m_plane, relu, accumulate;
};

// Its filter gradient.
struct WinogradWgradArgs {
  Int x, x_n, x_h, x_w, gy, gy_n, gy_h, gy_w, mask, m_n, m_h, m_w, gw, gb, zero, H, W, C, K, R, S,
      P, Q, pad_h, pad_w, tiles_h, tiles_w, tile_count, chunk_tiles, tile_k, tile_c, c_tiles, v,
      v_row, v_plane, w, w_row, w_plane, m, m_plane;
};

// The phases of stride 2 of a map as channels.
struct SpaceToDepthArgs {
  Int x, x_n, x_h, x_w, y, H, W, C, P, Q, pad_h, pad_w, size, row;
};

// The plain twins of fprop, dgrad and wgrad.
struct PlainConvArgs {
  Int x, x_n, x_h, x_w, w, w_k, w_r, w_s, w_c, bias, y, y_n, y_h, y_w, mask, m_n, m_h, m_w, N, H, W,
      C, K, R, S, P, Q, stride_h, stride_w, pad_h, pad_w, relu, accumulate;
};

// Depthwise convolution, all directions; see args.py for the meaning of each field.
struct DepthwiseArgs {
  Int x, x_n, x_h, x_w, y, y_n, y_h, y_w, mask, m_n, m_h, m_w, w, bias, zero, partial, gw, gb, N, H,
      W, C, K, R, S, P, Q, stride_h, stride_w, pad_h, pad_w, relu, accumulate, tile_rows, row_tiles,
      panels, tile_panels, panel_tiles;
};

// The residual sum, both directions.
struct AddScaledArgs {
  Int a, a_n, a_h, a_w, b, b_n, b_h, b_w, y, y_n, y_h, y_w, g, g_n, g_h, g_w, N, H, W, C, count,
      relu;
  float scale, unused;
};

// Max and average pooling, both directions.
struct PoolArgs {
  Int x, x_n, x_h, x_w, y, y_n, y_h, y_w, argmax, zero, N, H, W, C, P, Q, R, S, stride_h, stride_w,
      pad_h, pad_w, count_include_pad, accumulate;
};

// Local response normalisation.
struct LrnArgs {
  Int x, x_n, x_h, x_w, gy, gy_n, gy_h, gy_w, y, y_n, y_h, y_w, N, H, W, C, size;
  float scale, beta, k, slope;
};

// Softmax cross-entropy.
struct SoftmaxArgs {
  Int logits, l_n, labels, loss, probs, p_n, g, N, K;
};

// Batch normalisation with its ReLU.
struct BatchNormArgs {
  Int x, x_n, x_h, x_w, y, y_n, y_h, y_w, gy, gy_n, gy_h, gy_w, gx, gx_n, gx_h, gx_w, gamma, beta,
      mean, var, ggamma, gbeta, partial, N, H, W, C, chunks, chunk_rows, relu;
  float eps, unused;
};

// Dropout by a counter.
struct DropoutArgs {
  Int x, x_n, x_h, x_w, y, y_n, y_h, y_w, N, H, W, C, seed, step, layer, first_sample, threshold;
  float divisor, unused;
};

// A step of SGD with momentum.
struct SgdArgs {
  Int w, v, g, count;
  float rate, momentum, decay, unused;
};

// A copy of maps of bfloat16 whose channels are x_c and y_c.
struct CopyArgs {
  Int x, x_n, x_h, x_w, x_c, y, y_n, y_h, y_w, y_c, N, H, W;
};

}  // namespace pyi
