/* pyinception: convolution kernels for what an Inception module does. The public C interface.
 *
 * Arrays are DLTensors (DLPack) in host memory: float32, channels last, unit channel stride; the
 * strides of image, row and pixel are free, so a channel slice of a wider buffer is an ordinary
 * operand and concatenation is an address. Filters are (K, R, S, C), or a packed 1-D array.
 *
 * conv, reduce_conv and inception also take arrays that all lie in the memory of the current CUDA
 * device, filters contiguous: their launches go on options->stream, nothing is allocated and nobody
 * waits, so the stream may be one that is being captured.
 *
 * Every function checks all of its arguments before it writes anything, returns a pyi_status and
 * leaves a message that names function, argument, expected and actual (pyi_last_error, per thread).
 * NULL stands for an optional array. The functions are thread safe.
 */
#ifndef PYINCEPTION_H_
#define PYINCEPTION_H_

#include <stddef.h>
#include <stdint.h>

#define PYI_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* The DLPack ABI, for callers that do not include its header. */
#if !defined(DLPACK_MAJOR_VERSION) && !defined(DLPACK_VERSION)
#ifndef PYI_DLPACK
#define PYI_DLPACK
typedef struct {
  int32_t device_type; /* 1 = host memory, 2 = CUDA memory */
  int32_t device_id;
} DLDevice;
typedef struct {
  uint8_t code; /* 0 signed, 1 unsigned, 2 float */
  uint8_t bits;
  uint16_t lanes;
} DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides; /* in elements; NULL: compact, last axis fastest */
  uint64_t byte_offset;
} DLTensor;
#endif
#endif

typedef enum {
  PYI_OK = 0,
  PYI_INVALID_VALUE = 1, /* shape, stride, alignment, overlap, range */
  PYI_INVALID_TYPE = 2,  /* kind of array, dtype, device */
  PYI_UNSUPPORTED = 3,   /* valid, but nothing here runs it: the message says why */
  PYI_OUT_OF_MEMORY = 4,
  PYI_INTERRUPTED = 5, /* the interrupt callback asked to stop; outputs are undefined */
} pyi_status;

/* A list of launches: recorded once, run many times, by one call at a time. It refers to the arrays
 * it was recorded with. */
typedef struct pyi_launches pyi_launches;

typedef struct {
  const char* algorithm;  /* "auto", "direct", "winograd", "plain", "winograd_plain"; NULL: auto */
  const char* level;      /* "x86-64-v3", "x86-64-v4"; NULL or "": the host's best */
  int threads;            /* 0: affinity, cgroup quota and OMP_NUM_THREADS decide */
  pyi_launches* launches; /* not NULL: append here, run nothing */
  int (*interrupt)(void); /* polled by the calling thread about every 100 ms; nonzero stops */
  /* For arrays in CUDA memory: */
  void* stream;              /* cudaStream_t; NULL: the default stream */
  void* workspace;           /* CUDA memory, 16-byte aligned; in use until the stream is past it */
  int64_t workspace_bytes;   /* of the workspace */
  int64_t* workspace_needed; /* not NULL: write the bytes of workspace here, run nothing */
} pyi_options;

typedef struct {
  int64_t stride_h, stride_w, pad_h, pad_w;
  int64_t kernel_h, kernel_w; /* needed where w is packed, and for pools */
  int relu;                   /* fprop: y = max(y, 0) */
  int accumulate;             /* dgrad: gx += instead of gx = */
  int64_t reduced;            /* reduce_conv: Cr, needed where only packed filters could tell it */
} pyi_conv_params;

PYI_API const char* pyi_last_error(void);
PYI_API const char* pyi_host_level(void);
PYI_API int pyi_default_threads(void);

/* CRC-32 as zlib has it, from 0. */
PYI_API uint32_t pyi_crc32(const void* data, size_t bytes);

/* The tile programs linked in. index 0, 1, ...; returns 0 beyond the last. */
typedef struct {
  const char *name, *level;
  int64_t vl, mr, nr, wgrad_mr, wgrad_nr; /* tile sizes of the level, in floats and pixels */
  int runs_here;                          /* this CPU has the level's features */
} pyi_program_info;
PYI_API int pyi_program(int index, pyi_program_info* info);
/* Exchanges a program, for one compiled live: program(args, tile, scratch), all addresses. */
PYI_API pyi_status pyi_replace_program(const char* level, const char* name,
                                       void (*program)(int64_t, int64_t, int64_t));

