// Work is cut into tasks of (a tile of rows, a range of panels). A thread keeps the tile that it turned last, so the
// tasks of one tile that run on one thread turn it once, and threads share nothing.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>

#include "kernel.h"

namespace vlcompress {
namespace {

constexpr int64_t kTaskWork = 1 << 21;  // Multiply-adds of a task that is worth handing to another thread: some 20 us.

template <class T>
T up(T a, T b) {
  return (a + b - 1) / b;
}

struct Job {
  const Weight& weight;
  const Call& call;
  const InstructionSet& set;
  uint64_t id;
  int64_t vectors;  // of rows
  int64_t tiles;    // of vectors, within one vector of each other; the last one takes the rows that are left over
  int64_t ranges;   // of panels
};

struct Rows {
  int64_t first;
  int count;
};

Rows rows_of(const Job& job, int64_t tile) {
  const int64_t begin = job.vectors * tile / job.tiles, end = job.vectors * (tile + 1) / job.tiles;
  const int64_t first = begin * job.set.lanes, last = tile + 1 == job.tiles ? job.call.rows : end * job.set.lanes;
  return {first, static_cast<int>(last - first)};
}

// The last tile of x that this thread turned.
struct Turned {
  std::unique_ptr<float[]> storage;
  int64_t size = 0;
  uint64_t job = 0;
  int64_t tile = -1;

  void* room(int64_t floats) {
    constexpr int64_t line = 64 / sizeof(float);
    if (size < floats) storage.reset(new float[static_cast<size_t>(floats + line)]), size = floats;
    return reinterpret_cast<void*>(up<uintptr_t>(reinterpret_cast<uintptr_t>(storage.get()), 64) * 64);
  }
};

const void* turned_tile(const Job& job, int64_t tile, const Rows& rows) {
  thread_local Turned mine;
  const int64_t inputs = job.weight.inputs;
  void* const room = mine.room((inputs + kSpare) * up(rows.count, job.set.lanes) * job.set.lanes);
  if (mine.job != job.id || mine.tile != tile) {
    job.set.turn(job.call.x + rows.first * inputs, inputs, rows.count, room);
    mine.job = job.id, mine.tile = tile;
  }
  return room;
}

void run_step(const Job& job, int64_t output, const Rows& rows, const void* turned, float* to) {
  const Weight& w = job.weight;
  const int64_t panel = output / w.height, inside = output % w.height;
  const int64_t start = w.starts[panel], count = w.starts[panel + 1] - start;
  const bool last = inside + kOutputs >= w.height || output + kOutputs >= w.outputs;
  const int64_t first = start * w.height + inside;
  const int64_t next = last ? (start + count) * w.height : first + kOutputs;
  const auto* const values = static_cast<const char*>(w.values);
  const auto size = static_cast<int64_t>(job.set.value_size);
  job.set.step({turned, w.inputs, values + first * size, values + next * size, w.height, w.columns + start, count,
                job.call.bias ? job.call.bias + output : nullptr,
                static_cast<int>(std::min<int64_t>(kOutputs, w.outputs - output)), rows.count,
                w.scales ? w.scales + output : nullptr, w.sums ? w.sums + output : nullptr, to});
}

// A step writes a line of each row. In y these lie on pages of their own, more than the processor can address at once:
// written one step at a time, they take longer than the products of int8.
void run_span(const Job& job, int64_t first, int64_t last, const Rows& rows, const void* turned) {
  alignas(64) thread_local float span[kMaxRows][kSpanStride];
  const Call& c = job.call;
  const int64_t outputs = job.weight.outputs, at = rows.first * outputs + first;
  for (int64_t output = first; output < last; output += kOutputs)
    run_step(job, output, rows, turned, span[0] + output - first);
  job.set.finish({span[0], c.residual ? c.residual + at : nullptr, c.y + at, outputs, static_cast<int>(last - first),
                  rows.count, c.activation});
}

void run_task(void* data, size_t index) {
  const Job& job = *static_cast<const Job*>(data);
  const Weight& w = job.weight;
  const int64_t tile = static_cast<int64_t>(index) / job.ranges, range = static_cast<int64_t>(index) % job.ranges;
  const int64_t panels = up(w.outputs, w.height);
  const Rows rows = rows_of(job, tile);
  const void* turned = turned_tile(job, tile, rows);
  if (job.set.begin) job.set.begin();
  const int64_t last = std::min(panels * (range + 1) / job.ranges * w.height, w.outputs);
  for (int64_t first = panels * range / job.ranges * w.height; first < last; first += kSpan)
    run_span(job, first, std::min(first + kSpan, last), rows, turned);
  if (job.set.end) job.set.end();
}

}  // namespace

const char* check(const Weight& w, int64_t values, int64_t columns, int64_t panels) {
  if (w.height <= 0 || w.height % kOutputs) return "the height of a panel must be a multiple of 16";
  if (panels != up(w.outputs, w.height)) return "there must be one panel for every `height` outputs";
  if (w.starts[0] != 0 || w.starts[panels] != columns) return "the panels' starts must run from 0 to all columns";
  for (int64_t p = 0; p < panels; ++p)
    if (w.starts[p] > w.starts[p + 1]) return "the panels' starts must not fall";
  if (values != columns * w.height) return "there must be `height` values for every column";
  for (int64_t i = 0; i < columns; ++i)
    if (w.columns[i] < 0 || w.columns[i] >= w.inputs) return "a column is not one of x";
  return nullptr;
}

void block_sparse_linear(const Weight& weight, const Call& call, const InstructionSet& set, ParallelFor parallel,
                         void* pool) {
  if (!call.rows || !weight.outputs) return;
  static std::atomic<uint64_t> calls{0};
  const int64_t panels = up(weight.outputs, weight.height);
  const int64_t vectors = set.rest ? call.rows / set.lanes : up<int64_t>(call.rows, set.lanes);
  const int64_t tiles = std::max<int64_t>(1, up<int64_t>(vectors, set.vectors));
  const int64_t work = weight.starts[panels] * weight.height * call.rows;
  const int64_t threads = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t wanted = std::min(up(2 * threads, tiles), work / (tiles * kTaskWork));
  Job job{weight, call, set, ++calls, vectors, tiles, std::clamp<int64_t>(wanted, 1, panels)};
  parallel(pool, static_cast<size_t>(tiles * job.ranges), run_task, &job);
}

}  // namespace vlcompress
