// One source, several instruction sets: a kernel is a struct with an always-inlined static `run`, and `launch` calls
// the version compiled for what the processor has (AVX-512, AVX2, or the compiler's default).
#pragma once

namespace facex::cpu {

#if defined(__x86_64__) && defined(__GNUC__)
#define FACEX_MULTIVERSION 1

template <typename Kernel, typename... Arguments>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))) void launch_avx512(Arguments... arguments) {
  Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
__attribute__((target("avx2,fma,f16c"))) void launch_avx2(Arguments... arguments) {
  Kernel::run(arguments...);
}
#endif

template <typename Kernel, typename... Arguments>
void launch_default(Arguments... arguments) {
  Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
void launch(Arguments... arguments) {
#ifdef FACEX_MULTIVERSION
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("avx512dq");
  if (avx512) return launch_avx512<Kernel>(arguments...);
  if (avx2) return launch_avx2<Kernel>(arguments...);
#endif
  launch_default<Kernel>(arguments...);
}

}  // namespace facex::cpu