PYI_API pyi_launches* pyi_launches_create(void);
PYI_API int64_t pyi_launches_size(const pyi_launches* launches);
PYI_API pyi_status pyi_launches_run(pyi_launches* launches, const pyi_options* options);
PYI_API void pyi_launches_destroy(pyi_launches* launches);
/* Images spread over threads. A slot is a list of launches recorded over an x and a y, and over
 * memory for what is between, that no other slot has; its x holds the images of a part. Every part
 * of x goes through a slot, whose list one thread runs by itself, into its part of y. x, y and the
 * slots' are C-contiguous; the extents of the first axis of x and y are those of the slots' times
 * the parts. At most as many threads as there are slots. */
typedef struct {
  pyi_launches* launches;
  const DLTensor *x, *y;
} pyi_slot;
PYI_API pyi_status pyi_launches_spread(const pyi_slot* slots, int slot_count, const DLTensor* x,
                                       const DLTensor* y, const pyi_options* options);

/* y = relu(conv(x, w) + b).   x (N,H,W,C)  w (K,R,S,C)  b (K)  y (N,P,Q,K) */
PYI_API pyi_status pyi_conv_fprop(const DLTensor* x, const DLTensor* w, const DLTensor* b,
                                  const DLTensor* y, const pyi_conv_params* params,
                                  const pyi_options* options);
/* gx (+)= conv_transpose(g, w), g = gy where y > 0, else 0 (y NULL: g = gy). */
PYI_API pyi_status pyi_conv_dgrad(const DLTensor* gy, const DLTensor* w, const DLTensor* y,
                                  const DLTensor* gx, const pyi_conv_params* params,
                                  const pyi_options* options);
/* gw = sum of g x, gb = sum of g (gb may be NULL). */
PYI_API pyi_status pyi_conv_wgrad(const DLTensor* x, const DLTensor* gy, const DLTensor* y,
                                  const DLTensor* gw, const DLTensor* gb,
                                  const pyi_conv_params* params, const pyi_options* options);

/* Each channel by itself: y[k] = relu(b[k] + sum of w[k] x[k / M]).   w (K,R,S,1)  K = C M
 * Arguments as above, but that w is never packed. */
PYI_API pyi_status pyi_depthwise_conv_fprop(const DLTensor* x, const DLTensor* w, const DLTensor* b,
                                            const DLTensor* y, const pyi_conv_params* params,
                                            const pyi_options* options);
PYI_API pyi_status pyi_depthwise_conv_dgrad(const DLTensor* gy, const DLTensor* w,
                                            const DLTensor* y, const DLTensor* gx,
                                            const pyi_conv_params* params,
                                            const pyi_options* options);
PYI_API pyi_status pyi_depthwise_conv_wgrad(const DLTensor* x, const DLTensor* gy,
                                            const DLTensor* y, const DLTensor* gw,
                                            const DLTensor* gb, const pyi_conv_params* params,
                                            const pyi_options* options);

/* y = a + scale b, with relu its ReLU; b NULL: y = relu(a). Maps, or matrices. */
PYI_API pyi_status pyi_add_scaled_fprop(const DLTensor* a, const DLTensor* b, const DLTensor* y,
                                        float scale, int relu, const pyi_options* options);
/* ga = g, gb = scale g, g = gy where y > 0 (y NULL: everywhere). ga, gb NULL: not wanted. */
PYI_API pyi_status pyi_add_scaled_dgrad(const DLTensor* gy, const DLTensor* y, const DLTensor* ga,
                                        const DLTensor* gb, float scale,
                                        const pyi_options* options);

/* v = momentum v + rate (g + decay w);  w = w - v, in place; vectors of one length. */
PYI_API pyi_status pyi_sgd(const DLTensor* w, const DLTensor* v, const DLTensor* g, float rate,
                           float momentum, float decay, const pyi_options* options);

/* r = relu(conv1x1(x, wr) + br);  y = relu(conv(r, w) + b), in one pass.
 * r NULL: the reduced map stays in cache; else it is written, for the backward. */
PYI_API pyi_status pyi_reduce_conv_fprop(const DLTensor* x, const DLTensor* wr, const DLTensor* br,
                                         const DLTensor* w, const DLTensor* b, const DLTensor* y,
                                         const DLTensor* r, const pyi_conv_params* params,
                                         const pyi_options* options);
/* All gradients of it from gy and the saved r, y. gx NULL: not wanted. */
PYI_API pyi_status pyi_reduce_conv_backward(const DLTensor* gy, const DLTensor* x,
                                            const DLTensor* wr, const DLTensor* w,
                                            const DLTensor* r, const DLTensor* y,
                                            const DLTensor* gx, const DLTensor* gwr,
                                            const DLTensor* gbr, const DLTensor* gw,
                                            const DLTensor* gb, const pyi_conv_params* params,
                                            const pyi_options* options);

