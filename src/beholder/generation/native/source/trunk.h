// One trunk: its packed weights, the buffers of a step, and the step.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "native.h"
#include "threads.h"

namespace beholder {

struct Shape {  // the same as in library.py
    int64_t layers, hidden, heads, key_heads, head_width, inner, vocabulary, most_rows;
    float epsilon, scaling;
    int32_t format, group, head_format, head_group;
};

struct Step {  // the same as in library.py
    int64_t rows;
    const float *hidden;         // [rows][hidden], what the first layer is given
    const float *cosines;        // [rows][head_width / 2]
    const float *sines;
    const int64_t *ranges;       // pairs of places, of all rows one after the other; the last place is new
    const int64_t *range_ends;   // [rows], in pairs from the beginning
    void *const *keys;           // [layers], each [key head][place][head width]
    void *const *values;
    float *const *key_scales;    // of keys and values in bytes [layers], each [key head][place]; else not read
    float *const *value_scales;
    int64_t places;
    int32_t stored;              // what keys and values are stored as: F32, BF16 or INT8
    int32_t is_text;             // rows are the last tokens of one text, in order, whose ranges are all there are
    float *logits;               // [rows][logits_stride]; of a text only its last row's, or null for none
    int64_t logits_stride;       // vocabulary, rounded up to 32
};

// Memory that is given back at the end, of whole huge pages where it is large.
class Memory {
public:
    Memory() = default;
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(Memory &&other) noexcept;
    Memory &operator=(Memory &&other) noexcept;
    template <typename Number>
    Number *at(size_t offset) const { return reinterpret_cast<Number *>(start_ + offset); }

private:
    uint8_t *start_ = nullptr;
    size_t bytes_ = 0;
    bool is_mapped_ = false;
};

// A matrix with its memory.
struct Packed {
    Matrix matrix{};
    Memory weights, scales, bias;
    Packed() = default;
    Packed(long rows, long columns, Format format, long group);
    void need_bias();
};

struct Layer {
    Packed enter, leave, widen, narrow;  // query, key and value; out; gate and up in turns; down
    std::vector<float> first_norm, second_norm;
};

enum class Part : int32_t { ENTER = 0, LEAVE = 1, WIDEN = 2, NARROW = 3, HEAD = 4 };

// An activation of `rows` rows for one matrix format, with its memory.
struct Prepared {
    Activation activation{};
    Memory memory;
    Prepared() = default;
    Prepared(long rows, long columns, Format format, long group);
};

// A row-major matrix as codes and scales row by row, by the same search that packing does; by the caller alone.
void make_narrow(const Kernels &kernels, Format format, long group, const void *source, bool is_bfloat, long rows,
                 long columns, uint8_t *codes, void *scales);

class Trunk {
public:
    Trunk(const Shape &shape, const Kernels &kernels, int threads, std::vector<int> processors);

    // Rows of a row-major float or bfloat16 matrix into a part, the first of them to row `first`. `spread` 2
    // leaves every second block out, as gate and up need it.
    void pack(long layer, Part part, const void *source, bool is_bfloat, long rows, long first, long spread);
    // The same of a matrix that is narrow already, row by row as core/narrow.py has it: no search.
    void put_codes(long layer, Part part, const uint8_t *codes, const void *scales, long rows, long first,
                   long spread);
    // Rows `from` to `to` of what was put there, row by row again. By the caller with threads of its own for it:
    // who asks is not the one who runs steps.
    void take_codes(long layer, Part part, uint8_t *codes, void *scales, long from, long to, long first, long spread);
    // The same rows as what they stand for, [row][column] in float or bfloat16.
    void widen_codes(long layer, Part part, void *wide, bool is_bfloat, long from, long to, long first, long spread);
    // Give a part's memory back; no step can be run afterwards.
    void drop(long layer, Part part);
    void put_bias(long layer, Part part, const float *source, long rows, long first, long spread);
    void put_norm(long layer, int which, const float *source);
    // What a packed row stands for.
    void unpack(long layer, Part part, long row, float *out);
    // Null, or what is wrong with the step.
    const char *run(const Step &step);
    // What all packed matrices take.
    long bytes();
    // Seconds for adding so many bytes up in words, with all threads: how fast memory can be read at all.
    double read(long bytes);

    const Shape shape;
    const Kernels &kernels;

private:
    struct Own {  // what each thread has for itself
        Prepared from_hidden, from_mixed, for_head;
        std::vector<float> row, tile, group, heads, scores;
    };
    using Next = std::atomic<long>;
    Packed &part(long layer, Part which);
    static void put_scales(const Matrix &matrix, long row, long index, const void *scales);
    const char *check(const Step &step) const;
    void prepare(const Step &step);
    void part_text(const Step &step);
    void work(int thread);
    void set_rows(long rows);
    void keep_last_row();
    void score(Own &own, int thread, Next &next);
    template <typename Task>
    void by_tiles(int thread, const Task &task);
    template <typename Fill>
    const Activation &prepared(Prepared &own, Prepared &shared, int thread, const Fill &fill);
    const Activation &normalised(const std::vector<float> &norm, Prepared &own, Prepared &shared, int thread);
    void multiply(const Packed &packed, const Activation &x, Next &next, float *out, long stride) const;
    void attend(long layer, long row, long key_head, Own &own);
    void store_row(long layer, long row, long key_head, Own &own);
    void store(const float *numbers, void *memory, float *const *scales, long layer, long place) const;
    Heads turned(long layer, long row, long key_head, Own &own);
    void turn(const float *from, long row, float scale, float *to) const;
    void add(const Packed &packed, const Activation &x, Next &next, Own &own);
    void widen(const Layer &layer, const Activation &x, Next &next, Own &own);
    long share(long tasks) const;

    std::vector<Layer> layers_;
    Packed head_;
    std::vector<float> last_norm_;
    Threads threads_;
    std::vector<Own> own_;
    long hidden_stride_, mixed_stride_, enter_stride_;
    std::vector<float> hidden_, entered_, mixed_;
    Prepared inner_, from_hidden_, from_mixed_, for_head_;
    struct alignas(64) Counter {
        Next next{0};
    };
    std::vector<Counter> counters_;  // of the tasks taken, one per stage
    std::atomic<bool> is_busy_{false};
    bool is_whole_ = true;  // no part was dropped
    const Step *step_ = nullptr;
    long rows_ = 0;  // of the step that are still computed
    const int64_t *ranges_ = nullptr, *range_ends_ = nullptr;  // the step's, or those of a text's rows
    std::vector<int64_t> text_ranges_, text_ends_;
};

}  // namespace beholder
