// The inner loops on pairs of bfloat16, with float32 sums: build.py compiles this file with and without AMX.
//
// A column of the turned tile is 32 rows of bfloat16, one register. Two columns make pairs by interleaving their low
// and their high halves; `turn` stores the rows in such an order that this gives rows 0 to 15, and rows 16 to 31. So
// columns need not lie in pairs, and single ones (16x1 blocks) are as fast as 16x2.
#include <immintrin.h>

#include "tile.h"

namespace vlcompress {
namespace {

constexpr int kRows = 32;
constexpr int kBlock = sizeof(Line) / sizeof(uint16_t);

inline void load_pair(const Step& s, int64_t j, __m512i& low, __m512i& high) {
  const auto* columns = static_cast<const uint16_t*>(s.turned);
  const __m512i a = _mm512_load_si512(columns + int64_t{s.columns[j]} * kRows);
  const __m512i b = _mm512_load_si512(columns + int64_t{s.columns[j + 1]} * kRows);
  low = _mm512_unpacklo_epi16(a, b);
  high = _mm512_unpackhi_epi16(a, b);
}

#if defined(__AMX_BF16__)

struct alignas(64) Pairs {
  uint16_t low[kBlock / 2][kRows], high[kBlock / 2][kRows];
};

constexpr int64_t kAhead = 2 * kBlock * kOutputs;  // Weights: what is asked for arrives when its turn comes.

// A pair for each of the 16 lines that a block's weights are: those of two blocks on are asked for meanwhile.
void pair_up(const Step& s, int64_t block, Pairs& pairs) {
  const auto* ahead = static_cast<const uint16_t*>(s.values) + block * kBlock * kOutputs + kAhead;
  for (int p = 0; p < kBlock / 2; ++p) {
    __builtin_prefetch(ahead + p * kBlock, 0, 2);
    __m512i low, high;
    load_pair(s, block * kBlock + 2 * p, low, high);
    _mm512_store_si512(pairs.low[p], low);
    _mm512_store_si512(pairs.high[p], high);
  }
}

// While the tiles multiply one block, the next one is paired up.
void multiply(const Step& s, Tile& tile) {
  Pairs pairs[2];
  const auto* values = static_cast<const uint16_t*>(s.values);
  const int64_t blocks = s.count / kBlock;
  _tile_zero(0);
  _tile_zero(1);
  if (blocks) pair_up(s, 0, pairs[0]);
  for (int64_t block = 0; block < blocks; ++block) {
    if (block + 1 < blocks) pair_up(s, block + 1, pairs[(block + 1) & 1]);
    _tile_loadd(2, values + block * kBlock * kOutputs, kBlock * sizeof(uint16_t));
    _tile_loadd(3, pairs[block & 1].low, kRows * sizeof(uint16_t));
    _tile_dpbf16ps(0, 2, 3);
    _tile_loadd(4, pairs[block & 1].high, kRows * sizeof(uint16_t));
    _tile_dpbf16ps(1, 2, 4);
  }
  _tile_stored(0, tile[0], sizeof tile[0]);
  _tile_stored(1, tile[0] + LANES, sizeof tile[0]);
}

struct alignas(64) Configuration {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16};
};

void begin() {
  static const Configuration configuration;  // static: GCC does not see that all of it is read
  _tile_loadconfig(&configuration);
}

void end() { _tile_release(); }

#else

constexpr int kAtOnce = 8;

void some_outputs(const Step& s, int first, Tile& tile) {
  __m512 sum[kAtOnce][2];
  for (auto& pair : sum) pair[0] = pair[1] = _mm512_setzero_ps();
  const auto* values = static_cast<const uint16_t*>(s.values) + first * kBlock;
  for (int64_t j = 0; j < s.count; j += 2) {
    __m512i low, high;
    load_pair(s, j, low, high);
    const uint16_t* w = values + j / kBlock * (kBlock * kOutputs) + j % kBlock;
#pragma GCC unroll 8
    for (int o = 0; o < kAtOnce; ++o) {
      int32_t two;
      std::memcpy(&two, w + o * kBlock, sizeof two);
      const auto weights = (__m512bh)_mm512_set1_epi32(two);
      sum[o][0] = _mm512_dpbf16_ps(sum[o][0], (__m512bh)low, weights);
      sum[o][1] = _mm512_dpbf16_ps(sum[o][1], (__m512bh)high, weights);
    }
  }
  for (int o = 0; o < kAtOnce; ++o)
    for (int v = 0; v < 2; ++v) _mm512_store_ps(tile[first + o] + v * LANES, sum[o][v]);
}

void multiply(const Step& s, Tile& tile) {
  for (int first = 0; first < kOutputs; first += kAtOnce) some_outputs(s, first, tile);
}

constexpr void (*begin)() = nullptr;
constexpr void (*end)() = nullptr;

#endif

void step(const Step& s) {
  alignas(64) Tile tile;
  multiply(s, tile);
  write(s, Biased(s, tile), s.rows);
}

// Turns x [rows][K] to [K + 1][32] in bfloat16, the last column zeros; of each four rows from both halves in turn.
void turn(const float* x, int64_t inputs, int rows, void* turned) {
  auto* to = static_cast<uint16_t*>(turned);
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t k = 0; k < inputs; k += LANES) {
    const int columns = inputs - k < LANES ? static_cast<int>(inputs - k) : LANES;
    Floats low[LANES], high[LANES];
    load_turned(x + k, inputs, rows, columns, low);
    load_turned(x + LANES * inputs + k, inputs, rows - LANES, columns, high);
#pragma GCC unroll 16
    for (int c = 0; c < LANES; ++c) {
      const auto both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high[c], (__m512)low[c]);
      if (c < columns) _mm512_store_si512(to + (k + c) * kRows, _mm512_permutexvar_epi64(order, both));
    }
  }
  _mm512_store_si512(to + inputs * kRows, _mm512_setzero_si512());
}

}  // namespace

#define QUOTE_(text) #text
#define QUOTE(text) QUOTE_(text)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
const InstructionSet JOIN(set_, SET) = {QUOTE(SET), kRows, 1, false, sizeof(uint16_t), step, finish, turn, begin, end};

}  // namespace vlcompress
