// The inner loops on int8 weights, with int32 sums: build.py compiles this file for each instruction set.
//
// `turn` rounds each row of x to 0..255 by a scale and a zero point of its own, so that a row's answer never depends on
// its neighbours. All instruction sets compute the same integers: AVX2's product of bytes saturates, so there they are
// widened to 16 bits.
//
// A column of the turned tile is one register: 64 rows of bytes, or 16 rows of 16 bits. A product takes a group of
// columns for each row, four bytes or two words. Groups are made by interleaving columns; `turn` stores the rows in such
// an order that this gives whole registers of consecutive rows. So columns need not lie side by side, and single ones
// (16x1 blocks) are as fast as 16x4.
#include <cmath>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "tile.h"

namespace vlcompress {
namespace {

#if defined(__AVX512VNNI__)
using Value = uint8_t;
constexpr int kVectors = 4;  // registers of int32 sums that a column of bytes makes
#else
using Value = int16_t;
constexpr int kVectors = 2;
#endif
constexpr int kRows = kVectors * LANES;
constexpr float kSteps = 254;  // that a row is rounded to: one of the 255 is for both ends' rounding
constexpr int kBlock = sizeof(Line) / sizeof(Value);  // columns

using Sums = int32_t[kOutputs][kRows];

// A tile of x: what its rows were rounded by, and its columns [K + 1][kRows], the last one zeros.
struct alignas(64) Turned {
  float scales[kRows];
  float zeros[kRows];
  Value* columns() { return reinterpret_cast<Value*>(this + 1); }
  const Value* columns() const { return reinterpret_cast<const Value*>(this + 1); }
};

static_assert(kRows * sizeof(Value) <= LANES * sizeof(float) && sizeof(Turned) <= (kSpare - 1) * LANES * sizeof(float),
              "the least room that `turn` is given: K + kSpare columns of LANES floats");

inline Ints load_ints(const int32_t* from) {
  Ints out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

// To the nearest, ties to even.
inline Ints nearest(Floats values) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtps_epi32((__m512)values);
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtps_epi32((__m256)values);
#else
  Ints out;
  for (int i = 0; i < LANES; ++i) out[i] = static_cast<int32_t>(std::lrintf(values[i]));
  return out;
#endif
}

#if defined(__AVX2__)

// 32 bits of a row's columns for each lane, which meet 32 bits of weights; a line of weights holds kGroups of them.
constexpr int kGroups = sizeof(Line) / sizeof(int32_t);
struct alignas(64) Groups {
  Ints of[kVectors][kGroups];
};

constexpr int64_t kAhead = 2 * kOutputs;  // Lines of weights: what is asked for arrives when its turn comes.

const Line* lines_of(const Step& s, int64_t block) { return static_cast<const Line*>(s.values) + block * kOutputs; }

#if defined(__AVX512VNNI__)

inline void interleave(const Step& s, const int32_t* columns, int group, Groups& groups) {
  const Value* const x = static_cast<const Turned*>(s.turned)->columns();
  const auto column = [&](int i) { return _mm512_load_si512(x + int64_t{columns[i]} * kRows); };
  const __m512i a = column(0), b = column(1), c = column(2), d = column(3);
  const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
  const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
  groups.of[0][group] = (Ints)_mm512_unpacklo_epi16(ab_low, cd_low);
  groups.of[1][group] = (Ints)_mm512_unpackhi_epi16(ab_low, cd_low);
  groups.of[2][group] = (Ints)_mm512_unpacklo_epi16(ab_high, cd_high);
  groups.of[3][group] = (Ints)_mm512_unpackhi_epi16(ab_high, cd_high);
}

inline Ints add_products(Ints sum, Ints x, int32_t weights) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, _mm512_set1_epi32(weights));
}

#else

inline void narrow(const Ints (&rows)[kVectors], Value* to) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(to), _mm256_packs_epi32((__m256i)rows[0], (__m256i)rows[1]));
}

inline void interleave(const Step& s, const int32_t* columns, int group, Groups& groups) {
  const auto* const x = reinterpret_cast<const __m256i*>(static_cast<const Turned*>(s.turned)->columns());
  const __m256i a = _mm256_load_si256(x + columns[0]), b = _mm256_load_si256(x + columns[1]);
  groups.of[0][group] = (Ints)_mm256_unpacklo_epi16(a, b);
  groups.of[1][group] = (Ints)_mm256_unpackhi_epi16(a, b);
}

