// What a team of threads runs together: the walk of one list (walker.cpp), or many walks side by
// side (spread.cpp).
#pragma once

#include <atomic>
#include <chrono>

#include "core.h"

namespace pyi {

using Clock = std::chrono::steady_clock;
constexpr int kMaxThreads = 256;

// One piece of work, shared by the members of the team.
struct Job {
  virtual ~Job() = default;
  // Once, when it is known how many members there are at most.
  virtual void prepare() {}
  // By every member; number 0 is the calling thread, which polls.
  virtual void work(int member, int members) = 0;

  int members = 1;  // at most
  std::atomic<bool> stop{false};
  int (*interrupt)() = nullptr;

  void poll();  // the calling thread only
  // Move this thread to a core that no other member started on, if it may run on one. Afterwards it
  // may run wherever it could before.
  void part();

 private:
  Clock::time_point last_poll = Clock::now();
  std::atomic<bool> taken[kMaxThreads] = {};  // by the number of the core
};

// By at most `most` threads; by this one alone where there is no team to be had.
pyi_status run_on_team(Job& job, int64_t most);

}  // namespace pyi
