#include "pool.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace facex::recordio {

namespace {

struct Job {
  Job(int64_t count, const std::function<void(int64_t)>& work) : count(count), work(work) {}

  // Takes items until none is left.
  void run() {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      work(i);
      if (done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_all();
      }
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return done.load() == count; });
  }

  const int64_t count;
  const std::function<void(int64_t)>& work;  // the caller waits for `done`, so it outlives every call
  std::atomic<int64_t> next{0}, done{0};
  std::mutex mutex;
  std::condition_variable finished;
};

class Pool {
 public:
  const pid_t owner = ::getpid();

  void submit(const std::shared_ptr<Job>& job, int helpers) {
    std::lock_guard<std::mutex> lock(mutex_);
    grow(helpers);
    for (int i = 0; i < std::min(helpers, workers_); ++i) queue_.push_back(job);
    ready_.notify_all();
  }

 private:
  void grow(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // No more threads to be had: the caller works on with those that are there.
    }
  }

  void serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      ready_.wait(lock, [this] { return !queue_.empty(); });
      std::shared_ptr<Job> job = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      job->run();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Job>> queue_;
  int workers_ = 0;
};

// The pool of this process. A forked child has none of its parent's threads, and perhaps a locked mutex: it gets a new
// pool and leaves the old one alone. Pools live as long as the process (detached workers may be waiting in them).
Pool& pool() {
  static std::atomic<Pool*> current{nullptr};
  Pool* found = current.load();
  while (found == nullptr || found->owner != ::getpid()) {
    Pool* made = new Pool;
    if (current.compare_exchange_strong(found, made)) return *made;
    delete made;  // another thread was first; `found` is its pool now
  }
  return *found;
}

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& work) {
  if (count <= 0) return;
  const int helpers = static_cast<int>(std::min<int64_t>(std::min(threads, 256), count)) - 1;
  if (helpers < 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  const auto job = std::make_shared<Job>(count, work);
  pool().submit(job, helpers);
  job->run();
  job->wait();
}

}  // namespace facex::recordio
