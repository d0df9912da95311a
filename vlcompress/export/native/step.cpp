// The inner loops. build.py compiles this file once for each instruction set, with SET, LANES and AT_ONCE set.
//
// Rows of x that fill registers: vectors run over rows. A column of the turned tile is one to three whole registers, so
// gathering columns costs nothing, and each of them meets AT_ONCE weights before the next column comes. That makes 24 (12
// with 16 registers) independent sums from 11 (7) loads, so neither the multipliers' latency nor the loads are what it
// waits for.
//
// The rows that are left over: vectors run over outputs, and each of those rows adds one load and one sum a column. With
// zeros in their place they would cost as much as a full register.
#include <utility>

#include "tile.h"

namespace vlcompress {
namespace {

constexpr int kPasses = kOutputs / AT_ONCE;

// A call reads its weights from memory, in panels too short for the processor to foresee the next one: each column asks
// for its share of the next step's weights, a line for every column, in so many passes over the columns.
inline void ask_ahead(const Step& s, int64_t column, uint64_t passes) {
  const auto line = static_cast<int64_t>(static_cast<uint64_t>(column) / passes);
  __builtin_prefetch(static_cast<const float*>(s.ahead) + line * s.stride, 0, 2);
}

template <int V>
inline void multiply(const Step& s, int pass, Floats (&sum)[AT_ONCE][V]) {
  const float* w = static_cast<const float*>(s.values) + pass * AT_ONCE;
  for (auto& row : sum)
    for (Floats& value : row) value = Floats{};
  for (int64_t j = 0; j < s.count; ++j, w += s.stride) {
    ask_ahead(s, pass * s.count + j, kPasses);
    const float* column = static_cast<const float*>(s.turned) + int64_t{s.columns[j]} * (V * LANES);
    Floats x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = load(column + v * LANES);
#pragma GCC unroll 8
    for (int o = 0; o < AT_ONCE; ++o)
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[o][v] += x[v] * w[o];
  }
}

// AT_ONCE outputs of the panel, as rows of the tile.
template <int V>
void some_outputs(const Step& s, int pass, Tile& tile) {
  Floats sum[AT_ONCE][V];
  multiply<V>(s, pass, sum);
#pragma GCC unroll 8
  for (int o = 0; o < AT_ONCE; ++o)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(tile[pass * AT_ONCE + o] + v * LANES, sum[o][v]);
}

template <int V>
void whole_registers(const Step& s) {
  alignas(64) Tile tile;
  for (int pass = 0; pass < kPasses; ++pass) some_outputs<V>(s, pass, tile);
  write(s, Biased(s, tile), V * LANES);
}

template <int R>
void left_over(const Step& s) {
  constexpr int kVectors = kOutputs / LANES;
  const int first = s.rows - R;
  const float* const turned = static_cast<const float*>(s.turned) + first * s.inputs;
  const float* w = static_cast<const float*>(s.values);
  Floats sum[R][kVectors];
  for (auto& row : sum)
    for (Floats& value : row) value = Floats{};
  for (int64_t j = 0; j < s.count; ++j, w += s.stride) {
    if (!first) ask_ahead(s, j, 1);
    const float* x = turned + int64_t{s.columns[j]} * R;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Floats weights = load(w + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sum[r][v] += weights * x[r];
    }
  }
  write_rows(s, first, R, sum);
}

using Part = void (*)(const Step&);

template <int... R>
constexpr Part left_over_of(int rows, std::integer_sequence<int, R...>) {
  constexpr Part parts[] = {left_over<R + 1>...};
  return parts[rows - 1];
}

void any_step(const Step& s) {
  static constexpr Part kWhole[] = {whole_registers<1>, whole_registers<2>, whole_registers<3>};
  const int vectors = s.rows / LANES, rest = s.rows % LANES;
  if (vectors) kWhole[vectors - 1](s);
  if (rest) left_over_of(rest, std::make_integer_sequence<int, LANES - 1>{})(s);
}

// Turns `rows` rows of x [rows][K], LANES at most, to [K] columns that are `width` floats apart. A column may write over
// those after it, which come later, and LANES floats beyond the last.
void turn_rows(const float* x, int64_t inputs, int rows, int width, float* to) {
  for (int64_t k = 0; k < inputs; k += LANES) {
    const int columns = inputs - k < LANES ? static_cast<int>(inputs - k) : LANES;
    Floats block[LANES];
    load_turned(x + k, inputs, rows, columns, block);
#pragma GCC unroll 16
    for (int c = 0; c < LANES; ++c)
      if (c < columns) store(to + (k + c) * width, block[c]);
  }
}

// Turns x [rows][K] to [K][rows in whole registers], followed by [K][rows left over].
void turn(const float* x, int64_t inputs, int rows, void* turned) {
  float* const to = static_cast<float*>(turned);
  const int rest = rows % LANES, whole = rows - rest;
  for (int row = 0; row < whole; row += LANES) turn_rows(x + row * inputs, inputs, LANES, whole, to + row);
  if (rest) turn_rows(x + whole * inputs, inputs, rest, rest, to + whole * inputs);
}

}  // namespace

#define QUOTE_(text) #text
#define QUOTE(text) QUOTE_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const InstructionSet JOIN(set_, SET) = {QUOTE(SET), LANES, 3, true, sizeof(float), any_step, finish, turn, nullptr, nullptr};

}  // namespace vlcompress
