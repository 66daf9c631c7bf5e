// Bindings of depthwise convolution and of the residual sum: unpack, call, raise.
#include "bind.h"

namespace pyi_bind {
namespace {

using Object = const py::object&;

pyi_conv_params window_params(Pair kernel, Pair stride, Pair padding, bool relu, bool accumulate) {
  return {stride[0], stride[1], padding[0], padding[1], kernel[0], kernel[1], relu, accumulate, 0};
}

}  // namespace

void register_depthwise(py::module_& m) {
  const auto algorithm_arg = py::arg("algorithm") = "auto";
  const auto level_arg = py::arg("level") = "";
  const auto threads_arg = py::arg("threads") = 0;

  m.def(
      "depthwise_conv_fprop",
      [](Object x_, Object w_, Object b_, Object y_, Pair kernel, Pair stride, Pair padding,
         bool relu, std::string algorithm, std::string level, int threads) {
        const char* f = "depthwise_conv_fprop";
        Array x(f, "x", x_), w(f, "w", w_), b(f, "b", b_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        auto p = window_params(kernel, stride, padding, relu, false);
        run([&] { return pyi_depthwise_conv_fprop(x, w, b, y, &p, &o.c); });
      },
      py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"), py::arg("kernel"), py::arg("stride"),
      py::arg("padding"), py::arg("relu"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "depthwise_conv_dgrad",
      [](Object gy_, Object w_, Object y_, Object gx_, Pair kernel, Pair stride, Pair padding,
         bool accumulate, std::string algorithm, std::string level, int threads) {
        const char* f = "depthwise_conv_dgrad";
        Array gy(f, "gy", gy_), w(f, "w", w_), y(f, "y", y_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        auto p = window_params(kernel, stride, padding, false, accumulate);
        run([&] { return pyi_depthwise_conv_dgrad(gy, w, y, gx, &p, &o.c); });
      },
      py::arg("gy"), py::arg("w"), py::arg("y"), py::arg("gx"), py::arg("kernel"),
      py::arg("stride"), py::arg("padding"), py::arg("accumulate"), algorithm_arg, level_arg,
      threads_arg);

  m.def(
      "depthwise_conv_wgrad",
      [](Object x_, Object gy_, Object y_, Object gw_, Object gb_, Pair kernel, Pair stride,
         Pair padding, std::string algorithm, std::string level, int threads) {
        const char* f = "depthwise_conv_wgrad";
        Array x(f, "x", x_), gy(f, "gy", gy_), y(f, "y", y_), gw(f, "gw", gw_, true),
            gb(f, "gb", gb_, true);
        Options o(algorithm, level, threads);
        auto p = window_params(kernel, stride, padding, false, false);
        run([&] { return pyi_depthwise_conv_wgrad(x, gy, y, gw, gb, &p, &o.c); });
      },
      py::arg("x"), py::arg("gy"), py::arg("y"), py::arg("gw"), py::arg("gb"), py::arg("kernel"),
      py::arg("stride"), py::arg("padding"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "add_scaled_fprop",
      [](Object a_, Object b_, Object y_, float scale, bool relu, std::string algorithm,
         std::string level, int threads) {
        const char* f = "add_scaled_fprop";
        Array a(f, "a", a_), b(f, "b", b_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_add_scaled_fprop(a, b, y, scale, relu, &o.c); });
      },
      py::arg("a"), py::arg("b"), py::arg("y"), py::arg("scale"), py::arg("relu"), algorithm_arg,
      level_arg, threads_arg);

  m.def(
      "add_scaled_dgrad",
      [](Object gy_, Object y_, Object ga_, Object gb_, float scale, std::string algorithm,
         std::string level, int threads) {
        const char* f = "add_scaled_dgrad";
        Array gy(f, "gy", gy_), y(f, "y", y_), ga(f, "ga", ga_, true), gb(f, "gb", gb_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_add_scaled_dgrad(gy, y, ga, gb, scale, &o.c); });
      },
      py::arg("gy"), py::arg("y"), py::arg("ga"), py::arg("gb"), py::arg("scale"), algorithm_arg,
      level_arg, threads_arg);
}

}  // namespace pyi_bind
