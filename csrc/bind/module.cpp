// The extension module pyinception._C: registers only.
#include "bind.h"
#include "core.h"

namespace py = pybind11;
using pyi_bind::LaunchList;

namespace {

// `with record() as launches`: calls of this thread append to `launches` and run nothing.
struct Recorder {
  std::shared_ptr<LaunchList> list;
  LaunchList* outer = nullptr;
};

py::list kernels() {
  py::list rows;
  for (const pyi::ProgramRow& row : pyi::programs()) {
    for (const pyi::Level& level : pyi::levels()) {
      if (std::string(level.name) != row.level) continue;
      py::dict d;
      d["name"] = row.name, d["level"] = row.level;
      d["MR"] = level.mr, d["NR"] = level.nr(), d["VL"] = level.vl;
      d["wgrad_MR"] = level.wgrad_mr, d["wgrad_NR"] = level.wgrad_nv * level.vl;
      d["runs_here"] = pyi::runs_here(level);
      rows.append(d);
    }
  }
  return rows;
}

std::vector<std::string> usable_levels() {
  std::vector<std::string> names;
  for (const pyi::Level& level : pyi::levels()) {
    if (pyi::runs_here(level)) names.emplace_back(level.name);
  }
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Checked entry points of the compiled kernels; see csrc/core/pyinception.h.";
  py::class_<LaunchList, std::shared_ptr<LaunchList>>(m, "LaunchList")
      .def(py::init<>())
      .def("run", &LaunchList::run, py::arg("threads") = 0)
      .def("__len__", [](LaunchList& list) { return list.get()->launches.size(); });
  py::class_<Recorder>(m, "Recorder")
      .def("__enter__",
           [](Recorder& r) {
             r.outer = pyi_bind::recording();
             pyi_bind::recording() = r.list.get();
             return r.list;
           })
      .def("__exit__", [](Recorder& r, py::args) { pyi_bind::recording() = r.outer; });
  m.def("record", [] { return Recorder{std::make_shared<LaunchList>()}; });
  m.def("kernels", &kernels);
  m.def("host_level", [] { return std::string(pyi_host_level()); });
  m.def("levels", &usable_levels);
  m.def("default_threads", &pyi_default_threads);
  m.def("replace_program", [](std::string level, std::string name, int64_t address) {
    pyi::replace_program(level.c_str(), name.c_str(), reinterpret_cast<pyi::Program>(address));
  });
  pyi_bind::remember_main_thread();
  pyi_bind::register_conv(m);
  pyi_bind::register_ops(m);
}
