// A process-wide pool of worker threads, made when it is first used and again after fork.
#pragma once

#include <cstdint>
#include <functional>

namespace facex::recordio {

// Runs work(0) .. work(count - 1) on up to `threads` threads, the calling one among them; returns when all are done.
// `work` must not throw. Several threads may call at once.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& work);

}  // namespace facex::recordio
