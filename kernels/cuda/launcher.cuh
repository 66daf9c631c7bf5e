// What the CUDA runtime needs to find a kernel by the name its plans know it by. Not for NVRTC.
#pragma once
#include "launch.h"

struct CudaEntry {
  const char* name;
  const void* address;
};
#define PYI_ADDRESS(NAME) {#NAME, (const void*)NAME},

// One table a .cu file, ended by a null name; launcher.cu reads them.
extern "C" {
extern const CudaEntry pyi_cuda_conv_entries[], pyi_cuda_conv_lrn_pool_mma_entries[],
    pyi_cuda_conv_mma_entries[], pyi_cuda_depthwise_entries[], pyi_cuda_elementary_entries[],
    pyi_cuda_inception_mma_entries[], pyi_cuda_lrn_pool_entries[], pyi_cuda_mma_sm75_entries[],
    pyi_cuda_pool_entries[], pyi_cuda_reduce_conv_entries[], pyi_cuda_reduce_conv_mma_entries[];
}
#define PYI_ENTRY_TABLE(FILE, ENTRIES) \
  const CudaEntry pyi_cuda_##FILE##_entries[] = {ENTRIES(PYI_ADDRESS){nullptr, nullptr}};
