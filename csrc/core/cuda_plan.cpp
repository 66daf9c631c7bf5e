// Every plan of the CUDA kernels by name: launches as data, for whoever executes them.
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "core.h"
#include "cuda/conv_lrn_pool_mma_plan.h"
#include "cuda/depthwise_plan.h"
#include "cuda/elementary_plan.h"
#include "cuda/inception_plan.h"
#include "cuda/lrn_pool_plan.h"
#include "cuda/reduce_conv_plan.h"

#ifdef PYI_CUDA  // launcher.cu is part of this build
extern "C" {
int pyi_cuda_run_launches(const CudaLaunch* launches, int count, void* stream);
int pyi_cuda_capture(const CudaLaunch* launches, int count, int dependent, void** graph);
int pyi_cuda_replay(void* graph, void* stream);
void pyi_cuda_forget(void* graph);
int pyi_cuda_limits(int* shared_limit, int* multiprocessors);
int pyi_cuda_sm(int* sm);
const char* pyi_cuda_error_text(int error);
}
#endif

namespace {

// ---- the plans ---------------------------------------------------------------------------------
// Called while the plan's records live.
using Use = std::function<void(const CudaLaunch* launches, int count, int64_t workspace_bytes)>;

struct Row {
  const char* name;
  int64_t record_bytes;
  CudaStatus (*plan)(const void* record, const Use& use);
};

#define PLAN(NAME, PLAN_TYPE, ARGS, CALL)                                \
  Row {                                                                  \
    NAME, sizeof(ARGS), [](const void* record, const Use& use) {         \
      ARGS asked;                                                        \
      std::memcpy(static_cast<void*>(&asked), record, sizeof asked);     \
      PLAN_TYPE plan;                                                    \
      const CudaStatus status = CALL;                                    \
      if (!status) use(plan.launches, plan.count, plan.workspace_bytes); \
      return status;                                                     \
    }                                                                    \
  }
// A plan with a workspace, and its dry run.
#define SIZED(NAME, PLAN_TYPE, ARGS, FUNCTION, ...)                      \
  PLAN(NAME, PLAN_TYPE, ARGS, FUNCTION(asked, __VA_ARGS__ false, plan)), \
      PLAN(NAME "_size", PLAN_TYPE, ARGS, FUNCTION(asked, __VA_ARGS__ true, plan))
#define TRAINING BatchNormPass::kTraining,
#define FILTERS DepthwisePass::kWgrad,
#define BACKWARD BatchNormPass::kBackward,

const Row kPlans[] = {
    PLAN("conv_fprop", ConvPlan, ConvCudaArgs, plan_conv_fprop(asked, plan)),
    PLAN("conv_dgrad", ConvPlan, ConvCudaArgs, plan_conv_dgrad(asked, plan)),
    SIZED("conv_wgrad", ConvPlan, ConvCudaArgs, plan_conv_wgrad, ),
    PLAN("reduce_conv_fprop", ReduceConvPlan, ReduceConvCudaArgs,
         plan_reduce_conv_fprop(asked, plan)),
    SIZED("reduce_conv_backward", ReduceConvPlan, ReduceConvCudaArgs, plan_reduce_conv_backward, ),
    PLAN("depthwise_fprop", DepthwisePlan, DepthwiseCudaArgs,
         plan_depthwise(asked, DepthwisePass::kFprop, false, plan)),
    PLAN("depthwise_dgrad", DepthwisePlan, DepthwiseCudaArgs,
         plan_depthwise(asked, DepthwisePass::kDgrad, false, plan)),
    SIZED("depthwise_wgrad", DepthwisePlan, DepthwiseCudaArgs, plan_depthwise, FILTERS),
    PLAN("pool_fprop", PoolPlan, PoolCudaArgs, plan_pool(asked, false, plan)),
    PLAN("pool_dgrad", PoolPlan, PoolCudaArgs, plan_pool(asked, true, plan)),
    PLAN("lrn_pool", LrnPoolPlan, LrnPoolCudaArgs, plan_lrn_pool(asked, plan)),
    PLAN("lrn_fprop", LrnPlan, LrnCudaArgs, plan_lrn(asked, false, plan)),
    PLAN("lrn_dgrad", LrnPlan, LrnCudaArgs, plan_lrn(asked, true, plan)),
    PLAN("softmax_fprop", SoftmaxPlan, SoftmaxCudaArgs, plan_softmax(asked, false, plan)),
    PLAN("softmax_backward", SoftmaxPlan, SoftmaxCudaArgs, plan_softmax(asked, true, plan)),
    SIZED("batch_norm_fprop", BatchNormPlan, BatchNormCudaArgs, plan_batch_norm, TRAINING),
    PLAN("batch_norm_inference", BatchNormPlan, BatchNormCudaArgs,
         plan_batch_norm(asked, BatchNormPass::kInference, false, plan)),
    SIZED("batch_norm_dgrad", BatchNormPlan, BatchNormCudaArgs, plan_batch_norm, BACKWARD),
    PLAN("dropout", DropoutPlan, DropoutCudaArgs, plan_dropout(asked, plan)),
    PLAN("add_scaled_fprop", AddScaledPlan, AddScaledCudaArgs, plan_add_scaled(asked, false, plan)),
    PLAN("add_scaled_dgrad", AddScaledPlan, AddScaledCudaArgs, plan_add_scaled(asked, true, plan)),
    PLAN("cast", CastPlan, CastCudaArgs, plan_cast(asked, plan)),
    SIZED("check_finite", FinitePlan, FiniteCudaArgs, plan_check_finite, ),
    PLAN("sgd", SgdPlan, SgdCudaArgs, plan_sgd(asked, plan)),
    PLAN("layout", LayoutPlan, LayoutCudaArgs, plan_layout(asked, plan)),
    PLAN("reduce_conv_mma", ReduceConvMmaPlan, ReduceConvMmaArgs,
         plan_reduce_conv_mma(asked, plan)),
    PLAN("conv_mma", ConvMmaPlan, ConvMmaArgs, plan_conv_mma(asked, plan)),
    PLAN("conv_lrn_pool_mma", ConvLrnPoolMmaPlan, ConvLrnPoolMmaArgs,
         plan_conv_lrn_pool_mma(asked, plan)),
    SIZED("conv_wgrad_mma", ConvWgradMmaPlan, ConvWgradMmaArgs, plan_conv_wgrad_mma, ),
    PLAN("mask_mma", MaskMmaPlan, MaskMmaArgs, plan_mask_mma(asked, plan)),
    PLAN("flip_filters_mma", FlipFiltersMmaPlan, FlipFiltersMmaArgs,
         plan_flip_filters_mma(asked, plan)),
    PLAN("pad_maps_mma", PadMapsMmaPlan, PadMapsMmaArgs, plan_pad_maps_mma(asked, plan)),
    PLAN("inception_mma", InceptionMmaPlan, InceptionMmaArgs, plan_inception_mma(asked, plan)),
    SIZED("inception_fprop", InceptionPlan, InceptionCudaArgs, plan_inception_fprop, ),
    SIZED("inception_backward", InceptionPlan, InceptionCudaArgs, plan_inception_backward, ),
};

// ---- the sources -------------------------------------------------------------------------------
struct Source {
  const char* name;
  const char* const* entries;
  int count;
};
#define SOURCE(NAME, ENTRIES) {NAME, ENTRIES, sizeof ENTRIES / sizeof *ENTRIES}
const Source kSources[] = {
    SOURCE("conv.cu", kConvEntries),
    SOURCE("conv_lrn_pool_mma.cu", kConvLrnPoolMmaEntries),
    SOURCE("conv_mma.cu", kConvMmaEntries),
    SOURCE("depthwise.cu", kDepthwiseEntries),
    SOURCE("elementary.cu", kElementaryEntries),
    SOURCE("inception_mma.cu", kInceptionMmaEntries),
    SOURCE("lrn_pool.cu", kLrnPoolEntries),
    SOURCE("mma_sm75.cu", kMmaSm75Entries),
    SOURCE("pool.cu", kPoolEntries),
    SOURCE("reduce_conv.cu", kReduceConvEntries),
    SOURCE("reduce_conv_mma.cu", kReduceConvMmaEntries),
};

const char* source_of(const char* entry) {
  for (const Source& source : kSources)
    for (int i = 0; i < source.count; i++)
      if (source.entries[i] == entry) return source.name;
  return "";
}

const Row& row_of(const char* f, const char* name, int64_t record_bytes) {
  for (const Row& row : kPlans)
    if (std::strcmp(row.name, name) == 0) {
      if (record_bytes != row.record_bytes)
        pyi::fail(PYI_INVALID_VALUE, f, ": ", name, ": record has ", record_bytes,
                  " bytes, expected ", row.record_bytes);
      return row;
    }
  pyi::fail(PYI_INVALID_VALUE, f, ": plan is \"", name, "\", expected one of pyi_cuda_plans()");
}

void fill(const char* f, const char* name, const void* record, int64_t record_bytes,
          const Use& use) {
  const CudaStatus status = row_of(f, name, record_bytes).plan(record, use);
  if (status) pyi::fail(PYI_UNSUPPORTED, name, ": ", status.text);
}

#ifdef PYI_CUDA
void check_cuda(const char* f, int error) {
  if (error) pyi::fail(PYI_UNSUPPORTED, f, ": CUDA says: ", pyi_cuda_error_text(error));
}
#else
[[noreturn]] void no_cuda(const char* f) {
  pyi::fail(PYI_UNSUPPORTED, f,
            ": this library was built without the CUDA kernels; build it with nvcc "
            "(PYINCEPTION_CUDA=ON)");
}
#endif

}  // namespace

