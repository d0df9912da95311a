// The inner loops. build.py compiles this file once for each instruction set, with SET, LANES and AT_ONCE set.
//
// Vectors run over rows of x: a column of the turned tile is one to three whole registers, so gathering columns costs
// nothing, and each of them meets AT_ONCE weights before the next column comes. That makes 24 (12 with 16 registers)
// independent sums from 11 (7) loads, so neither the multipliers' latency nor the loads are what it waits for.
#include "tile.h"

namespace vlcompress {
namespace {

template <int V>
inline void multiply(const Step& s, const float* w, Floats (&sum)[AT_ONCE][V]) {
  for (auto& row : sum)
    for (Floats& value : row) value = Floats{};
  for (int64_t j = 0; j < s.count; ++j, w += s.stride) {
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

// Outputs `first` .. `first` + AT_ONCE of the panel, as rows of the tile.
template <int V>
void some_outputs(const Step& s, int first, Tile& tile) {
  Floats sum[AT_ONCE][V];
  multiply<V>(s, static_cast<const float*>(s.values) + first, sum);
#pragma GCC unroll 8
  for (int o = 0; o < AT_ONCE; ++o)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(tile[first + o] + v * LANES, sum[o][v]);
}

template <int V>
void step(const Step& s) {
  alignas(64) Tile tile;
  for (int first = 0; first < kOutputs; first += AT_ONCE) some_outputs<V>(s, first, tile);
  write(s, tile);
}

void any_step(const Step& s, int vectors) {
  static constexpr void (*kSteps[])(const Step&) = {step<1>, step<2>, step<3>};
  kSteps[vectors - 1](s);
}

// Turns x [rows][K] to [K][vectors x LANES]; the rows that are missing become zeros.
void turn(const float* x, int64_t inputs, int rows, int vectors, void* turned) {
  const int width = vectors * LANES;
  float* const to = static_cast<float*>(turned);
  for (int64_t k = 0; k < inputs; k += LANES) {
    const int columns = inputs - k < LANES ? static_cast<int>(inputs - k) : LANES;
    for (int row = 0; row < width; row += LANES) {
      Floats block[LANES];
      load_turned(x + row * inputs + k, inputs, rows - row, columns, block);
#pragma GCC unroll 16
      for (int c = 0; c < LANES; ++c)
        if (c < columns) store(to + (k + c) * width + row, block[c]);
    }
  }
}

}  // namespace

#define QUOTE_(text) #text
#define QUOTE(text) QUOTE_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const InstructionSet JOIN(set_, SET) = {QUOTE(SET), LANES, 3, sizeof(float), any_step, turn, nullptr, nullptr};

}  // namespace vlcompress