inline Ints add_products(Ints sum, Ints x, int32_t weights) {
  return sum + (Ints)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi32(weights));
}

#endif

void group_up(const Step& s, int64_t block, Groups& groups) {
  const Line* const ahead = lines_of(s, block) + kAhead;
  const int32_t* const columns = s.columns + block * kBlock;
  for (int group = 0; group < kGroups; ++group) {
    __builtin_prefetch(ahead + group, 0, 2);
    interleave(s, columns + group * (kBlock / kGroups), group, groups);
  }
}

#if defined(__AMX_INT8__)

// Sums for 16 rows more, in a tile of their own: A is the block's weights, B its groups.
#define MULTIPLY_ROWS(v)                                            \
  if constexpr (V > v) {                                            \
    _tile_loadd(5, groups[block & 1].of[v], sizeof(Ints));          \
    _tile_dpbsud(v, 4, 5);                                          \
  }
#define STORE_ROWS(v) \
  if constexpr (V > v) _tile_stored(v, sums[0] + v * LANES, sizeof sums[0]);

// While the tiles multiply one block, the next one is grouped.
template <int V>
void multiply(const Step& s, Sums& sums) {
  Groups groups[2];
  const int64_t blocks = s.count / kBlock;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (blocks) group_up(s, 0, groups[0]);
  for (int64_t block = 0; block < blocks; ++block) {
    _tile_loadd(4, lines_of(s, block), sizeof(Line));
    MULTIPLY_ROWS(0)
    MULTIPLY_ROWS(1)
    MULTIPLY_ROWS(2)
    MULTIPLY_ROWS(3)
    if (block + 1 < blocks) group_up(s, block + 1, groups[(block + 1) & 1]);
  }
  STORE_ROWS(0)
  STORE_ROWS(1)
  STORE_ROWS(2)
  STORE_ROWS(3)
}

struct alignas(64) Configuration {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
};

void begin() {
  static const Configuration configuration;  // static: GCC does not see that all of it is read
  _tile_loadconfig(&configuration);
}

void end() { _tile_release(); }

#else

// Sums of 4 outputs and 4 registers of rows, or of 8 and 2, so that no product waits for the last one.
template <int V>
void multiply(const Step& s, Sums& sums) {
  constexpr int kAtOnce = V <= 2 && LANES == 16 ? 8 : 4;
  std::memset(sums, 0, sizeof sums);
  Groups groups;
  for (int64_t block = 0; block * kBlock < s.count; ++block) {
    group_up(s, block, groups);
    const Line* const lines = lines_of(s, block);
    for (int first = 0; first < kOutputs; first += kAtOnce) {
      Ints sum[kAtOnce][V];
      for (int o = 0; o < kAtOnce; ++o)
        for (int v = 0; v < V; ++v) sum[o][v] = load_ints(sums[first + o] + v * LANES);
      for (int group = 0; group < kGroups; ++group)
#pragma GCC unroll 8
        for (int o = 0; o < kAtOnce; ++o) {
          int32_t weights;
          std::memcpy(&weights, lines[first + o].bytes + group * sizeof weights, sizeof weights);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[o][v] = add_products(sum[o][v], groups.of[v][group], weights);
        }
      for (int o = 0; o < kAtOnce; ++o)
        for (int v = 0; v < V; ++v) std::memcpy(sums[first + o] + v * LANES, &sum[o][v], sizeof sum[o][v]);
    }
  }
}

#endif

#else

inline void narrow(const Ints (&rows)[kVectors], Value* to) {
  for (int row = 0; row < kRows; ++row) to[row] = static_cast<Value>(rows[row / LANES][row % LANES]);
}

// The plain truth.
template <int V>
void multiply(const Step& s, Sums& sums) {
  std::memset(sums, 0, sizeof sums);
  const auto* const values = static_cast<const Value*>(s.values);
  for (int64_t j = 0; j < s.count; ++j) {
    const Value* const x = static_cast<const Turned*>(s.turned)->columns() + int64_t{s.columns[j]} * kRows;
    for (int o = 0; o < kOutputs; ++o) {
      const int32_t weight = values[(j / kBlock * kOutputs + o) * kBlock + j % kBlock];
      for (int row = 0; row < kRows; ++row) sums[o][row] += weight * x[row];
    }
  }
}

#endif