/* Floats of a packed filter. direction: "fprop" or "dgrad". A packed filter of bfloat16 has twice
 * as many numbers: by Winograd twice these floats, else twice those of "direct" for (C + 1) / 2. */
PYI_API pyi_status pyi_packed_size(int64_t K, int64_t R, int64_t S, int64_t C,
                                   const char* direction, const pyi_options* options,
                                   int64_t* floats);
PYI_API pyi_status pyi_pack(const DLTensor* w, const DLTensor* packed, const char* direction,
                            const pyi_options* options);

/* GoogLeNet's module, y = [1x1 | 3x3 | 5x5 | pool proj] along channels, ReLU everywhere.
 * weights: w1 b1 wr3 br3 w3 b3 wr5 br5 w5 b5 wp bp; w5 is 5x5, or 3x3 as in some published weights.
 * saved: r3, r5, pooled, argmax (uint8) or NULL. */
PYI_API pyi_status pyi_inception_fprop(const DLTensor* x, const DLTensor* const weights[12],
                                       const DLTensor* y, const DLTensor* const saved[4],
                                       const pyi_options* options);
/* grads: in the order of weights. gx NULL: not wanted. */
PYI_API pyi_status pyi_inception_backward(const DLTensor* gy, const DLTensor* x,
                                          const DLTensor* const weights[12], const DLTensor* y,
                                          const DLTensor* const saved[4], const DLTensor* gx,
                                          const DLTensor* const grads[12],
                                          const pyi_options* options);

/* Max pool: windows clipped to the image, first maximum wins, NaN wins; argmax (uint8, tap r S + s)
 * may be NULL. Average pool: the divisor counts padded cells up to H + pad, or valid cells only. */
PYI_API pyi_status pyi_max_pool_fprop(const DLTensor* x, const DLTensor* y, const DLTensor* argmax,
                                      const pyi_conv_params* params, const pyi_options* options);
PYI_API pyi_status pyi_max_pool_dgrad(const DLTensor* gy, const DLTensor* argmax,
                                      const DLTensor* gx, const pyi_conv_params* params,
                                      const pyi_options* options);
PYI_API pyi_status pyi_avg_pool_fprop(const DLTensor* x, const DLTensor* y, int count_include_pad,
                                      const pyi_conv_params* params, const pyi_options* options);
PYI_API pyi_status pyi_avg_pool_dgrad(const DLTensor* gy, const DLTensor* gx, int count_include_pad,
                                      const pyi_conv_params* params, const pyi_options* options);

/* y = x (k + alpha / size sum of x^2 over `size` channels)^-beta. */
PYI_API pyi_status pyi_lrn_fprop(const DLTensor* x, const DLTensor* y, int64_t size, float alpha,
                                 float beta, float k, const pyi_options* options);
PYI_API pyi_status pyi_lrn_dgrad(const DLTensor* gy, const DLTensor* x, const DLTensor* gx,
                                 int64_t size, float alpha, float beta, float k,
                                 const pyi_options* options);

/* y = relu(x w^T + b).   x (N,C)  w (K,C)  b (K)  y (N,K) */
PYI_API pyi_status pyi_linear_fprop(const DLTensor* x, const DLTensor* w, const DLTensor* b,
                                    const DLTensor* y, int relu, const pyi_options* options);
PYI_API pyi_status pyi_linear_dgrad(const DLTensor* gy, const DLTensor* w, const DLTensor* y,
                                    const DLTensor* gx, const pyi_options* options);
PYI_API pyi_status pyi_linear_wgrad(const DLTensor* x, const DLTensor* gy, const DLTensor* y,
                                    const DLTensor* gw, const DLTensor* gb,
                                    const pyi_options* options);

/* loss[n] = -log softmax(logits[n])[labels[n]], probs = softmax(logits). labels int64 (N). */
PYI_API pyi_status pyi_softmax_cross_entropy_fprop(const DLTensor* logits, const DLTensor* labels,
                                                   const DLTensor* loss, const DLTensor* probs,
                                                   const pyi_options* options);
/* glogits = g (probs - onehot(labels)).   g (N) */
PYI_API pyi_status pyi_softmax_cross_entropy_dgrad(const DLTensor* probs, const DLTensor* labels,
                                                   const DLTensor* g, const DLTensor* glogits,
                                                   const pyi_options* options);

/* Batch normalisation over all axes but the last, with its ReLU; mean and biased variance out. */
PYI_API pyi_status pyi_batch_norm_fprop(const DLTensor* x, const DLTensor* gamma,
                                        const DLTensor* beta, const DLTensor* y,
                                        const DLTensor* mean, const DLTensor* var, float eps,
                                        int relu, const pyi_options* options);