extern "C" int pyi_cuda_plans(int index, pyi_cuda_plan_info* info) {
  const int count = sizeof kPlans / sizeof *kPlans;
  if (index < 0 || index >= count) return 0;
  *info = {kPlans[index].name, kPlans[index].record_bytes};
  return 1;
}

extern "C" pyi_status pyi_cuda_plan(const char* plan, const void* record, int64_t record_bytes,
                                    pyi_cuda_visitor visit, void* context,
                                    int64_t* workspace_bytes) {
  return pyi::guarded([&] {
    fill("cuda_plan", plan, record, record_bytes,
         [&](const CudaLaunch* launches, int count, int64_t bytes) {
           *workspace_bytes = bytes;
           for (int i = 0; i < count; i++) {
             const CudaLaunch& l = launches[i];
             const pyi_cuda_launch launch = {source_of(l.entry),
                                             l.entry,
                                             {l.grid_x, l.grid_y, l.grid_z},
                                             l.block,
                                             l.shared_bytes,
                                             l.params,
                                             l.params_bytes,
                                             l.clocks};
             visit(context, &launch);
           }
         });
  });
}

extern "C" pyi_status pyi_cuda_run(const char* plan, const void* record, int64_t record_bytes,
                                   void* stream) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    fill("cuda_run", plan, record, record_bytes,
         [&](const CudaLaunch* launches, int count, int64_t) {
           check_cuda(plan, pyi_cuda_run_launches(launches, count, stream));
         });
