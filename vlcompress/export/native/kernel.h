// y = activation(x W^T + bias + residual) for a weight whose outputs come in panels that share their columns.
//
// Letters: x is [M, K], y is [M, N], both row-major. A panel is `height` consecutive outputs; panel p keeps the columns
// columns[starts[p]] .. columns[starts[p + 1] - 1], and for each of them the `height` weights, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vlcompress {

constexpr int kOutputs = 16;  // Outputs that one step computes: a row of them is a cache line of y.
constexpr int kMaxRows = 64;  // Rows of x that one step computes, at most.

enum Activation : int32_t { kNone = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3, kActivations = 4 };

struct Weight {
  const void* values;      // sum of kept columns x height: float32 or int8, or what `pack` made of them
  const int32_t* columns;  // each in [0, inputs)
  const int64_t* starts;   // panels + 1
  int64_t inputs;          // K
  int64_t outputs;         // N
  int64_t height;          // a multiple of kOutputs
  const float* scales = nullptr;  // int8: what a unit of each output's weights is worth, N values
  const int32_t* sums = nullptr;  // int8, from `pack`: the sum of each output's weights, N values
};

struct Call {
  const float* x;
  const float* bias;      // N values, or null
  const float* residual;  // M x N values, or null
  float* y;
  int64_t rows;  // M
  int32_t activation;
};

constexpr int kSpan = 16 * kOutputs;      // Outputs that are put together before rows of y are written.
constexpr int kSpanStride = kSpan + 16;  // From row to row of them: an odd number of cache lines, which spreads them.

// What one step needs: a tile of x as `turn` made it, and kOutputs outputs of one panel.
struct Step {
  const void* turned;
  int64_t inputs;  // K
  const void* values;
  const void* ahead;  // the values of the step that comes next
  int64_t stride;  // from one column's weights to the next one's
  const int32_t* columns;
  int64_t count;
  const float* bias;
  int width;  // outputs that there are, at most kOutputs
  int rows;
  const float* scales;  // int8: of these outputs
  const int32_t* sums;
  float* to;  // [rows][kSpanStride], of which kOutputs columns are written: sums and bias
};

// What is left to do for a span of outputs: y = activation(from + residual).
struct Finish {
  const float* from;      // [rows][kSpanStride]
  const float* residual;  // or null
  float* y;
  int64_t outputs;  // from one row of y, or of the residual, to the next
  int width;        // outputs, at most kSpan
  int rows;
  int32_t activation;
};

// The inner loops, compiled for one instruction set.
struct InstructionSet {
  const char* name;
  int lanes;          // rows that lie side by side in a register
  int vectors;        // registers of rows in a step, at most
  bool rest;          // whether a step takes up to lanes - 1 rows more than fill its registers
  size_t value_size;  // bytes of a weight
  void (*step)(const Step& step);
  void (*finish)(const Finish& finish);
  // Brings rows of x [rows][K] in the order that `step` reads: at most K + kSpare columns of as many floats as there are
  // rows, rounded up to whole lanes.
  void (*turn)(const float* x, int64_t inputs, int rows, void* turned);
  void (*begin)();  // of a task, or null
  void (*end)();
};

extern const InstructionSet set_base;
extern const InstructionSet set_base_int8;
#if defined(__x86_64__)
extern const InstructionSet set_avx2, set_avx512, set_avx512_bf16, set_amx_bf16;
extern const InstructionSet set_avx2_int8, set_avx512_int8, set_amx_int8;
#endif
constexpr int64_t kSpare = 9;

using Task = void (*)(void* data, size_t index);
// Runs task(data, 0) .. task(data, count - 1), in any order and on any threads.
using ParallelFor = void (*)(void* pool, size_t count, Task task, void* data);

enum class Precision { kFloat32, kBfloat16, kInt8 };

// The best instruction set of this processor at that precision, or the named one; null if there is none. Without a name,
// those whose names begin with the environment's VLCOMPRESS_INSTRUCTIONS alone, if it is set: for tests.
const InstructionSet* instruction_set(const char* name, Precision precision);

// A weight for instructions that multiply groups of columns: panels of kOutputs, each filled up to whole blocks of columns
// with column K, which is zero. A block is a line of 64 bytes for each of the kOutputs, its values one after the other:
// bfloat16, int8, or int8 widened to int16.
struct alignas(64) Line {
  char bytes[64];
};
struct PackedWeight {
  std::vector<Line> values;
  std::vector<int32_t> columns;
  std::vector<int64_t> starts;
  std::vector<int32_t> sums;  // of int8
  Weight view(const Weight& from) const;
};
PackedWeight pack(const Weight& weight, const InstructionSet& set, Precision precision);

// Null if the weight is sound, else what is wrong with it.
const char* check(const Weight& weight, int64_t values, int64_t columns, int64_t panels);

void block_sparse_linear(const Weight& weight, const Call& call, const InstructionSet& set, ParallelFor parallel,
                         void* pool);

}  // namespace vlcompress