PYI_API pyi_status pyi_batch_norm_inference(const DLTensor* x, const DLTensor* gamma,
                                            const DLTensor* beta, const DLTensor* mean,
                                            const DLTensor* var, const DLTensor* y, float eps,
                                            int relu, const pyi_options* options);
PYI_API pyi_status pyi_batch_norm_dgrad(const DLTensor* gy, const DLTensor* x,
                                        const DLTensor* gamma, const DLTensor* mean,
                                        const DLTensor* var, const DLTensor* y, const DLTensor* gx,
                                        const DLTensor* ggamma, const DLTensor* gbeta, float eps,
                                        const pyi_options* options);

/* y = x keep / (1 - p); keep where the Philox4x32-10 word is at least round(p 2^32). */
PYI_API pyi_status pyi_dropout(const DLTensor* x, const DLTensor* y, double p, uint64_t seed,
                               uint32_t step, uint32_t layer, uint32_t first_sample,
                               const pyi_options* options);

/* The CUDA kernels' plans: from a record (kernels/cuda_args.h, cuda_mma_args.h) to launches.
 * Records hold device addresses, which are not followed. index 0, 1, ...; returns 0 beyond the
 * last. A name that ends in "_size" is the dry run of the plan before it: no launches, only the
 * workspace. */
typedef struct {
  const char* name;
  int64_t record_bytes;
} pyi_cuda_plan_info;
PYI_API int pyi_cuda_plans(int index, pyi_cuda_plan_info* info);

/* What a plan would launch; needs no CUDA. Each launch is shown to visit(), in order; its params
 * live during that call. PYI_UNSUPPORTED with the plan's sentence where it declines. */
typedef struct {
  const char *source, *entry; /* the file of kernels/cuda that has the kernel, its name there */
  uint32_t grid[3];
  uint32_t block, shared_bytes;
  const void* params;
  int64_t param_bytes;
  double clocks; /* of the busiest multiprocessor by the plan's model; 0: not modelled */
} pyi_cuda_launch;
typedef void (*pyi_cuda_visitor)(void* context, const pyi_cuda_launch* launch);
PYI_API pyi_status pyi_cuda_plan(const char* plan, const void* record, int64_t record_bytes,
                                 pyi_cuda_visitor visit, void* context, int64_t* workspace_bytes);

/* Launches it on a CUDA stream (cudaStream_t) of the current device; allocates nothing and waits
 * for nothing. PYI_UNSUPPORTED where this library was built without the kernels. */
PYI_API pyi_status pyi_cuda_run(const char* plan, const void* record, int64_t record_bytes,
                                void* stream);

/* Launches of many plans in a row, for a session. A list copies the records, so that they may go;
 * what they point to must stay. Adding needs no CUDA.
 *
 * capture() loads every kernel and sets its shared memory on the current device, then records the
 * list once on a stream of its own into a CUDA graph. run() launches one by one, replay() the whole
 * graph; both on the caller's stream, without waiting. With dependent != 0 a kernel may be set up
 * while the one before it still runs (programmatic dependent launch, sm_90 and later; without
 * effect on older devices). */
typedef struct pyi_cuda_list pyi_cuda_list;
PYI_API pyi_cuda_list* pyi_cuda_list_create(void);
PYI_API void pyi_cuda_list_destroy(pyi_cuda_list* list);
PYI_API pyi_status pyi_cuda_list_add(pyi_cuda_list* list, const char* plan, const void* record,
                                     int64_t record_bytes);
PYI_API int64_t pyi_cuda_list_size(const pyi_cuda_list* list);
PYI_API pyi_status pyi_cuda_list_run(pyi_cuda_list* list, void* stream);
PYI_API pyi_status pyi_cuda_list_capture(pyi_cuda_list* list, int dependent);
PYI_API pyi_status pyi_cuda_list_replay(pyi_cuda_list* list, void* stream);

/* Whether this library has the CUDA kernels. */
PYI_API int pyi_cuda_built(void);
/* What records ask of the current device: shared memory a block may have, multiprocessors. */
PYI_API pyi_status pyi_cuda_device(int32_t* shared_limit, int32_t* multiprocessors);
/* Compute capability of the current device: 75, 80, 90, ... */
PYI_API pyi_status pyi_cuda_capability(int32_t* sm);
/* The architectures that the kernels were compiled for, as CMake has them: "75-real,80-real"; "" in
 * a library without them. */
PYI_API const char* pyi_cuda_architectures(void);

#ifdef __cplusplus
}
#endif
#endif /* PYINCEPTION_H_ */
