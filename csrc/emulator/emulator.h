/* The runtime that executes translated CUDA kernels on the CPU: the C interface.
 *
 * A device owns named buffers between guard pages, a configuration, the record of the latest fault
 * and the counters. emu_launch runs one entry over a grid, a fiber per CUDA thread, and returns
 * when the grid is done or at the first fault. A device is used by one host thread at a time;
 * emu_stop may be called from any other.
 */
#ifndef PYINCEPTION_EMULATOR_H
#define PYINCEPTION_EMULATOR_H

#include <stdint.h>

#if defined(__GNUC__)
#define EMU_API __attribute__((visibility("default")))
#else
#define EMU_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct emu_device emu_device;

enum { EMU_NO_SITE = 0xffffffffu, EMU_NO_THREAD = 0xffffffffu };

enum emu_status {
  EMU_OK = 0,
  EMU_INVALID = 1,   /* a bad argument; nothing ran */
  EMU_FAULT = 2,     /* device code did something wrong */
  EMU_STOPPED = 3,   /* emu_stop was called */
  EMU_NO_MEMORY = 4, /* the host has no room; nothing ran */
};

enum emu_fault_kind {
  EMU_FAULT_NONE = 0,
  EMU_FAULT_OUT_OF_BOUNDS = 1,
  EMU_FAULT_MISALIGNED = 2,
  EMU_FAULT_RACE = 3,
  EMU_FAULT_UNINITIALISED = 4,
  EMU_FAULT_COPY_NOT_WAITED = 5,
  EMU_FAULT_BARRIER = 6, /* divergent or malformed barrier, or collective */
  EMU_FAULT_DEADLOCK = 7,
  EMU_FAULT_HANG = 8, /* the budget of back edges is spent */
  EMU_FAULT_STACK = 9,
  EMU_FAULT_READ_ONLY = 10,
  EMU_FAULT_TRAP = 11, /* trap, or an operation whose result PTX leaves undefined */
};

enum emu_order { EMU_FAIR = 0, EMU_RANDOM = 1, EMU_GREEDY = 2 };

/* Order of threads and of blocks: fair runs every ready thread in turn, random draws the turn,
 * greedy draws one warp and runs it as far ahead of the others as barriers allow. */
typedef struct {
  uint32_t order;
  uint32_t workers; /* host threads; a checked launch uses one */
  uint64_t seed;
  uint64_t back_edge_budget; /* of one thread; 0: none */
  uint32_t eager_copies;     /* cp.async copies at once; else at the wait, NaN until then */
  uint32_t count;            /* fill the counters (checked entries only) */
  uint32_t stack_bytes;      /* of a fiber; 0: 128 KiB */
  uint32_t reserved;
} emu_config;

typedef struct {
  const void* entry; /* emu::Entry, the exported record of a translated file */
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared_bytes;
  uint32_t param_bytes;
  const void* params;
} emu_launch_record;

typedef struct {
  uint32_t kind;
  uint32_t site;       /* ordinal of the PTX statement, or EMU_NO_SITE */
  uint32_t other_site; /* of the other access of a race, the issue of a copy, or EMU_NO_SITE */
  uint32_t other_thread;
  uint32_t other_block;
  uint32_t thread; /* linear; EMU_NO_THREAD where no one thread is at fault */
  uint32_t block_index[3];
  uint32_t thread_index[3];
  uint64_t bytes;
  int64_t offset;  /* in the buffer, or in shared memory */
  char buffer[64]; /* its name, "shared memory", or empty */
  char text[320];  /* what happened, without place and thread */
} emu_fault;

/* One row per (site, kind of access). Wavefronts and sectors are counted a warp instruction at a
 * time: the k-th execution by each lane of a warp is taken for one. `ideal` is what the distinct
 * bytes of each instruction need. */
enum emu_counter_kind {
  EMU_COUNT_EXECUTED = 0,    /* warp executions of the basic block that begins here */
  EMU_COUNT_SHARED_READ = 1, /* units: wavefronts */
  EMU_COUNT_SHARED_WRITE = 2,
  EMU_COUNT_SHARED_ATOMIC = 3,
  EMU_COUNT_SHARED_COPY = 4, /* the shared side of cp.async */
  EMU_COUNT_GLOBAL_READ = 5, /* units: 32-byte sectors */
  EMU_COUNT_GLOBAL_WRITE = 6,
  EMU_COUNT_GLOBAL_ATOMIC = 7,
  EMU_COUNT_GLOBAL_COPY = 8,   /* the global side of cp.async */
  EMU_COUNT_SHARED_MATRIX = 9, /* ldmatrix; the ideal is a wavefront a matrix */
};
typedef struct {
  uint32_t site, kind;
  uint32_t width, reserved;    /* bytes a lane */
  uint64_t instructions;       /* of a warp */
  uint64_t units, ideal_units; /* wavefronts or sectors */
  uint64_t worst_units;        /* of one instruction */
} emu_counter;

EMU_API emu_device* emu_create(void); /* null: no memory */
EMU_API void emu_destroy(emu_device*);

/* A buffer of `bytes` bytes, filled with 0xff (NaN), whose last byte (to 16 bytes) abuts a guard
 * page. `initialised`: reading it before writing is no fault. Null: no memory, or 0 < name < 64
 * does not hold, or a launch is under way. A buffer freed during a launch goes after it. */
EMU_API void* emu_alloc(emu_device*, uint64_t bytes, const char* name, uint32_t initialised);
EMU_API int emu_free(emu_device*, void*);

EMU_API int emu_configure(emu_device*, const emu_config*);
EMU_API int emu_launch(emu_device*, const emu_launch_record*);
/* Ends the launch that is under way; without one it does nothing, so repeat it until one returns.
 */
EMU_API void emu_stop(emu_device*);
EMU_API const emu_fault* emu_last_fault(const emu_device*);
/* Writes at most `capacity` rows and returns how many there are; emu_clear_counters forgets them.
 */
EMU_API uint32_t emu_counters(const emu_device*, emu_counter* rows, uint32_t capacity);
EMU_API void emu_clear_counters(emu_device*);
EMU_API uint32_t emu_abi(void);

#ifdef __cplusplus
}
#endif
#endif
