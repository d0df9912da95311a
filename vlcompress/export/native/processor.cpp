// Which instruction sets this processor has.
#include <cstdlib>
#include <cstring>

#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace vlcompress {
namespace {

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  explicit Leaf(unsigned part) { __get_cpuid_count(7, part, &eax, &ebx, &ecx, &edx); }
};

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

bool has_avx512_bf16() { return has_avx512() && Leaf(1).eax & 1u << 5; }

bool has_avx512_vnni() { return has_avx512() && Leaf(0).ecx & 1u << 11; }

// Tiles, and a kind of product on them. Linux gives a process the registers when it asks for them.
bool has_amx(unsigned product) {
#if defined(__linux__)
  const unsigned wanted = 1u << 24 | product;
  constexpr int ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (Leaf(0).edx & wanted) == wanted && !syscall(SYS_arch_prctl, ask, tile_data);
#else
  return false;
#endif
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

using Sets = std::vector<const InstructionSet*>;

// On Intel's processors the pairs of AVX-512 take twice as long as float32: measured, 0.6 to 0.7 times as fast.
void find_bfloat16(bool named, Sets& found) {
  if (has_avx512_bf16() && has_amx(1u << 22)) found.push_back(&set_amx_bf16);
  if (has_avx512_bf16() && (named || __builtin_cpu_is("amd"))) found.push_back(&set_avx512_bf16);
}

void find_int8(Sets& found) {
  if (has_avx512_vnni() && has_amx(1u << 25)) found.push_back(&set_amx_int8);
  if (has_avx512_vnni()) found.push_back(&set_avx512_int8);
  if (has_avx2()) found.push_back(&set_avx2_int8);
}

void find_float32(Sets& found) {
  if (has_avx512()) found.push_back(&set_avx512);
  if (has_avx2()) found.push_back(&set_avx2);
}

#endif

}  // namespace

const InstructionSet* instruction_set(const char* name, Precision precision) {
  std::vector<const InstructionSet*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (precision == Precision::kBfloat16) find_bfloat16(name, found);
  if (precision == Precision::kInt8) find_int8(found);
  if (precision == Precision::kFloat32) find_float32(found);
#endif
  if (precision == Precision::kInt8) found.push_back(&set_base_int8);
  if (precision == Precision::kFloat32) found.push_back(&set_base);
  const char* const allowed = name ? nullptr : std::getenv("VLCOMPRESS_INSTRUCTIONS");
  for (const InstructionSet* set : found)
    if (name ? !std::strcmp(set->name, name) : !allowed || !std::strncmp(set->name, allowed, std::strlen(allowed)))
      return set;
  return nullptr;
}

}  // namespace vlcompress
