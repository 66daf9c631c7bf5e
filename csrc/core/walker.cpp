// The walker: runs a list of launches on a team of threads, with a barrier between phases.
//
// Tiles of a phase are drawn from one counter, so a slow tile holds nobody up. Which thread
// computes a tile never changes a bit: a tile writes its own piece of the output and sums in its
// own order.
//
// Rules of the threads. Members that wake on one core part at once: the kernel has left two of them
// on one for 140 ms, beside an idle core that another library's team had just used. One team at a
// time: a second calling thread, and a forked child (whose copy of the team has no threads), walk
// alone. Idle workers spin briefly, for the next launch of the same forward pass, then sleep, so
// that other libraries' teams get the cores; where PyTorch's team is there, which does not, that
// one walks instead (openmp.cpp). Only the calling thread polls for interrupts, by the clock; the
// others read a flag. The team is never destroyed: a process may exit while a daemon thread is
// inside a call.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <system_error>
#include <thread>

#include "team.h"

namespace pyi {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(100);
constexpr auto kSpinFor = std::chrono::microseconds(30);
constexpr size_t kAlign = 64;

inline void pause_briefly() { __builtin_ia32_pause(); }

// One walk of a list: phase after phase, by the whole team.
struct Walk : Job {
  const std::vector<Launch>* launches = nullptr;
  std::vector<size_t> phase_start;  // index of each phase's first launch, and the end
  std::unique_ptr<std::atomic<int64_t>[]> next;
  std::vector<int64_t> phase_tiles;
  Arena* arena = nullptr;
  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  std::atomic<int64_t> arrived{0};

  void prepare() override {
    scratch_bytes = round_up(static_cast<int64_t>(scratch_bytes + kAlign), kAlign);
    arena->reset();
    scratch = static_cast<char*>(arena->take(scratch_bytes * static_cast<size_t>(members)));
  }

  void work(int member, int members) override {
    int64_t own_scratch = address(scratch + scratch_bytes * static_cast<size_t>(member));
    const size_t phases = phase_tiles.size();
    for (size_t phase = 0; phase < phases; ++phase) {
      size_t at = phase_start[phase];
      int64_t first = 0;  // tile number at which launch `at` starts
      for (;;) {
        int64_t tile = next[phase].fetch_add(1, std::memory_order_relaxed);
        if (tile >= phase_tiles[phase] || stop.load(std::memory_order_relaxed)) break;
        while (tile - first >= (*launches)[at].tiles) first += (*launches)[at++].tiles;
        const Launch& launch = (*launches)[at];
        launch.program(address(launch.args), tile - first, own_scratch);
        if (member == 0) poll();
      }
      if (phase + 1 < phases) barrier(member, static_cast<int64_t>(phase + 1) * members);
    }
  }

  void barrier(int member, int64_t target) {
    arrived.fetch_add(1, std::memory_order_acq_rel);
    for (int spins = 0; arrived.load(std::memory_order_acquire) < target; ++spins) {
      if (spins < 2000) {
        pause_briefly();
      } else {
        sched_yield();
        if (member == 0) poll();
      }
    }
  }
};

class Team {
 public:
  bool try_acquire() { return busy_.try_lock(); }
  void release() { busy_.unlock(); }

  void run(Job& job) {
    job.members = std::min(job.members, grow(job.members - 1) + 1);
    job.part();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      members_ = job.members;
      unfinished_.store(job.members - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work(0, job.members);
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
      if (spins < 2000) {
        pause_briefly();
      } else {
        sched_yield();
        job.poll();
      }
    }
  }

 private:
  // Workers there are, after an attempt to have `workers`: a system out of threads gives fewer.
  int grow(int workers) {
    try {
      while (count_ < workers) {
        std::thread(&Team::serve, this, count_ + 1, generation_.load()).detach();
        ++count_;
      }
    } catch (const std::system_error&) {
    }
    return count_;
  }

