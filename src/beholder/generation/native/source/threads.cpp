#include "threads.h"

#include <sched.h>
#include <unistd.h>

#ifdef __linux__
#include <pthread.h>
#endif

namespace beholder {

namespace {

// How long a thread asks again before it lets others run, and then before it sleeps: the next step of a
// running answer comes within that time, and a pause longer than it should cost nobody a processor.
constexpr int BUSY_ROUNDS = 2000;
constexpr int ROUNDS_AWAKE = 20000;

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb");  // "yield" takes no time on processors of one thread a core
#endif
}

// A processor may be taken by others while somebody is waited for; then it is given up instead of burnt.
inline void wait_a_round(int round) {
    if (round < BUSY_ROUNDS)
        pause_briefly();
    else
        sched_yield();
}

#ifdef __linux__
class Pinned {
public:
    explicit Pinned(int processor) {
        has_before_ = pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) == 0;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(processor, &one);
        pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    }
    ~Pinned() {
        if (has_before_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
    }

private:
    cpu_set_t before_;
    bool has_before_;
};
#else
class Pinned {
public:
    explicit Pinned(int) {}
};
#endif

}  // namespace

Threads::Threads(int count, std::vector<int> processors)
    : count_(count), processors_(std::move(processors)), process_(static_cast<int>(getpid())) {
    for (int index = 1; index < count_; ++index) threads_.emplace_back([this, index] { serve(index); });
}

Threads::~Threads() {
    if (is_forked()) {  // the threads are not here; the handles must not be joined
        for (auto &thread : threads_) thread.detach();
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_ending_ = true;
        turn_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto &thread : threads_) thread.join();
}

bool Threads::is_forked() const { return static_cast<int>(getpid()) != process_; }

void Threads::run(const std::function<void(int)> &work) {
    if (count_ > 1) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            turn_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }
    if (processors_.empty()) {
        work(0);
        meet();
        return;
    }
    // The caller's thread is not ours: it is pinned for this step only.
    const Pinned pinned(processors_[0]);
    work(0);
    meet();
}

void Threads::meet() {
    if (count_ == 1) return;
    const unsigned meeting = meetings_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
        arrived_.store(0, std::memory_order_relaxed);
        meetings_.store(meeting + 1, std::memory_order_release);
        return;
    }
    for (int round = 0; meetings_.load(std::memory_order_acquire) == meeting;)
        wait_a_round(round < BUSY_ROUNDS ? round++ : round);
}

void Threads::serve(int index) {
    pin(index);
    unsigned seen = 0;
    for (;;) {
        for (int round = 0; round < ROUNDS_AWAKE && turn_.load(std::memory_order_acquire) == seen; ++round)
            pause_briefly();
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [this, seen] { return turn_.load(std::memory_order_relaxed) != seen; });
            seen = turn_.load(std::memory_order_relaxed);
            if (is_ending_) return;
        }
        (*work_)(index);
        meet();
    }
}

void Threads::pin(int index) const {
#ifdef __linux__
    if (processors_.empty()) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processors_[index % processors_.size()], &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
#else
    (void)index;
#endif
}

}  // namespace beholder
