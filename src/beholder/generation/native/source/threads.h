// The threads of one trunk: they wait between steps, and meet at spinning barriers within one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace beholder {

// The caller is thread 0; the others sleep until it has work. Not usable in a process made by fork().
class Threads {
public:
    // `processors` pins thread i to processor i of that list while it works; empty pins nothing.
    Threads(int count, std::vector<int> processors);
    ~Threads();
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;

    int count() const { return count_; }
    bool is_forked() const;
    // Run work(thread) on all threads and return when all are done.
    void run(const std::function<void(int)> &work);
    // Within work: nobody goes on before everybody has come.
    void meet();

private:
    void serve(int index);
    void pin(int index) const;

    const int count_;
    const std::vector<int> processors_;
    const int process_;
    const std::function<void(int)> *work_ = nullptr;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool is_ending_ = false;
    alignas(64) std::atomic<unsigned> turn_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> meetings_{0};
};

}  // namespace beholder