  void serve(int member, uint64_t seen) {
    for (;;) {
      auto spin_until = Clock::now() + kSpinFor;
      while (generation_.load(std::memory_order_acquire) == seen && Clock::now() < spin_until) {
        pause_briefly();
      }
      Job* job;
      int members;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        seen = generation_.load(std::memory_order_acquire);
        job = job_, members = members_;
        // A member beyond the job's team must not touch the job: it may be gone already.
        if (member >= members_ || unfinished_.load(std::memory_order_relaxed) == 0) continue;
      }
      job->part();
      job->work(member, members);
      unfinished_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> unfinished_{0};
  Job* job_ = nullptr;
  int count_ = 0, members_ = 0;
};

// A signal handler that runs while this thread polls may call back into the library.
thread_local bool walking = false;

// Threads do not outlive a fork. Our team is lost in the children of a process that had one; a
// borrowed team may be lost in any child.
std::atomic<bool> team_lost{false}, forked{false};
[[maybe_unused]] const int kForkHandler =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

Team& team() {
  static Team* shared = [] {
    pthread_atfork(nullptr, nullptr, [] { team_lost.store(true); });
    return new Team;
  }();
  return *shared;
}

void work_of(void* job, int member, int members) { static_cast<Job*>(job)->work(member, members); }

int cgroup_cpus() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return kMaxThreads;
  return std::max(1, static_cast<int>((std::atof(quota.c_str()) + period - 1) / period));
}

}  // namespace

bool walking_here() { return walking; }

int default_threads() {
  static const int quota = cgroup_cpus();
  cpu_set_t set;
  int threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (const char* omp = std::getenv("OMP_NUM_THREADS")) {
    if (int wanted = std::atoi(omp); wanted > 0) threads = std::min(threads, wanted);
  }
  return std::max(1, std::min({threads, quota, kMaxThreads}));
}

void Job::poll() {
  if (interrupt == nullptr || Clock::now() - last_poll < kPollEvery) return;
  if (interrupt() != 0) stop.store(true, std::memory_order_relaxed);
  last_poll = Clock::now();
}

void Job::part() {
  const int here = sched_getcpu();
  if (here < 0 || here >= kMaxThreads || !taken[here].exchange(true)) return;
  cpu_set_t all, free;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  free = all;
  for (int cpu = 0; cpu < kMaxThreads; ++cpu) {
    if (taken[cpu].load()) CPU_CLR(cpu, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  const int there = sched_getcpu();
  if (there >= 0 && there < kMaxThreads) taken[there].store(true);
  sched_setaffinity(0, sizeof all, &all);
}

pyi_status run_on_team(Job& job, int64_t most) {
  // The team's set-up registers the fork handler, so it comes before the flag is read.
  Team& all = team();
  const int members = static_cast<int>(std::min<int64_t>(most, kMaxThreads));
  const bool inside = walking;
  bool alone = members <= 1 || inside || team_lost.load() || !all.try_acquire();
  struct Leave {
    Team* held;
    bool before;
    ~Leave() {
      if (held != nullptr) held->release();
      walking = before;
    }
  } leave{alone ? nullptr : &all, inside};
  walking = true;
  job.members = alone ? 1 : members;
  job.prepare();
  if (alone) {
    job.work(0, 1);
  } else if (forked.load() || !run_on_borrowed_team(job.members, work_of, &job)) {
    all.run(job);
  }
  return job.stop.load() ? PYI_INTERRUPTED : PYI_OK;
}

pyi_status walk(pyi_launches& list, int threads, int (*interrupt)()) {
  if (list.launches.empty()) return PYI_OK;
  Walk job;
  job.launches = &list.launches;
  job.arena = &list.scratch;
  job.interrupt = interrupt;
  int64_t widest = 0;
  for (size_t i = 0; i < list.launches.size(); ++i) {
    const Launch& launch = list.launches[i];
    if (i == 0 || launch.phase != list.launches[i - 1].phase) {
      job.phase_start.push_back(i);
      job.phase_tiles.push_back(0);
    }
    job.phase_tiles.back() += launch.tiles;
    widest = std::max(widest, job.phase_tiles.back());
    job.scratch_bytes = std::max(job.scratch_bytes, launch.scratch);
  }
  job.next = std::make_unique<std::atomic<int64_t>[]>(job.phase_tiles.size());
  return run_on_team(job, std::min<int64_t>(threads, widest));
}

}  // namespace pyi
