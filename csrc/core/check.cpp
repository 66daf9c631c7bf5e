// Checks of operands. Order: kind, dtype, rank, shape, strides, alignment, overlap. Messages name
// function, argument, expected and actual.
#include <algorithm>
#include <array>

#include "core.h"

namespace pyi {
namespace {

constexpr double kMostFloats = 1099511627776.0;  // offsets and sizes stay far from 2^63

std::string dtype_text(DLDataType t) {
  const char* kind = t.code == 0   ? "int"
                     : t.code == 1 ? "uint"
                     : t.code == 2 ? "float"
                     : t.code == 4 ? "bfloat"
                     : t.code == 5 ? "complex"
                     : t.code == 6 ? "bool"
                                   : "type code ";
  return text(kind, static_cast<int>(t.bits));
}

const char* data_of(const DLTensor* t) {
  return static_cast<const char*>(t->data) + t->byte_offset;
}

// Stride of an axis in elements; an axis of one element has whatever stride fits.
int64_t stride_of(const DLTensor* t, int axis) {
  if (t->strides != nullptr) return t->strides[axis];
  int64_t stride = 1;
  for (int i = t->ndim - 1; i > axis; --i) stride *= t->shape[i];
  return stride;
}

}  // namespace

std::string shape_text(const int64_t* shape, int ndim) {
  std::string out = "(";
  for (int i = 0; i < ndim; ++i) out += text(i ? ", " : "", shape[i]);
  return out + (ndim == 1 ? ",)" : ")");
}

void Check::kind(const DLTensor* t, const char* name, int code, int bits, int ndim) {
  const char* function = function_;
  if (t == nullptr) fail(PYI_INVALID_TYPE, function, ": ", name, " is missing, expected an array");
  const DLDevice& device = t->device;
  if (device.device_type != kHostMemory && !(cuda_allowed_ && device.device_type == kCudaMemory)) {
    fail(PYI_INVALID_TYPE, function, ": ", name, " lives on device type ", device.device_type,
         ", expected host memory", cuda_allowed_ ? " or CUDA memory (2)" : "");
  }
  if (device_.device_type == 0) device_ = device;
  if (device.device_type != device_.device_type || device.device_id != device_.device_id) {
    fail(PYI_INVALID_TYPE, function, ": ", name, " lives on device (", device.device_type, ", ",
         device.device_id, "), expected (", device_.device_type, ", ", device_.device_id,
         ") as the first array");
  }
  DLDataType want = {static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1};
  if (t->dtype.code != want.code || t->dtype.bits != want.bits || t->dtype.lanes != 1) {
    fail(PYI_INVALID_TYPE, function, ": ", name, " has dtype ", dtype_text(t->dtype), ", expected ",
         dtype_text(want));
  }
  if (t->ndim != ndim) {
    fail(PYI_INVALID_VALUE, function, ": ", name, " has shape ", shape_text(t->shape, t->ndim),
         " of rank ", t->ndim, ", expected rank ", ndim);
  }
  const int64_t bytes = bits / 8;
  if (reinterpret_cast<uintptr_t>(data_of(t)) % static_cast<uintptr_t>(bytes) != 0) {
    fail(PYI_INVALID_VALUE, function, ": ", name, " is not aligned to its elements of ", bytes,
         " bytes");
  }
}

void Check::storage(const DLTensor* t, const char* name, int ndim) {
  if (size_ == 0 && t != nullptr) {
    const bool half = t->dtype.code == 4 && t->dtype.bits == 16;  // kDLBfloat
    size_ = bfloat16_allowed_ && half && t->device.device_type == kHostMemory ? 2 : 4;
  }
  size_ == 2 ? kind(t, name, 4, 16, ndim) : kind(t, name, 2, 32, ndim);
}

void Check::remember(const DLTensor* t, const char* name, bool output) {
  const int64_t bytes = t->dtype.bits / 8;
  int64_t first = 0, last = 0;  // elements from the data pointer; filters may have strides below 0
  for (int i = 0; i < t->ndim; ++i) {
    if (t->shape[i] == 0) return;
    const int64_t reach = (t->shape[i] - 1) * stride_of(t, i);
    (reach < 0 ? first : last) += reach;
  }
  Operand o;
  o.name = name;
  o.output = output;
  o.first = data_of(t) + first * bytes;
  o.last = data_of(t) + (last + 1) * bytes;
  o.row_bytes = t->shape[t->ndim - 1] * bytes;
  // The pixel stride if every other stride is a multiple of it; 0: one dense piece.
  o.pixel = t->ndim == 4 ? stride_of(t, 2) * bytes : t->ndim == 2 ? stride_of(t, 0) * bytes : 0;
  if (t->ndim == 4 && t->shape[2] == 1)
    o.pixel = t->shape[1] == 1 ? stride_of(t, 0) * bytes : stride_of(t, 1) * bytes;
  for (int i = 0; i + 1 < t->ndim && o.pixel > 0; ++i) {
    if (t->shape[i] > 1 && stride_of(t, i) * bytes % o.pixel != 0) o.pixel = 0;
  }
  if (first < 0 || (t->shape[t->ndim - 1] > 1 && stride_of(t, t->ndim - 1) != 1)) o.pixel = 0;
  operands_.push_back(o);
}

Map Check::map(const DLTensor* t, const char* name, bool output) {
  storage(t, name, 4);
  Map m;
  m.size = size_;
  m.N = t->shape[0], m.H = t->shape[1], m.W = t->shape[2], m.C = t->shape[3];
  if (m.N < 0 || m.H < 1 || m.W < 1 || m.C < 1) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 4),
         ", expected extents of at least (0, 1, 1, 1)");
  }
  const double floats = static_cast<double>(m.N) * static_cast<double>(m.H) *
                        static_cast<double>(m.W) * static_cast<double>(m.C);
  if (floats > kMostFloats) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 4),
         ", expected at most 2^40 elements");
  }
  m.data = reinterpret_cast<float*>(const_cast<char*>(data_of(t)));
  if (m.N == 0) {  // no elements, so whatever strides there are mean nothing
    m.w = m.C, m.h = m.W * m.C, m.n = m.H * m.h;
    return m;
  }
  m.w = m.W > 1 ? stride_of(t, 2) : m.C;
  m.h = m.H > 1 ? stride_of(t, 1) : m.w * m.W;
  m.n = m.N > 1 ? stride_of(t, 0) : m.h * m.H;
  if (m.C > 1 && stride_of(t, 3) != 1) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has channel stride ", stride_of(t, 3),
         ", expected 1 (channels last)");
  }
  const bool negative = m.w < 0 || m.h < 0 || m.n < 0;
  // From the innermost stride outwards, each step must clear what lies inside it.
  std::array<std::array<int64_t, 2>, 3> axes = {{{m.w, m.W}, {m.h, m.H}, {m.n, m.N}}};
  std::sort(axes.begin(), axes.end());
  bool folded = false;
  int64_t span = m.C;
  for (auto [stride, extent] : axes) {
    if (extent <= 1) continue;
    folded |= stride < span;
    span += (extent - 1) * stride;
  }
  if (negative || (output && folded)) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has strides (", m.n, ", ", m.h, ", ", m.w,
         ") of image, row and pixel, expected ",
         output ? "pixels that do not overlap" : "none below 0");
  }
  remember(t, name, output);
  return m;
}