#else
    (void)plan, (void)record, (void)record_bytes, (void)stream;
    no_cuda("cuda_run");
#endif
  });
}

// ---- lists --------------------------------------------------------------------------------------
struct pyi_cuda_list {
  std::vector<CudaLaunch> launches;
  std::vector<std::unique_ptr<char[]>> params;  // what they point to
  void* graph = nullptr;

  pyi_cuda_list() = default;
  pyi_cuda_list(const pyi_cuda_list&) = delete;
  ~pyi_cuda_list() { forget(); }

  void forget() {
#ifdef PYI_CUDA
    if (graph) pyi_cuda_forget(graph);
#endif
    graph = nullptr;
  }
};

extern "C" pyi_cuda_list* pyi_cuda_list_create(void) { return new (std::nothrow) pyi_cuda_list; }

extern "C" void pyi_cuda_list_destroy(pyi_cuda_list* list) { delete list; }

extern "C" int64_t pyi_cuda_list_size(const pyi_cuda_list* list) {
  return static_cast<int64_t>(list->launches.size());
}

extern "C" pyi_status pyi_cuda_list_add(pyi_cuda_list* list, const char* plan, const void* record,
                                        int64_t record_bytes) {
  return pyi::guarded([&] {
    fill("cuda_list_add", plan, record, record_bytes,
         [&](const CudaLaunch* launches, int count, int64_t) {
           for (int i = 0; i < count; i++) {
             CudaLaunch launch = launches[i];
             // new char[] is aligned for any record
             list->params.emplace_back(new char[launch.params_bytes]);
             std::memcpy(list->params.back().get(), launch.params, launch.params_bytes);
             launch.params = list->params.back().get();
             list->launches.push_back(launch);
           }
         });
    list->forget();  // it has not got these
  });
}

extern "C" pyi_status pyi_cuda_list_run(pyi_cuda_list* list, void* stream) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    const int count = static_cast<int>(list->launches.size());
    check_cuda("cuda_list_run", pyi_cuda_run_launches(list->launches.data(), count, stream));
#else
    (void)list, (void)stream;
    no_cuda("cuda_list_run");
#endif
  });
}

extern "C" pyi_status pyi_cuda_list_capture(pyi_cuda_list* list, int dependent) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    list->forget();
    const int count = static_cast<int>(list->launches.size());
    check_cuda("cuda_list_capture",
               pyi_cuda_capture(list->launches.data(), count, dependent, &list->graph));
#else
    (void)list, (void)dependent;
    no_cuda("cuda_list_capture");
#endif
  });
}

extern "C" pyi_status pyi_cuda_list_replay(pyi_cuda_list* list, void* stream) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    if (!list->graph) pyi::fail(PYI_INVALID_VALUE, "cuda_list_replay: the list is not captured");
    check_cuda("cuda_list_replay", pyi_cuda_replay(list->graph, stream));
#else
    (void)list, (void)stream;
    no_cuda("cuda_list_replay");
#endif
  });
}

extern "C" int pyi_cuda_built(void) {
#ifdef PYI_CUDA
  return 1;
#else
  return 0;
#endif
}

extern "C" pyi_status pyi_cuda_device(int32_t* shared_limit, int32_t* multiprocessors) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    check_cuda("cuda_device", pyi_cuda_limits(shared_limit, multiprocessors));
#else
    (void)shared_limit, (void)multiprocessors;
    no_cuda("cuda_device");
#endif
  });
}

extern "C" pyi_status pyi_cuda_capability(int32_t* sm) {
  return pyi::guarded([&] {
#ifdef PYI_CUDA
    check_cuda("cuda_capability", pyi_cuda_sm(sm));
#else
    (void)sm;
    no_cuda("cuda_capability");
#endif
  });
}

extern "C" const char* pyi_cuda_architectures(void) {
#ifdef PYI_CUDA_ARCHITECTURES
  return PYI_CUDA_ARCHITECTURES;
#else
  return "";
#endif
}
