// From InceptionCudaArgs to launches: a module forward and backward, on CUDA cores or on tensor
// cores. Plain C++, no CUDA header.
//
// Backward on either rung: the gradients of r3 and r5 (dgrad of the 3x3 and 5x5), then gx in two
// writes, the pool's gather of gyp wp and one GEMM with stacked K, [gy1 | gr3 | gr5] x [w1; wr3;
// wr5], that adds to it; then six filter gradients. Lost: gyp as a fourth part of the stack (which
// of nine windows a pixel's gradient comes from differs by channel of x, so the gather must follow
// wp); the gather in the GEMM's epilogue (nine loads of argmax and gradient a value, in a kernel
// that has no register left, to save one write and one read of gx).
#pragma once
#include "inception_cores_plan.h"
#include "inception_tensor_plan.h"

// Set dry for the size alone: pointers may be null, and plan.workspace_bytes is the answer.
inline CudaStatus plan_inception_fprop(const InceptionCudaArgs& asked, bool dry,
                                       InceptionPlan& plan) {
  InceptionModule m(asked, false, dry, plan);
  if (!m.why && m.a.tensor_cores)
    fprop_on_tensor_cores(m);
  else if (!m.why)
    fprop_on_cuda_cores(m);
  return m.finish(dry);
}

inline CudaStatus plan_inception_backward(const InceptionCudaArgs& asked, bool dry,
                                          InceptionPlan& plan) {
  InceptionModule m(asked, true, dry, plan);
  if (!m.why && m.a.tensor_cores)
    backward_on_tensor_cores(m);
  else if (!m.why)
    backward_on_cuda_cores(m);
  return m.finish(dry);
}
