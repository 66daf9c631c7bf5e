// Bindings of the CUDA kernels' plans: launches as tuples, records as bytes.
#include "bind.h"

namespace pyi_bind {

namespace {

// Launches of many plans, owned.
class CudaList {
 public:
  CudaList() : list_(pyi_cuda_list_create()) {
    if (list_ == nullptr) throw std::bad_alloc();
  }
  ~CudaList() { pyi_cuda_list_destroy(list_); }
  CudaList(const CudaList&) = delete;
  CudaList& operator=(const CudaList&) = delete;

  void add(const std::string& plan, const py::bytes& record) {
    const std::string raw = record;
    raise_for(pyi_cuda_list_add(list_, plan.c_str(), raw.data(), static_cast<int64_t>(raw.size())));
  }
  int64_t size() const { return pyi_cuda_list_size(list_); }
  void run_on(uintptr_t stream) {
    run([&] { return pyi_cuda_list_run(list_, reinterpret_cast<void*>(stream)); });
  }
  void capture(bool dependent) {
    run([&] { return pyi_cuda_list_capture(list_, dependent); });
  }
  void replay(uintptr_t stream) {
    run([&] { return pyi_cuda_list_replay(list_, reinterpret_cast<void*>(stream)); });
  }

 private:
  pyi_cuda_list* list_;
};

}  // namespace

void register_cuda_plan(py::module_& m) {
  m.def("cuda_plans", [] {
    py::dict bytes_of;
    pyi_cuda_plan_info info;
    for (int i = 0; pyi_cuda_plans(i, &info); ++i) bytes_of[info.name] = info.record_bytes;
    return bytes_of;
  });
  // (source, entry, grid, block, shared bytes, record, clocks) of each launch, and the bytes of
  // workspace
  m.def(
      "cuda_plan",
      [](const std::string& plan, py::bytes record) {
        const std::string raw = record;
        py::list launches;
        int64_t workspace_bytes = 0;
        const auto append = [](void* list, const pyi_cuda_launch* l) {
          static_cast<py::list*>(list)->append(py::make_tuple(
              l->source, l->entry, py::make_tuple(l->grid[0], l->grid[1], l->grid[2]), l->block,
              l->shared_bytes,
              py::bytes(static_cast<const char*>(l->params), static_cast<size_t>(l->param_bytes)),
              l->clocks));
        };
        raise_for(pyi_cuda_plan(plan.c_str(), raw.data(), static_cast<int64_t>(raw.size()), append,
                                &launches, &workspace_bytes));
        return py::make_tuple(launches, workspace_bytes);
      },
      py::arg("plan"), py::arg("record"));
  m.def(
      "cuda_run",
      [](const std::string& plan, py::bytes record, uintptr_t stream) {
        const std::string raw = record;
        run([&] {
          return pyi_cuda_run(plan.c_str(), raw.data(), static_cast<int64_t>(raw.size()),
                              reinterpret_cast<void*>(stream));
        });
      },
      py::arg("plan"), py::arg("record"), py::arg("stream") = 0);
  py::class_<CudaList>(m, "CudaList")
      .def(py::init<>())
      .def("add", &CudaList::add, py::arg("plan"), py::arg("record"))
      .def("__len__", &CudaList::size)
      .def("run", &CudaList::run_on, py::arg("stream") = 0)
      .def("capture", &CudaList::capture, py::arg("dependent") = false)
      .def("replay", &CudaList::replay, py::arg("stream") = 0);
  m.def("cuda_built", [] { return pyi_cuda_built() != 0; });
  m.def("cuda_architectures", [] { return std::string(pyi_cuda_architectures()); });
  m.def("cuda_capability", [] {
    int32_t sm = 0;
    raise_for(pyi_cuda_capability(&sm));
    return sm;
  });
  // (shared memory a block may have, multiprocessors) of the current CUDA device
  m.def("cuda_device", [] {
    int32_t shared_limit = 0, multiprocessors = 0;
    raise_for(pyi_cuda_device(&shared_limit, &multiprocessors));
    return py::make_tuple(shared_limit, multiprocessors);
  });
}

}  // namespace pyi_bind
