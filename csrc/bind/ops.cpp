// Bindings of pools, normalisation, residual sums, linear, loss and dropout: unpack, call, raise.
#include "bind.h"

namespace pyi_bind {
namespace {

using Object = const py::object&;

pyi_conv_params pool_params(Pair kernel, Pair stride, Pair padding, bool accumulate) {
  return {stride[0], stride[1], padding[0], padding[1], kernel[0], kernel[1], 0, accumulate, 0};
}

void register_maps(py::module_& m) {
  const auto algorithm_arg = py::arg("algorithm") = "auto";
  const auto level_arg = py::arg("level") = "";
  const auto threads_arg = py::arg("threads") = 0;

  m.def(
      "max_pool_fprop",
      [](Object x_, Object y_, Object argmax_, Pair kernel, Pair stride, Pair padding,
         std::string algorithm, std::string level, int threads) {
        const char* f = "max_pool_fprop";
        Array x(f, "x", x_), y(f, "y", y_, true), argmax(f, "argmax", argmax_, true);
        Options o(algorithm, level, threads);
        auto p = pool_params(kernel, stride, padding, false);
        run([&] { return pyi_max_pool_fprop(x, y, argmax, &p, &o.c); });
      },
      py::arg("x"), py::arg("y"), py::arg("argmax"), py::arg("kernel"), py::arg("stride"),
      py::arg("padding"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "max_pool_dgrad",
      [](Object gy_, Object argmax_, Object gx_, Pair kernel, Pair stride, Pair padding,
         std::string algorithm, std::string level, int threads, bool accumulate) {
        const char* f = "max_pool_dgrad";
        Array gy(f, "gy", gy_), argmax(f, "argmax", argmax_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        auto p = pool_params(kernel, stride, padding, accumulate);
        run([&] { return pyi_max_pool_dgrad(gy, argmax, gx, &p, &o.c); });
      },
      py::arg("gy"), py::arg("argmax"), py::arg("gx"), py::arg("kernel"), py::arg("stride"),
      py::arg("padding"), algorithm_arg, level_arg, threads_arg, py::kw_only(),
      py::arg("accumulate") = false);

  m.def(
      "avg_pool_fprop",
      [](Object x_, Object y_, Pair kernel, Pair stride, Pair padding, bool count_include_pad,
         std::string algorithm, std::string level, int threads) {
        const char* f = "avg_pool_fprop";
        Array x(f, "x", x_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        auto p = pool_params(kernel, stride, padding, false);
        run([&] { return pyi_avg_pool_fprop(x, y, count_include_pad, &p, &o.c); });
      },
      py::arg("x"), py::arg("y"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("count_include_pad"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "avg_pool_dgrad",
      [](Object gy_, Object gx_, Pair kernel, Pair stride, Pair padding, bool count_include_pad,
         std::string algorithm, std::string level, int threads, bool accumulate) {
        const char* f = "avg_pool_dgrad";
        Array gy(f, "gy", gy_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        auto p = pool_params(kernel, stride, padding, accumulate);
        run([&] { return pyi_avg_pool_dgrad(gy, gx, count_include_pad, &p, &o.c); });
      },
      py::arg("gy"), py::arg("gx"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("count_include_pad"), algorithm_arg, level_arg, threads_arg, py::kw_only(),
      py::arg("accumulate") = false);

  m.def(
      "lrn_fprop",
      [](Object x_, Object y_, int64_t size, float alpha, float beta, float k,
         std::string algorithm, std::string level, int threads) {
        const char* f = "lrn_fprop";
        Array x(f, "x", x_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_lrn_fprop(x, y, size, alpha, beta, k, &o.c); });
      },
      py::arg("x"), py::arg("y"), py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"),
      algorithm_arg, level_arg, threads_arg);

  m.def(
      "lrn_dgrad",
      [](Object gy_, Object x_, Object gx_, int64_t size, float alpha, float beta, float k,
         std::string algorithm, std::string level, int threads) {
        const char* f = "lrn_dgrad";
        Array gy(f, "gy", gy_), x(f, "x", x_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_lrn_dgrad(gy, x, gx, size, alpha, beta, k, &o.c); });
      },
      py::arg("gy"), py::arg("x"), py::arg("gx"), py::arg("size"), py::arg("alpha"),
      py::arg("beta"), py::arg("k"), algorithm_arg, level_arg, threads_arg);

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

void register_matrices(py::module_& m) {
  const auto algorithm_arg = py::arg("algorithm") = "auto";
  const auto level_arg = py::arg("level") = "";
  const auto threads_arg = py::arg("threads") = 0;

  m.def(
      "linear_fprop",
      [](Object x_, Object w_, Object b_, Object y_, bool relu, std::string algorithm,
         std::string level, int threads) {
        const char* f = "linear_fprop";
        Array x(f, "x", x_), w(f, "w", w_), b(f, "b", b_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_linear_fprop(x, w, b, y, relu, &o.c); });
      },
      py::arg("x"), py::arg("w"), py::arg("b"), py::arg("y"), py::arg("relu"), algorithm_arg,
      level_arg, threads_arg);

  m.def(
      "linear_dgrad",
      [](Object gy_, Object w_, Object y_, Object gx_, std::string algorithm, std::string level,
         int threads) {
        const char* f = "linear_dgrad";
        Array gy(f, "gy", gy_), w(f, "w", w_), y(f, "y", y_), gx(f, "gx", gx_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_linear_dgrad(gy, w, y, gx, &o.c); });
      },
      py::arg("gy"), py::arg("w"), py::arg("y"), py::arg("gx"), algorithm_arg, level_arg,
      threads_arg);

  m.def(
      "linear_wgrad",
      [](Object x_, Object gy_, Object y_, Object gw_, Object gb_, std::string algorithm,
         std::string level, int threads) {
        const char* f = "linear_wgrad";
        Array x(f, "x", x_), gy(f, "gy", gy_), y(f, "y", y_), gw(f, "gw", gw_, true),
            gb(f, "gb", gb_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_linear_wgrad(x, gy, y, gw, gb, &o.c); });
      },
      py::arg("x"), py::arg("gy"), py::arg("y"), py::arg("gw"), py::arg("gb"), algorithm_arg,
      level_arg, threads_arg);

  m.def(
      "softmax_cross_entropy_fprop",
      [](Object logits_, Object labels_, Object loss_, Object probs_, std::string algorithm,
         std::string level, int threads) {
        const char* f = "softmax_cross_entropy_fprop";
        Array logits(f, "logits", logits_), labels(f, "labels", labels_),
            loss(f, "loss", loss_, true), probs(f, "probs", probs_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_softmax_cross_entropy_fprop(logits, labels, loss, probs, &o.c); });
      },
      py::arg("logits"), py::arg("labels"), py::arg("loss"), py::arg("probs"), algorithm_arg,
      level_arg, threads_arg);

  m.def(
      "softmax_cross_entropy_dgrad",
      [](Object probs_, Object labels_, Object g_, Object glogits_, std::string algorithm,
         std::string level, int threads) {
        const char* f = "softmax_cross_entropy_dgrad";
        Array probs(f, "probs", probs_), labels(f, "labels", labels_), g(f, "g", g_),
            glogits(f, "glogits", glogits_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_softmax_cross_entropy_dgrad(probs, labels, g, glogits, &o.c); });
      },
      py::arg("probs"), py::arg("labels"), py::arg("g"), py::arg("glogits"), algorithm_arg,
      level_arg, threads_arg);

  m.def(
      "batch_norm_fprop",
      [](Object x_, Object gamma_, Object beta_, Object y_, Object mean_, Object var_, float eps,
         bool relu, std::string algorithm, std::string level, int threads) {
        const char* f = "batch_norm_fprop";
        Array x(f, "x", x_), gamma(f, "gamma", gamma_), beta(f, "beta", beta_), y(f, "y", y_, true),
            mean(f, "mean", mean_, true), var(f, "var", var_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_batch_norm_fprop(x, gamma, beta, y, mean, var, eps, relu, &o.c); });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("y"), py::arg("mean"),
      py::arg("var"), py::arg("eps"), py::arg("relu"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "batch_norm_inference",
      [](Object x_, Object gamma_, Object beta_, Object mean_, Object var_, Object y_, float eps,
         bool relu, std::string algorithm, std::string level, int threads) {
        const char* f = "batch_norm_inference";
        Array x(f, "x", x_), gamma(f, "gamma", gamma_), beta(f, "beta", beta_),
            mean(f, "mean", mean_), var(f, "var", var_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        run([&] {
          return pyi_batch_norm_inference(x, gamma, beta, mean, var, y, eps, relu, &o.c);
        });
      },
      py::arg("x"), py::arg("gamma"), py::arg("beta"), py::arg("mean"), py::arg("var"),
      py::arg("y"), py::arg("eps"), py::arg("relu"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "batch_norm_dgrad",
      [](Object gy_, Object x_, Object gamma_, Object mean_, Object var_, Object y_, Object gx_,
         Object ggamma_, Object gbeta_, float eps, std::string algorithm, std::string level,
         int threads) {
        const char* f = "batch_norm_dgrad";
        Array gy(f, "gy", gy_), x(f, "x", x_), gamma(f, "gamma", gamma_), mean(f, "mean", mean_),
            var(f, "var", var_), y(f, "y", y_), gx(f, "gx", gx_, true),
            ggamma(f, "ggamma", ggamma_, true), gbeta(f, "gbeta", gbeta_, true);
        Options o(algorithm, level, threads);
        run([&] {
          return pyi_batch_norm_dgrad(gy, x, gamma, mean, var, y, gx, ggamma, gbeta, eps, &o.c);
        });
      },
      py::arg("gy"), py::arg("x"), py::arg("gamma"), py::arg("mean"), py::arg("var"), py::arg("y"),
      py::arg("gx"), py::arg("ggamma"), py::arg("gbeta"), py::arg("eps"), algorithm_arg, level_arg,
      threads_arg);

  m.def(
      "sgd",
      [](Object w_, Object v_, Object g_, float rate, float momentum, float decay,
         std::string algorithm, std::string level, int threads) {
        const char* f = "sgd";
        Array w(f, "w", w_, true), v(f, "v", v_, true), g(f, "g", g_);
        Options o(algorithm, level, threads);
        run([&] { return pyi_sgd(w, v, g, rate, momentum, decay, &o.c); });
      },
      py::arg("w"), py::arg("v"), py::arg("g"), py::arg("rate"), py::arg("momentum"),
      py::arg("decay"), algorithm_arg, level_arg, threads_arg);

  m.def(
      "dropout",
      [](Object x_, Object y_, double p, uint64_t seed, uint32_t step, uint32_t layer,
         uint32_t first_sample, std::string algorithm, std::string level, int threads) {
        const char* f = "dropout";
        Array x(f, "x", x_), y(f, "y", y_, true);
        Options o(algorithm, level, threads);
        run([&] { return pyi_dropout(x, y, p, seed, step, layer, first_sample, &o.c); });
      },
      py::arg("x"), py::arg("y"), py::arg("p"), py::arg("seed"), py::arg("step"), py::arg("layer"),
      py::arg("first_sample"), algorithm_arg, level_arg, threads_arg);
}

}  // namespace

void register_ops(py::module_& m) {
  register_maps(m);
  register_matrices(m);
}

}  // namespace pyi_bind
