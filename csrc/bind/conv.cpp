// Bindings of the convolution family: unpack, call, raise.
#include "bind.h"

namespace pyi_bind {
namespace {

using Object = const py::object&;

pyi_conv_params conv_params(Pair kernel, Pair stride, Pair padding, bool relu, bool accumulate) {
  return {stride[0], stride[1], padding[0], padding[1], kernel[0], kernel[1], relu, accumulate, 0};
}

constexpr const char* kWeightNames[12] = {"w1",  "b1",  "wr3", "br3", "w3", "b3",
                                          "wr5", "br5", "w5",  "b5",  "wp", "bp"};
constexpr const char* kSavedNames[4] = {"r3", "r5", "pooled", "argmax"};

// A fixed-size tuple of arrays.
template <size_t n>
struct Arrays {
  std::vector<std::unique_ptr<Array>> arrays;
  const DLTensor* pointers[n] = {};
  Arrays(const char* function, const char* tuple, const char* const (&names)[n], Object objects,
         bool output) {
    py::sequence items = py::cast<py::sequence>(objects);
    if (items.size() != n) {
      throw py::value_error(std::string(function) + ": " + tuple + " has " +
                            std::to_string(items.size()) + " arrays, expected " +
                            std::to_string(n));
    }
    for (size_t i = 0; i < n; ++i) {
      arrays.push_back(std::make_unique<Array>(function, names[i], items[i], output));
      pointers[i] = *arrays.back();
    }
  }
};

// The three directions of one convolution; names are literals, since errors keep them.
template <class Fprop, class Dgrad, class Wgrad>
void register_window(py::module_& m, const char* fprop_name, Fprop fprop, const char* dgrad_name,
                     Dgrad dgrad, const char* wgrad_name, Wgrad wgrad) {
  const auto algorithm_arg = py::arg("algorithm") = "auto";
  const auto level_arg = py::arg("level") = "";
  const auto threads_arg = py::arg("threads") = 0;

  m.def(
      fprop_name,
      [=](Object x_, Object w_, Object b_, Object y_, Pair kernel, Pair stride, Pair padding,
          bool relu, std::string algorithm, std::string level, int threads) {
        const char* f = fprop_name;
        Array x(f, "x", x_), w(f, "w", w_), b(f, "b", b_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        auto p = conv_params(kernel, stride, padding, relu, false);
        run([&] { return fprop(x, w, b, y, &p, &o.c); });
      },
      py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"), py::arg("kernel"), py::arg("stride"),
      py::arg("padding"), py::arg("relu"), algorithm_arg, level_arg, threads_arg);

  m.def(
      dgrad_name,
      [=](Object gy_, Object w_, Object y_, Object gx_, Pair kernel, Pair stride, Pair padding,
          bool accumulate, std::string algorithm, std::string level, int threads) {
        const char* f = dgrad_name;
        Array gy(f, "gy", gy_), w(f, "w", w_), y(f, "y", y_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        auto p = conv_params(kernel, stride, padding, false, accumulate);
        run([&] { return dgrad(gy, w, y, gx, &p, &o.c); });
      },
      py::arg("gy"), py::arg("w"), py::arg("y"), py::arg("gx"), py::arg("kernel"),
      py::arg("stride"), py::arg("padding"), py::arg("accumulate"), algorithm_arg, level_arg,
      threads_arg);

  m.def(
      wgrad_name,
      [=](Object x_, Object gy_, Object y_, Object gw_, Object gb_, Pair kernel, Pair stride,
          Pair padding, std::string algorithm, std::string level, int threads) {
        const char* f = wgrad_name;
        Array x(f, "x", x_), gy(f, "gy", gy_), y(f, "y", y_), gw(f, "gw", gw_, true);
        Array gb(f, "gb", gb_, true);
        Options o(algorithm, level, threads);
        auto p = conv_params(kernel, stride, padding, false, false);
        run([&] { return wgrad(x, gy, y, gw, gb, &p, &o.c); });
      },
      py::arg("x"), py::arg("gy"), py::arg("y"), py::arg("gw"), py::arg("gb"), py::arg("kernel"),
      py::arg("stride"), py::arg("padding"), algorithm_arg, level_arg, threads_arg);
}

}  // namespace

void register_conv(py::module_& m) {
  const auto algorithm_arg = py::arg("algorithm") = "auto";
  const auto level_arg = py::arg("level") = "";
  const auto threads_arg = py::arg("threads") = 0;

  register_window(m, "conv_fprop", pyi_conv_fprop, "conv_dgrad", pyi_conv_dgrad, "conv_wgrad",
                  pyi_conv_wgrad);
  register_window(m, "depthwise_conv_fprop", pyi_depthwise_conv_fprop, "depthwise_conv_dgrad",
                  pyi_depthwise_conv_dgrad, "depthwise_conv_wgrad", pyi_depthwise_conv_wgrad);

  m.def(
      "reduce_conv_fprop",
      [](Object x_, Object wr_, Object br_, Object w_, Object b_, Object y_, Object r_, Pair kernel,
         Pair stride, Pair padding, std::string algorithm, std::string level, int threads,
         int64_t reduced) {
        const char* f = "reduce_conv_fprop";
        Array x(f, "x", x_), wr(f, "wr", wr_), br(f, "br", br_), w(f, "w", w_), b(f, "b", b_);
        Array y(f, "y", y_, true), r(f, "r", r_, true);
        Options o(algorithm, level, threads);
        auto p = conv_params(kernel, stride, padding, true, false);
        p.reduced = reduced;
        run([&] { return pyi_reduce_conv_fprop(x, wr, br, w, b, y, r, &p, &o.c); });
      },
      py::arg("x"), py::arg("wr"), py::arg("br"), py::arg("w"), py::arg("b"), py::arg("y"),
      py::arg("r"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), algorithm_arg,
      level_arg, threads_arg, py::arg("reduced") = 0);

  m.def(
      "reduce_conv_backward",
      [](Object gy_, Object x_, Object wr_, Object w_, Object r_, Object y_, Object gx_,
         Object gwr_, Object gbr_, Object gw_, Object gb_, Pair kernel, Pair stride, Pair padding,
         bool accumulate, std::string algorithm, std::string level, int threads) {
        const char* f = "reduce_conv_backward";
        Array gy(f, "gy", gy_), x(f, "x", x_), wr(f, "wr", wr_), w(f, "w", w_), r(f, "r", r_);
        Array y(f, "y", y_), gx(f, "gx", gx_, true), gwr(f, "gwr", gwr_, true);
        Array gbr(f, "gbr", gbr_, true), gw(f, "gw", gw_, true), gb(f, "gb", gb_, true);
        Options o(algorithm, level, threads);
        auto p = conv_params(kernel, stride, padding, true, accumulate);
        run([&] {
          return pyi_reduce_conv_backward(gy, x, wr, w, r, y, gx, gwr, gbr, gw, gb, &p, &o.c);
        });
      },
      py::arg("gy"), py::arg("x"), py::arg("wr"), py::arg("w"), py::arg("r"), py::arg("y"),
      py::arg("gx"), py::arg("gwr"), py::arg("gbr"), py::arg("gw"), py::arg("gb"),
      py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("accumulate"),
      algorithm_arg, level_arg, threads_arg);

  m.def(
      "inception_fprop",
      [](Object x_, Object weights_, Object y_, Object saved_, std::string algorithm,
         std::string level, int threads) {
        const char* f = "inception_fprop";
        Array x(f, "x", x_), y(f, "y", y_, true);
        Arrays<12> weights(f, "weights", kWeightNames, weights_, false);
        std::unique_ptr<Arrays<4>> saved;
        if (!saved_.is_none()) {
          saved = std::make_unique<Arrays<4>>(f, "saved", kSavedNames, saved_, true);
        }
        Options o(algorithm, level, threads);
        run([&] {
          return pyi_inception_fprop(x, weights.pointers, y, saved ? saved->pointers : nullptr,
                                     &o.c);
        });
      },
      py::arg("x"), py::arg("weights"), py::arg("y"), py::arg("saved"), algorithm_arg, level_arg,
      threads_arg);

  m.def(
      "inception_backward",
      [](Object gy_, Object x_, Object weights_, Object y_, Object saved_, Object gx_,
         Object grads_, std::string algorithm, std::string level, int threads) {
        const char* f = "inception_backward";
        Array gy(f, "gy", gy_), x(f, "x", x_), y(f, "y", y_), gx(f, "gx", gx_, true);
        Arrays<12> weights(f, "weights", kWeightNames, weights_, false);
        Arrays<4> saved(f, "saved", kSavedNames, saved_, false);
        Arrays<12> grads(f, "grads", kWeightNames, grads_, true);
        Options o(algorithm, level, threads);
        run([&] {
          return pyi_inception_backward(gy, x, weights.pointers, y, saved.pointers, gx,
                                        grads.pointers, &o.c);
        });
      },
      py::arg("gy"), py::arg("x"), py::arg("weights"), py::arg("y"), py::arg("saved"),
      py::arg("gx"), py::arg("grads"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "packed_size",
      [](int64_t K, int64_t R, int64_t S, int64_t C, std::string direction, std::string algorithm,
         std::string level) {
        Options o(algorithm, level, 1);
        int64_t floats = 0;
        raise_for(pyi_packed_size(K, R, S, C, direction.c_str(), &o.c, &floats));
        return floats;
      },
      py::arg("K"), py::arg("R"), py::arg("S"), py::arg("C"), py::arg("direction") = "fprop",
      algorithm_arg, level_arg);

  m.def(
      "pack",
      [](Object w_, Object out_, std::string direction, std::string algorithm, std::string level,
         int threads, LaunchList* launches) {
        // Packing is done once, now, also while a list is being recorded, unless one is given.
        RecordingInto given(launches);
        Array w("pack", "w", w_), out("pack", "out", out_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_pack(w, out, direction.c_str(), &o.c); });
      },
      py::arg("w"), py::arg("out"), py::arg("direction") = "fprop", algorithm_arg, level_arg,
      threads_arg, py::arg("launches") = nullptr);
}

}  // namespace pyi_bind
