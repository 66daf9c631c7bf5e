// Bindings of the CUDA kernels' plans: launches as tuples, records as bytes.
#include "bind.h"

namespace pyi_bind {

void register_cuda_plan(py::module_& m) {
  // (entry, grid, block, shared bytes, record) of each launch, and the bytes of workspace
  m.def(
      "cuda_plan_reduce_conv",
      [](py::bytes args, int direction) {
        const std::string record = args;
        py::list launches;
        int64_t workspace_bytes = 0;
        const auto append = [](void* list, const pyi_cuda_launch* l) {
          static_cast<py::list*>(list)->append(py::make_tuple(
              l->entry, py::make_tuple(l->grid[0], l->grid[1], l->grid[2]), l->block,
              l->shared_bytes,
              py::bytes(static_cast<const char*>(l->params), static_cast<size_t>(l->param_bytes))));
        };
        raise_for(pyi_cuda_plan_reduce_conv(record.data(), static_cast<int64_t>(record.size()),
                                            direction, append, &launches, &workspace_bytes));
        return py::make_tuple(launches, workspace_bytes);
      },
      py::arg("args"), py::arg("direction"));
}

}  // namespace pyi_bind
