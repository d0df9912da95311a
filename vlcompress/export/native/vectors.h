// Vectors of LANES floats as GCC and Clang offer them: transposition, and the activations.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernel.h"

namespace vlcompress {
namespace {

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

inline Floats load(const float* from) {
  Floats out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// The first `count` lanes, and zeros; all of them if there are enough.
inline Floats load_some(const float* from, int count) {
  if (count >= LANES) return load(from);
  Floats out{};
  for (int i = 0; i < count; ++i) out[i] = from[i];
  return out;
}

inline void store_some(float* to, Floats values, int count) {
  if (count >= LANES) return store(to, values);
  for (int i = 0; i < count; ++i) to[i] = values[i];
}

inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats all(float value) { return Floats{} + value; }

// One step of a transposition: of two rows that lie S apart, the upper S lanes of each 2 S of a for the lower ones of b.
template <int S, int... L>
inline void swap_halves(Floats& a, Floats& b, std::integer_sequence<int, L...>) {
#if defined(__clang__)
  const Floats low = __builtin_shufflevector(a, b, (L & S ? LANES + L - S : L)...);
  b = __builtin_shufflevector(a, b, (L & S ? LANES + L : L + S)...);
#else
  const Floats low = __builtin_shuffle(a, b, Ints{(L & S ? LANES + L - S : L)...});
  b = __builtin_shuffle(a, b, Ints{(L & S ? LANES + L : L + S)...});
#endif
  a = low;
}

template <int S = LANES / 2>
inline void transpose(Floats (&rows)[LANES]) {
#pragma GCC unroll 16
  for (int r = 0; r < LANES; ++r)
    if (!(r & S)) swap_halves<S>(rows[r], rows[r + S], std::make_integer_sequence<int, LANES>{});
  if constexpr (S > 1) transpose<S / 2>(rows);
}

// 2^x within 3e-9 of the value for -126 <= x <= 126: a polynomial for the fraction, the exponent's bits for the rest.
inline Floats power_of_two(Floats x) {
  const Floats magic = all(12582912.0f);  // 1.5 x 2^23: adding it rounds to an integer
  const Floats rounded = (x + magic) - magic, t = x - rounded;
  Floats p = all(1.54614448e-4f);
  for (float c : {1.34004280e-3f, 9.61805694e-3f, 5.55032715e-2f, 2.40226507e-1f, 6.93147182e-1f, 1.0f}) p = p * t + c;
  return (Floats)((Ints)p + (__builtin_convertvector(rounded, Ints) << 23));
}

// x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2. The polynomial is a weighted fit of log2 erfc(a / sqrt 2) / a on
// (0, 6]: the result is within 1e-8 in exact arithmetic, and beyond a = 6 the second term is below that.
inline Floats gelu(Floats x) {
  const Floats a = smaller(larger(x, -x), all(6.0f));
  Floats p = all(-1.90206515e-6f);
  for (float c : {2.80569348e-5f, -1.31473193e-4f, -2.72075820e-4f, 7.24542141e-3f, -5.26276119e-2f, -4.59162146e-1f,
                  -1.15111101f})
    p = p * a + c;
  return larger(x, all(0.0f)) - 0.5f * a * power_of_two(p * a);
}

// x / (1 + exp(-2 z)) with z = sqrt(2 / pi) (x + 0.044715 x^3), which is x (1 + tanh z) / 2.
inline Floats gelu_tanh(Floats x) {
  const Floats z = 0.797884561f * (x + 0.044715f * x * x * x);
  const Floats power = smaller(larger(-2.88539008f * z, all(-126.0f)), all(126.0f));
  return x / (1.0f + power_of_two(power));
}

inline Floats relu(Floats x) { return larger(x, all(0.0f)); }
inline Floats same(Floats x) { return x; }

}  // namespace
}  // namespace vlcompress
