// Large outputs of CPU operators: memory whose pages are huge where the system has them.
#pragma once

#include <ATen/ATen.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace facex {

// Asks for huge pages behind a tensor that nothing was written to yet, and returns it: a pass over fresh memory would
// otherwise spend a third of its time in page faults.
inline at::Tensor on_huge_pages(at::Tensor tensor) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(1) << 21;
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + kHuge - 1) / kHuge * kHuge;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr()) + tensor.nbytes()) / kHuge * kHuge;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice only: failing is fine
#endif
  return tensor;
}

}  // namespace facex
