// The kernel for callers without a runtime (Python's ctypes): plain C, its own threads.
#include <atomic>
#include <thread>
#include <vector>

#include "kernel.h"

namespace {

void on_threads(void* pool, size_t count, vlcompress::Task task, void* data) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) task(data, i);
  };
  std::vector<std::thread> others(static_cast<size_t>(*static_cast<int*>(pool)) - 1);
  for (auto& other : others) other = std::thread(work);
  work();
  for (auto& other : others) other.join();
}

const vlcompress::InstructionSet* find(const char* name, vlcompress::Precision* precision) {
  using vlcompress::Precision;
  for (const Precision one : {Precision::kFloat32, Precision::kBfloat16, Precision::kInt8}) {
    *precision = one;
    if (const auto* set = vlcompress::instruction_set(name, one)) return set;
  }
  return nullptr;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// The name of the instruction set that is used, or null if `wanted` is unknown or not there.
EXPORTED const char* vlcompress_instruction_set(const char* wanted) {
  vlcompress::Precision precision;
  const auto* set = find(wanted, &precision);
  return set ? set->name : nullptr;
}

// Null, or what is wrong; y is then untouched. `values` are int8 where there are `scales`, else float32. `set_name` may be
// null for the best one. `threads` is at least 1.
EXPORTED const char* vlcompress_block_sparse_linear(const float* x, int64_t rows, int64_t inputs, const void* values,
                                                    int64_t value_count, const int32_t* columns, int64_t column_count,
                                                    const int64_t* starts, int64_t panels, int64_t outputs,
                                                    int64_t height, const float* scales, const float* bias,
                                                    const float* residual, int32_t activation, float* y,
                                                    const char* set_name, int threads) {
  using vlcompress::Precision;
  const vlcompress::Weight weight{values, columns, starts, inputs, outputs, height, scales};
  if (const char* wrong = vlcompress::check(weight, value_count, column_count, panels)) return wrong;
  Precision precision = scales ? Precision::kInt8 : Precision::kFloat32;
  const auto* set = set_name ? find(set_name, &precision) : vlcompress::instruction_set(nullptr, precision);
  if (!set) return "this processor lacks that instruction set";
  if ((precision == Precision::kInt8) != !!scales) return "that instruction set is not for weights of this type";
  const vlcompress::Call call{x, bias, residual, y, rows, activation};
  if (precision == Precision::kFloat32) {
    vlcompress::block_sparse_linear(weight, call, *set, on_threads, &threads);
  } else {
    const auto packed = vlcompress::pack(weight, *set, precision);
    vlcompress::block_sparse_linear(packed.view(weight), call, *set, on_threads, &threads);
  }
  return nullptr;
}
