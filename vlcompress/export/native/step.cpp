// The inner loops. build.py compiles this file once for each instruction set, with SET, LANES and AT_ONCE set.
//
// Vectors run over rows of x: a column of the turned tile is one to three whole registers, so gathering columns costs
// nothing, and each of them meets AT_ONCE weights before the next column comes. That makes 24 (12 with 16 registers)
// independent sums from 11 (7) loads, so neither the multipliers' latency nor the loads are what it waits for.
#include "vectors.h"

namespace vlcompress {
namespace {

using Tile = float[kOutputs][kMaxRows];

template <int V>
inline void multiply(const Step& s, const float* w, Floats (&sum)[AT_ONCE][V]) {
  for (auto& row : sum)
    for (Floats& value : row) value = Floats{};
  for (int64_t j = 0; j < s.count; ++j, w += s.stride) {
    const float* column = s.turned + int64_t{s.columns[j]} * (V * LANES);
    Floats x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = load(column + v * LANES);
#pragma GCC unroll 8
    for (int o = 0; o < AT_ONCE; ++o)
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[o][v] += x[v] * w[o];
  }
}

// Outputs `first` .. `first` + AT_ONCE of the panel, as rows of the tile.
template <int V>
void some_outputs(const Step& s, int first, Tile& tile) {
  Floats sum[AT_ONCE][V];
  multiply<V>(s, s.values + first, sum);
#pragma GCC unroll 8
  for (int o = 0; o < AT_ONCE; ++o) {
    const float bias = s.bias && first + o < s.width ? s.bias[first + o] : 0.0f;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(tile[first + o] + v * LANES, sum[o][v] + bias);
  }
}

// One row's outputs `first` .. `first` + LANES: activation(values + residual), as many of them as the panel has.
template <Floats (*activation)(Floats)>
void write_row(const Step& s, int row, int first, Floats values) {
  const int64_t at = row * s.outputs + first;
  const int count = s.width - first;
  if (s.residual) values += load_some(s.residual + at, count);
  store_some(s.y + at, activation(values), count);
}

// Turns a tile of [outputs][rows] back and writes it.
template <Floats (*activation)(Floats)>
void write(const Step& s, const Tile& tile) {
  for (int first = 0; first < s.width; first += LANES)
    for (int row = 0; row < s.rows; row += LANES) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int o = 0; o < LANES; ++o) block[o] = load(tile[first + o] + row);
      transpose(block);
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r)
        if (row + r < s.rows) write_row<activation>(s, row + r, first, block[r]);
    }
}

template <int V>
void step(const Step& s) {
  alignas(64) Tile tile;
  for (int first = 0; first < kOutputs; first += AT_ONCE) some_outputs<V>(s, first, tile);
  static constexpr void (*kWrite[kActivations])(const Step&, const Tile&) = {write<same>, write<gelu>, write<gelu_tanh>,
                                                                            write<relu>};
  kWrite[s.activation](s, tile);
}

void any_step(const Step& s, int vectors) {
  static constexpr void (*kSteps[])(const Step&) = {step<1>, step<2>, step<3>};
  kSteps[vectors - 1](s);
}

// Turns x [rows][K] to [K][vectors x LANES]; the rows that are missing become zeros.
void turn(const float* x, int64_t inputs, int rows, int vectors, float* turned) {
  const int width = vectors * LANES;
  for (int64_t k = 0; k < inputs; k += LANES) {
    const int columns = inputs - k < LANES ? static_cast<int>(inputs - k) : LANES;
    for (int row = 0; row < width; row += LANES) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int r = 0; r < LANES; ++r) block[r] = row + r < rows ? load_some(x + (row + r) * inputs + k, columns) : Floats{};
      transpose(block);
#pragma GCC unroll 16
      for (int c = 0; c < LANES; ++c)
        if (c < columns) store(turned + (k + c) * width + row, block[c]);
    }
  }
}

}  // namespace

#define QUOTE_(text) #text
#define QUOTE(text) QUOTE_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const InstructionSet JOIN(set_, SET) = {QUOTE(SET), LANES, 3, any_step, turn};

}  // namespace vlcompress