#if !defined(__AMX_INT8__)
constexpr void (*begin)() = nullptr;
constexpr void (*end)() = nullptr;
#endif

// Sums of integers as what they stand for, with their bias.
struct Scaled {
  const Sums& sums;
  const Turned& x;
  float scales[kOutputs] = {}, weights[kOutputs] = {}, bias[kOutputs] = {};

  Scaled(const Step& s, const Sums& integers) : sums(integers), x(*static_cast<const Turned*>(s.turned)) {
    const auto size = static_cast<size_t>(s.width) * sizeof(float);
    std::memcpy(scales, s.scales, size);
    if (s.bias) std::memcpy(bias, s.bias, size);
    for (int o = 0; o < s.width; ++o) weights[o] = static_cast<float>(s.sums[o]);
  }
  Floats operator()(int output, int row) const {
    const Floats sum = __builtin_convertvector(load_ints(sums[output] + row), Floats);
    return (sum - load(x.zeros + row) * weights[output]) * (load(x.scales + row) * scales[output]) + bias[output];
  }
};

void step(const Step& s) {
  alignas(64) Sums sums;
  static constexpr void (*kMultiply[])(const Step&, Sums&) = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};
  kMultiply[(s.rows - 1) / LANES](s, sums);
  write(s, Scaled(s, sums), s.rows);
}

// The least and the largest value of a row, lane by lane, and a zero that becomes NaN where the row holds NaN or infinity.
struct Ranges {
  Floats low[LANES], high[LANES], probe[LANES];
};

// Of four rows at a time, so that none waits for the last comparison.
void find_ranges(const float* x, int64_t inputs, int rows, Ranges& to) {
  constexpr int kAtOnce = 4;
  for (int first = 0; first < LANES; first += kAtOnce) {
    Floats low[kAtOnce] = {}, high[kAtOnce] = {}, probe[kAtOnce] = {};
    const int count = rows - first < kAtOnce ? rows - first : kAtOnce;
    for (int64_t k = 0; k < inputs && count > 0; k += LANES)
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) {
        const int row = first + (i < count ? i : 0);
        const Floats values = load_some(x + row * inputs + k, inputs - k < LANES ? static_cast<int>(inputs - k) : LANES);
        low[i] = smaller(values, low[i]), high[i] = larger(values, high[i]), probe[i] += values * 0.0f;
      }
    for (int i = 0; i < kAtOnce; ++i)
      to.low[first + i] = low[i], to.high[first + i] = high[i], to.probe[first + i] = probe[i];
  }
}

template <class Join>
Floats over_lanes(Floats (&rows)[LANES], Join join) {
  transpose(rows);
  Floats joined = rows[0];
  for (int i = 1; i < LANES; ++i) joined = join(rows[i], joined);
  return joined;
}

// Chooses what LANES rows are rounded by, in 254 steps so that both ends fit whichever way they are rounded, and returns
// the factors for it. A row that holds NaN or infinity gets NaN for a scale, so that it stays visible.
Floats choose_scales(const float* x, int64_t inputs, int rows, float* scales, float* zeros) {
  Ranges ranges;
  find_ranges(x, inputs, rows, ranges);
  const Floats low = over_lanes(ranges.low, smaller), high = over_lanes(ranges.high, larger);
  const Floats probe = over_lanes(ranges.probe, [](Floats a, Floats b) { return a + b; });
  const Floats range = high - low, scale = range / kSteps + probe;
  const Floats factor = range > all(1e-30f) && scale - scale == all(0.0f) ? kSteps / range : all(0.0f);
  store(scales, scale);
  store(zeros, __builtin_convertvector(nearest(-low * factor), Floats));
  return factor;
}

#if defined(__AVX512VNNI__)

constexpr int kQuads = kRows / 4;  // rows in fours, whose bytes stay together

// 64 columns of a row as bytes. Packing leaves them in the order that unpacking takes them from.
inline __m512i rounded(const float* row, int columns, float factor, float zero) {
  Ints part[4];
  for (int i = 0; i < 4; ++i)
    part[i] = nearest(columns > i * LANES ? load_some(row + i * LANES, columns - i * LANES) * factor : Floats{});
  const __m512i zeros = _mm512_set1_epi16(static_cast<int16_t>(zero));
  const __m512i low = _mm512_packs_epi32((__m512i)part[0], (__m512i)part[1]);
  const __m512i high = _mm512_packs_epi32((__m512i)part[2], (__m512i)part[3]);
  return _mm512_packus_epi16(_mm512_add_epi16(low, zeros), _mm512_add_epi16(high, zeros));
}