Map Check::matrix(const DLTensor* t, const char* name, bool output) {
  storage(t, name, 2);
  int64_t shape[4] = {1, 1, t->shape[0], t->shape[1]};
  int64_t row = stride_of(t, 0);
  int64_t strides[4] = {row * t->shape[0], row * t->shape[0], row, stride_of(t, 1)};
  if (t->shape[0] == 0) {  // an empty batch is legal; as a map it is (0, 1, 1, C)
    shape[0] = 0, shape[2] = 1;
  }
  DLTensor wide = *t;
  wide.ndim = 4, wide.shape = shape, wide.strides = strides;
  if (t->shape[1] < 1) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 2),
         ", expected at least one column");
  }
  return map(&wide, name, output);
}

Filter Check::filter(const DLTensor* t, const char* name, int64_t R, int64_t S) {
  Filter f;
  if (t != nullptr && t->ndim == 1) {
    storage(t, name, 1);
    if (R < 1 || S < 1) {
      fail(PYI_INVALID_VALUE, function_, ": ", name,
           " is packed, so the kernel size must be given, got (", R, ", ", S, ")");
    }
    if (t->shape[0] > 1 && stride_of(t, 0) != 1) {
      fail(PYI_INVALID_VALUE, function_, ": packed ", name, " must be contiguous");
    }
    f.packed = true, f.R = R, f.S = S, f.K = t->shape[0];
  } else {
    storage(t, name, 4);
    f.K = t->shape[0], f.R = t->shape[1], f.S = t->shape[2], f.C = t->shape[3];
    f.k = stride_of(t, 0), f.r = stride_of(t, 1), f.s = stride_of(t, 2), f.c = stride_of(t, 3);
    if (f.K < 1 || f.R < 1 || f.S < 1 || f.C < 1) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 4),
           ", expected (K, R, S, C) of at least 1 each");
    }
  }
  f.data = reinterpret_cast<float*>(const_cast<char*>(data_of(t)));
  f.size = size_;
  remember(t, name, false);
  return f;
}

float* Check::packed(const DLTensor* t, const char* name, int64_t length) {
  storage(t, name, 1);
  return numbers(t, name, length, true);
}

float* Check::vector(const DLTensor* t, const char* name, int64_t length, bool output) {
  if (t == nullptr) return nullptr;
  kind(t, name, 2, 32, 1);
  return numbers(t, name, length, output);
}

