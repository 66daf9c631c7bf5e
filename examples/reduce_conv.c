/* The fused branch 1x1 -> ReLU -> 3x3 -> ReLU from C, landing in its slice of a wider map.
 *
 *   D=$(python -c 'import pyinception, os; print(os.path.dirname(pyinception.__file__))')
 *   gcc -std=c11 -O2 -I$D/include reduce_conv.c $D/libpyinception.so -Wl,-rpath,$D -o reduce_conv
 */
#include <stdio.h>
#include <stdlib.h>

#include "pyinception.h"

enum { H = 28, W = 28, C = 192, Cr = 96, K = 128, WIDE = 256, FIRST = 64 }; /* GoogLeNet's 3a */

static float* numbers(int64_t count) { /* small integers: every sum below is exact */
  float* data = malloc(sizeof(float) * (size_t)count);
  for (int64_t i = 0; data && i < count; ++i) data[i] = (float)(i * 7 % 5 - 2);
  return data;
}

static DLTensor tensor(float* data, int ndim, int64_t* shape) {
  DLTensor t = {data, {1, 0}, ndim, {2, 32, 1}, shape, NULL, 0}; /* float32, host, compact */
  return t;
}

int main(void) {
  float *x = numbers(H * W * C), *wr = numbers(Cr * C), *w = numbers(K * 9 * Cr);
  float *br = numbers(Cr), *b = numbers(K), *y = numbers(H * W * WIDE);
  int64_t x_shape[] = {1, H, W, C}, wr_shape[] = {Cr, 1, 1, C}, w_shape[] = {K, 3, 3, Cr};
  int64_t br_shape[] = {Cr}, b_shape[] = {K}, y_shape[] = {1, H, W, K};
  int64_t y_strides[] = {H * W * WIDE, W * WIDE, WIDE, 1}; /* of image, row, pixel, channel */
  DLTensor tx = tensor(x, 4, x_shape), twr = tensor(wr, 4, wr_shape), tw = tensor(w, 4, w_shape);
  DLTensor tbr = tensor(br, 1, br_shape), tb = tensor(b, 1, b_shape), ty = tensor(y, 4, y_shape);
  ty.byte_offset = FIRST * sizeof(float); /* channels 64 .. 191 of 256: nothing is concatenated */
  ty.strides = y_strides;
  pyi_options options = {.algorithm = "direct", /* "auto" may take Winograd, which rounds */
                         .stream = NULL};       /* of arrays in CUDA memory: a cudaStream_t */
  pyi_conv_params params = {1, 1, 1, 1, .kernel_h = 3, .kernel_w = 3, .relu = 1};

  /* Filters are packed once, for every later call. */
  int64_t floats[2];
  pyi_packed_size(Cr, 1, 1, C, "fprop", &options, &floats[0]);
  pyi_packed_size(K, 3, 3, Cr, "fprop", &options, &floats[1]);
  DLTensor pr = tensor(numbers(floats[0]), 1, &floats[0]);
  DLTensor pw = tensor(numbers(floats[1]), 1, &floats[1]);
  if (pyi_pack(&twr, &pr, "fprop", &options) || pyi_pack(&tw, &pw, "fprop", &options) ||
      pyi_reduce_conv_fprop(&tx, &pr, &tbr, &pw, &tb, &ty, NULL, &params, &options)) {
    fprintf(stderr, "%s\n", pyi_last_error());
    return 1;
  }
  double sum = 0;
  for (int i = FIRST; i < H * W * WIDE; ++i) sum += (i - FIRST) % WIDE < K ? y[i] : 0;
  printf("level %s, sum of y %.0f, beside it %g %g\n", pyi_host_level(), sum, y[FIRST - 1],
         y[FIRST + K]);
  y_shape[3] = K + 1; /* a wrong extent is refused in words, and nothing is written */
  pyi_reduce_conv_fprop(&tx, &twr, &tbr, &tw, &tb, &ty, NULL, &params, &options);
  printf("%s\n", pyi_last_error());
  void* used[] = {x, wr, w, br, b, y, pr.data, pw.data};
  for (int i = 0; i < 8; ++i) free(used[i]);
  return 0;
}