// Interleaves 64 columns of four rows: 16 columns in a register, of each the four rows' bytes.
void round_quad(const float* x, int64_t inputs, int rows, int columns, const float* factors, const float* zeros,
                Ints (&to)[4]) {
  __m512i row[4] = {};
  for (int i = 0; i < 4 && i < rows; ++i) row[i] = rounded(x + i * inputs, columns, factors[i], zeros[i]);
  const __m512i ab_low = _mm512_unpacklo_epi8(row[0], row[1]), ab_high = _mm512_unpackhi_epi8(row[0], row[1]);
  const __m512i cd_low = _mm512_unpacklo_epi8(row[2], row[3]), cd_high = _mm512_unpackhi_epi8(row[2], row[3]);
  to[0] = (Ints)_mm512_unpacklo_epi16(ab_low, cd_low);
  to[1] = (Ints)_mm512_unpackhi_epi16(ab_low, cd_low);
  to[2] = (Ints)_mm512_unpacklo_epi16(ab_high, cd_high);
  to[3] = (Ints)_mm512_unpackhi_epi16(ab_high, cd_high);
}

// Quad 4 v + l of each column goes to the place 4 l + v: see `interleave`.
void turn_columns(const float* x, int64_t inputs, int rows, const float* factors, Turned& to) {
  constexpr int kWide = 4 * LANES;
  alignas(64) Ints quads[4][kQuads] = {};
  for (int64_t k = 0; k < inputs; k += kWide) {
    const int columns = inputs - k < kWide ? static_cast<int>(inputs - k) : kWide;
    for (int quad = 0; 4 * quad < rows; ++quad) {
      Ints four[4];
      const int row = 4 * quad;
      round_quad(x + row * inputs + k, inputs, rows - row, columns, factors + row, to.zeros + row, four);
      for (int part = 0; part < 4; ++part) quads[part][quad % 4 * 4 + quad / 4] = four[part];
    }
    for (int part = 0; part * LANES < columns; ++part) {
      Floats block[LANES];
#pragma GCC unroll 16
      for (int quad = 0; quad < kQuads; ++quad) block[quad] = (Floats)quads[part][quad];
      transpose(block);
      Value* const first = to.columns() + (k + part * LANES) * kRows;
#pragma GCC unroll 16
      for (int c = 0; c < LANES; ++c)
        if (part * LANES + c < columns) std::memcpy(first + c * kRows, &block[c], sizeof block[c]);
    }
  }
}

#else

void turn_columns(const float* x, int64_t inputs, int rows, const float* factors, Turned& to) {
  for (int64_t k = 0; k < inputs; k += LANES) {
    const int columns = inputs - k < LANES ? static_cast<int>(inputs - k) : LANES;
    Ints rounded[LANES][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      Floats block[LANES];
      load_turned(x + v * LANES * inputs + k, inputs, rows - v * LANES, columns, block);
      const Floats factor = load(factors + v * LANES);
      const Ints zero = nearest(load(to.zeros + v * LANES));
#pragma GCC unroll 16
      for (int c = 0; c < LANES; ++c) rounded[c][v] = nearest(block[c] * factor) + zero;
    }
    for (int c = 0; c < columns; ++c) narrow(rounded[c], to.columns() + (k + c) * kRows);
  }
}

#endif

// Rounds x [rows][K] row by row, and turns it.
void turn(const float* x, int64_t inputs, int rows, void* room) {
  auto& to = *static_cast<Turned*>(room);
  float factors[kRows] = {};
  std::memset(room, 0, sizeof to);
  for (int row = 0; row < rows; row += LANES)
    store(factors + row, choose_scales(x + row * inputs, inputs, rows - row, to.scales + row, to.zeros + row));
  turn_columns(x, inputs, rows, factors, to);
  std::memset(to.columns() + inputs * kRows, 0, kRows * sizeof(Value));
}

}  // namespace

#define QUOTE_(text) #text
#define QUOTE(text) QUOTE_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const InstructionSet JOIN(set_, SET) = {QUOTE(SET), LANES, kVectors, false, sizeof(Value), step, finish, turn, begin, end};

}  // namespace vlcompress