float* Check::numbers(const DLTensor* t, const char* name, int64_t length, bool output) {
  if (t->shape[0] != length) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 1),
         ", expected (", length, ",)");
  }
  if (length > 1 && stride_of(t, 0) != 1) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has stride ", stride_of(t, 0), ", expected 1");
  }
  remember(t, name, output);
  return reinterpret_cast<float*>(const_cast<char*>(data_of(t)));
}

float* Check::needed(const DLTensor* t, const char* name, int64_t length, bool output) {
  kind(t, name, 2, 32, 1);
  return vector(t, name, length, output);
}

float* Check::contiguous(const DLTensor* t, const char* name,
                         std::initializer_list<int64_t> shape) {
  kind(t, name, 2, 32, static_cast<int>(shape.size()));
  int64_t dense = 1;
  for (int i = t->ndim - 1; i >= 0; --i) {
    if (t->shape[i] != shape.begin()[i]) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, t->ndim),
           ", expected ", shape_text(shape.begin(), t->ndim));
    }
    if (t->shape[i] > 1 && stride_of(t, i) != dense) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, " has stride ", stride_of(t, i), " on axis ",
           i, ", expected ", dense, " (contiguous)");
    }
    dense *= t->shape[i];
  }
  remember(t, name, true);
  return reinterpret_cast<float*>(const_cast<char*>(data_of(t)));
}

Filter Check::filter_gradient(const DLTensor* t, const char* name) {
  kind(t, name, 2, 32, 4);
  Filter f;
  f.K = t->shape[0], f.R = t->shape[1], f.S = t->shape[2], f.C = t->shape[3];
  if (f.K < 1 || f.R < 1 || f.S < 1 || f.C < 1) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 4),
         ", expected (K, R, S, C) of at least 1 each");
  }
  f.data = contiguous(t, name, {f.K, f.R, f.S, f.C});
  f.c = 1, f.s = f.C, f.r = f.S * f.C, f.k = f.R * f.S * f.C;
  return f;
}

uint8_t* Check::bytes(const DLTensor* t, const char* name, const Map& like, bool output) {
  if (t == nullptr) return nullptr;
  kind(t, name, 1, 8, 4);
  int64_t want[4] = {like.N, like.H, like.W, like.C}, dense = 1;
  for (int i = 3; i >= 0; --i) {
    if (t->shape[i] != want[i]) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 4),
           ", expected ", shape_text(want, 4));
    }
    if (like.N > 0 && t->shape[i] > 1 && stride_of(t, i) != dense) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, " has stride ", stride_of(t, i), " on axis ",
           i, ", expected ", dense, " (contiguous)");
    }
    dense *= want[i];
  }
  remember(t, name, output);
  return reinterpret_cast<uint8_t*>(const_cast<char*>(data_of(t)));
}

const int64_t* Check::labels(const DLTensor* t, const char* name, int64_t N, int64_t K) {
  kind(t, name, 0, 64, 1);
  if (t->shape[0] != N || (N > 1 && stride_of(t, 0) != 1)) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(t->shape, 1),
         ", expected contiguous (", N, ",)");
  }
  const auto* labels = reinterpret_cast<const int64_t*>(data_of(t));
  for (int64_t n = 0; n < N; ++n) {
    if (labels[n] < 0 || labels[n] >= K) {
      fail(PYI_INVALID_VALUE, function_, ": ", name, "[", n, "] is ", labels[n],
           ", expected a class in 0..", K - 1);
    }
  }
  remember(t, name, false);
  return labels;
}

void Check::extents(const char* name, const Map& map, int64_t N, int64_t H, int64_t W, int64_t C,
                    const char* letters) {
  if (map.N == N && map.H == H && map.W == W && map.C == C) return;
  int64_t actual[4] = {map.N, map.H, map.W, map.C}, want[4] = {N, H, W, C};
  fail(PYI_INVALID_VALUE, function_, ": ", name, " has shape ", shape_text(actual, 4),
       ", expected ", letters, " = ", shape_text(want, 4));
}

void Check::range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    fail(PYI_INVALID_VALUE, function_, ": ", name, " is ", value, ", expected ", low, "..", high);
  }
}

void Check::disjoint() {
  for (const Operand& a : operands_) {
    if (!a.output) continue;
    for (const Operand& b : operands_) {
      if (&a == &b || (b.output && &b < &a) || a.last <= b.first || b.last <= a.first) continue;
      // Two channel slices of one wide buffer interleave without touching.
      if (a.pixel > 0 && a.pixel == b.pixel) {
        int64_t gap = ((b.first - a.first) % a.pixel + a.pixel) % a.pixel;
        if (gap >= a.row_bytes && gap + b.row_bytes <= a.pixel) continue;
      }
      fail(PYI_INVALID_VALUE, function_, ": ", a.name, " overlaps ", b.name, " in memory");
    }
  }
}

std::vector<Span> Check::spans() const {
  std::vector<Span> found;
  for (const Operand& o : operands_) found.push_back({o.first, o.last, o.output});
  return found;
}

}  // namespace pyi
