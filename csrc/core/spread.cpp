// Images spread over the team: each member walks whole lists by itself, with no barrier.
//
// A slot is a list recorded over memory of its own. Parts of the batch are drawn from one counter,
// so a slow member holds nobody up; which slot computes a part never changes a bit, for every slot
// has the same launches.
#include <algorithm>

#include "team.h"

namespace pyi {
namespace {

struct Spread : Job {
  struct Place {
    pyi_launches* list;
    char *x, *y, *scratch;
  };
  std::vector<Place> places;
  const char* x = nullptr;
  char* y = nullptr;
  size_t x_bytes = 0, y_bytes = 0;  // of a part
  int64_t parts = 0;
  std::atomic<int64_t> next{0};

  void prepare() override {
    for (Place& place : places) {
      size_t most = 0;
      for (const Launch& launch : place.list->launches) most = std::max(most, launch.scratch);
      place.list->scratch.reset();
      place.scratch = static_cast<char*>(place.list->scratch.take(most));
    }
  }

  void work(int member, int) override {
    const Place& place = places[static_cast<size_t>(member)];
    for (int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < parts;) {
      std::memcpy(place.x, x + static_cast<size_t>(part) * x_bytes, x_bytes);
      for (const Launch& launch : place.list->launches) {
        for (int64_t tile = 0; tile < launch.tiles; ++tile) {
          if (stop.load(std::memory_order_relaxed)) return;
          launch.program(address(launch.args), tile, address(place.scratch));
          if (member == 0) poll();
        }
      }
      std::memcpy(y + static_cast<size_t>(part) * y_bytes, place.y, y_bytes);
    }
  }
};

// One walk of a list at a time, and no list in two slots.
class Held {
 public:
  ~Held() {
    for (pyi_launches* list : lists_) list->running.store(false);
  }
  void take(pyi_launches* list) {
    if (list->running.exchange(true)) {
      fail(
          PYI_INVALID_VALUE,
          "launches_spread: the list is being run by another call or slot, expected one at a time");
    }
    lists_.push_back(list);
  }

 private:
  std::vector<pyi_launches*> lists_;
};

char* data(const DLTensor* t) { return static_cast<char*>(t->data) + t->byte_offset; }

// Bytes of a C-contiguous array in host memory.
size_t whole(const DLTensor* t, const char* name) {
  if (t == nullptr) fail(PYI_INVALID_TYPE, "launches_spread: ", name, " is NULL");
  if (t->device.device_type != 1) {
    fail(PYI_INVALID_TYPE, "launches_spread: ", name, " is on device ", t->device.device_type,
         ", expected host memory");
  }
  int64_t expected = 1;
  for (int axis = t->ndim - 1; axis >= 0; --axis) {
    if (t->strides != nullptr && t->shape[axis] > 1 && t->strides[axis] != expected) {
      fail(PYI_INVALID_VALUE, "launches_spread: ", name, " has stride ", t->strides[axis],
           " on axis ", axis, ", expected ", expected, " (C-contiguous)");
    }
    expected *= t->shape[axis];
  }
  return static_cast<size_t>(expected) * static_cast<size_t>(t->dtype.bits / 8 * t->dtype.lanes);
}

size_t part_bytes(const DLTensor* batch, const DLTensor* part, const char* name, int64_t parts) {
  const size_t all = whole(batch, name), one = whole(part, text("slot's ", name).c_str());
  bool alike = batch->ndim == part->ndim && batch->ndim > 0 &&
               std::memcmp(&batch->dtype, &part->dtype, sizeof(DLDataType)) == 0;
  for (int axis = 0; alike && axis < batch->ndim; ++axis) {
    alike = batch->shape[axis] == part->shape[axis] * (axis == 0 ? parts : 1);
  }
  if (!alike) {
    fail(PYI_INVALID_VALUE, "launches_spread: ", name, " has shape ",
         shape_text(batch->shape, batch->ndim), " of ", all, " bytes, expected ", parts,
         " times a slot's ", shape_text(part->shape, part->ndim), " of ", one, " bytes");
  }
  return one;
}

}  // namespace
}  // namespace pyi

extern "C" pyi_status pyi_launches_spread(const pyi_slot* slots, int slot_count, const DLTensor* x,
                                          const DLTensor* y, const pyi_options* options) {
  using namespace pyi;
  return guarded([&] {
    if (slots == nullptr || slot_count < 1) {
      fail(PYI_INVALID_VALUE, "launches_spread: slot_count is ", slot_count,
           ", expected at least 1");
    }
    Spread job;
    whole(x, "x"), whole(y, "y"), whole(slots[0].x, "slot's x");
    const int64_t images = slots[0].x->ndim > 0 ? slots[0].x->shape[0] : 0;
    job.parts = images > 0 && x->ndim > 0 ? x->shape[0] / images : 0;
    Held held;
    for (int i = 0; i < slot_count; ++i) {
      const pyi_slot& slot = slots[i];
      job.x_bytes = part_bytes(x, slot.x, "x", job.parts);
      job.y_bytes = part_bytes(y, slot.y, "y", job.parts);
      held.take(slot.launches);
      job.places.push_back({slot.launches, data(slot.x), data(slot.y), nullptr});
    }
    job.x = data(x), job.y = data(y);
    job.interrupt = options ? options->interrupt : nullptr;
    const int threads = options && options->threads > 0 ? options->threads : default_threads();
    const int64_t most = std::min<int64_t>({threads, slot_count, job.parts});
    if (run_on_team(job, most) != PYI_OK) fail(PYI_INTERRUPTED, "launches_spread: interrupted");
  });
}
