#include "trunk.h"

#include <string.h>

#include <algorithm>

namespace beholder {

namespace {

constexpr int STAGES = 5;  // per layer; between two of them all threads meet
constexpr long PAIRS = 4;  // blocks of gate and up that make one task where activations have no groups
constexpr long TILE = 8;   // rows that one thread prepares: no smaller than any level's tile
// So many rows every thread prepares for itself: it is less than what meeting once more would take.
constexpr long FEW_ROWS = TILE;
// How many pieces each thread should find in a stage: more even out what others take from one of them.
constexpr long PIECES = 6;

long pairs_per_task(const Activation &x) { return x.groups ? x.group / LANES : PAIRS; }

}  // namespace

Trunk::Trunk(const Shape &given, const Kernels &chosen, int threads, std::vector<int> processors)
    : shape(given), kernels(chosen), threads_(threads, std::move(processors)), own_(threads),
      counters_(given.layers * STAGES + 1) {
    const Format format = static_cast<Format>(shape.format), head = static_cast<Format>(shape.head_format);
    const long rows = shape.most_rows, width = shape.head_width, mixed = shape.heads * width;
    const long entered = mixed + 2 * shape.key_heads * width, inner = rounded_up(shape.inner, LANES);
    for (long layer = 0; layer < shape.layers; ++layer) {
        Layer made;
        made.enter = Packed(entered, shape.hidden, format, shape.group);
        made.leave = Packed(shape.hidden, mixed, format, shape.group);
        made.widen = Packed(2 * inner, shape.hidden, format, shape.group);
        made.narrow = Packed(shape.hidden, shape.inner, format, shape.group);
        made.first_norm.resize(rounded_up(shape.hidden, LANES));
        made.second_norm.resize(rounded_up(shape.hidden, LANES));
        layers_.push_back(std::move(made));
    }
    head_ = Packed(shape.vocabulary, shape.hidden, head, shape.head_group);
    last_norm_.resize(rounded_up(shape.hidden, LANES));
    hidden_stride_ = rounded_up(shape.hidden, BLOCK);
    mixed_stride_ = rounded_up(mixed, LANES);
    enter_stride_ = rounded_up(entered, BLOCK);
    hidden_.resize(rows * hidden_stride_);
    mixed_.resize(rows * mixed_stride_);
    entered_.resize(rows * enter_stride_);
    inner_ = Prepared(rows, shape.inner, format, shape.group);
    from_hidden_ = Prepared(rows, shape.hidden, format, shape.group);
    from_mixed_ = Prepared(rows, mixed, format, shape.group);
    for_head_ = Prepared(rows, shape.hidden, head, shape.head_group);
    const long few = std::min(rows, FEW_ROWS);
    const long padded = rounded_up(width, LANES);
    for (Own &own : own_) {
        own.from_hidden = Prepared(few, shape.hidden, format, shape.group);
        own.from_mixed = Prepared(few, mixed, format, shape.group);
        own.for_head = Prepared(few, shape.hidden, head, shape.head_group);
        own.row.resize(hidden_stride_);
        own.tile.resize(rows * BLOCK);
        own.group.resize(rows * pairs_per_task(inner_.activation) * LANES);
        own.heads.resize(2 * (shape.heads / shape.key_heads) * padded);
    }
}

Packed &Trunk::part(long layer, Part which) {
    if (which == Part::HEAD) return head_;
    Layer &l = layers_[layer];
    switch (which) {
        case Part::ENTER: return l.enter;
        case Part::LEAVE: return l.leave;
        case Part::WIDEN: return l.widen;
        default: return l.narrow;
    }
}

long Trunk::share(long tasks) const {
    return std::max(1L, tasks / (threads_.count() * PIECES));
}

const char *Trunk::check(const Step &step) const {
    if (!is_whole_) return "the trunk's weights were taken back; pack it again";
    if (step.rows < 1 || step.rows > shape.most_rows) return "more rows than the trunk was made for, or none";
    if (step.logits && step.logits_stride < rounded_up(shape.vocabulary, BLOCK)) return "logits are too narrow";
    if (!step.logits && !step.is_text) return "there is no room for logits";
    if (step.stored < F32 || step.stored > INT8) return "keys and values are stored as something that is not known";
    if (step.stored == INT8 && !(step.key_scales && step.value_scales)) return "bytes come without their scales";
    long length = 0;
    for (long row = 0, at = 0; row < (step.is_text ? 1 : step.rows); at = step.range_ends[row++]) {
        if (step.range_ends[row] <= at) return "a row has no place for its token";
        for (; at < step.range_ends[row]; ++at) {
            const int64_t first = step.ranges[2 * at], last = step.ranges[2 * at + 1];
            if (first < 0 || first >= last || last > step.places) return "a range of places is not there";
            length += last - first;
        }
    }
    if (step.is_text && length < step.rows) return "a text has fewer places than tokens";
    return nullptr;
}

// The ranges of a text, cut for each of its rows: each ends with the row's own place.
void Trunk::part_text(const Step &step) {
    long length = -step.rows;
    for (long at = 0; at < step.range_ends[0]; ++at) length += step.ranges[2 * at + 1] - step.ranges[2 * at];
    text_ranges_.clear();
    text_ends_.clear();
    for (long row = 0; row < step.rows; ++row) {
        long rest = length + row + 1;
        for (long at = 0; rest > 0; ++at) {
            const int64_t first = step.ranges[2 * at], last = std::min(step.ranges[2 * at + 1], first + rest);
            text_ranges_.push_back(first);
            text_ranges_.push_back(last);
            rest -= last - first;
        }
        text_ends_.push_back(static_cast<int64_t>(text_ranges_.size() / 2));
    }
    ranges_ = text_ranges_.data();
    range_ends_ = text_ends_.data();
}

void Trunk::prepare(const Step &step) {
    step_ = &step;
    ranges_ = step.ranges;
    range_ends_ = step.range_ends;
    if (step.is_text) part_text(step);
    long longest = 0;
    for (long row = 0, at = 0; row < step.rows; ++row) {
        long length = 0;
        for (; at < range_ends_[row]; ++at) length += ranges_[2 * at + 1] - ranges_[2 * at];
        longest = std::max(longest, rounded_up(length, LANES));
        memcpy(hidden_.data() + row * hidden_stride_, step.hidden + row * shape.hidden,
               sizeof(float) * shape.hidden);
    }
    const size_t scores = static_cast<size_t>(shape.heads / shape.key_heads * longest);
    for (Own &own : own_) {
        if (own.scores.size() < scores) own.scores.resize(2 * scores);
    }
    set_rows(step.rows);
    for (Counter &counter : counters_) counter.next.store(0, std::memory_order_relaxed);
}

const char *Trunk::run(const Step &step) {
    if (threads_.is_forked()) return "the process was forked after the trunk was made; make it in this process";
    if (is_busy_.exchange(true)) return "the trunk is running a step already";
    struct Release {
        std::atomic<bool> &flag;
        ~Release() { flag.store(false); }
    } release{is_busy_};
    if (const char *wrong = check(step)) return wrong;
    prepare(step);
    threads_.run([this](int thread) { work(thread); });
    return nullptr;
}

void Trunk::work(int thread) {
    Own &own = own_[thread];
    Counter *stage = counters_.data();
    const long rows = step_->rows;
    for (long number = 0; number < shape.layers; ++number) {
        const Layer &layer = layers_[number];
        multiply(layer.enter, normalised(layer.first_norm, own.from_hidden, from_hidden_, thread), (stage++)->next,
                 entered_.data(), enter_stride_);
        threads_.meet();
        long first = 0;
        if (step_->is_text) {  // rows look at each other's keys and values
            by_tiles(thread, [&](long row) {
                for (long head = 0; head < shape.key_heads; ++head) store_row(number, row, head, own);
            });
            threads_.meet();
            if (number + 1 == shape.layers) {  // beyond keys and values only the last row is asked for, if any
                if (!step_->logits) return;
                first = rows - 1;
            }
        }
        Next &next = (stage++)->next;
        for (long task; (task = first * shape.key_heads + next.fetch_add(1)) < rows * shape.key_heads;)
            attend(number, task / shape.key_heads, task % shape.key_heads, own);
        threads_.meet();
        if (first > 0) {
            if (thread == 0) keep_last_row();
            threads_.meet();
        }
        const auto convert = [this](Activation &to, long row) {
            kernels.convert(mixed_.data() + row * mixed_stride_, to, row, 0, mixed_stride_);
        };
        add(layer.leave, prepared(own.from_mixed, from_mixed_, thread, convert), (stage++)->next, own);
        threads_.meet();
        widen(layer, normalised(layer.second_norm, own.from_hidden, from_hidden_, thread), (stage++)->next, own);
        threads_.meet();
        add(layer.narrow, inner_.activation, (stage++)->next, own);
        threads_.meet();
    }
    if (step_->logits) score(own, thread, stage->next);
}

// What is left to do of a text is its last row's, which stands where the first stood from here on.
void Trunk::keep_last_row() {
    const long last = rows_ - 1;
    memcpy(hidden_.data(), hidden_.data() + last * hidden_stride_, sizeof(float) * hidden_stride_);
    memcpy(mixed_.data(), mixed_.data() + last * mixed_stride_, sizeof(float) * mixed_stride_);
    set_rows(1);
}

void Trunk::set_rows(long rows) {
    rows_ = rows;
    for (Prepared *one : {&inner_, &from_hidden_, &from_mixed_, &for_head_}) one->activation.rows = rows;
}

// The scores of all rows, or of a text's last.
void Trunk::score(Own &own, int thread, Next &next) {
    if (!step_->is_text) {
        multiply(head_, normalised(last_norm_, own.for_head, for_head_, thread), next, step_->logits,
                 step_->logits_stride);
        return;
    }
    const float *last = hidden_.data() + (rows_ - 1) * hidden_stride_;
    own.for_head.activation.rows = 1;
    kernels.normalise(last, last_norm_.data(), shape.epsilon, shape.hidden, own.row.data());
    kernels.convert(own.row.data(), own.for_head.activation, 0, 0, shape.hidden);
    multiply(head_, own.for_head.activation, next, step_->logits, step_->logits_stride);
}

// Rows of a tile stand in the same lines of memory, so one thread has them all.
template <typename Task>
void Trunk::by_tiles(int thread, const Task &task) {
    const long rows = rows_;
    for (long first = thread * TILE; first < rows; first += threads_.count() * TILE) {
        for (long row = first; row < std::min(first + TILE, rows); ++row) task(row);
    }
}

// What `fill` makes of each row: of few rows every thread for itself, of many together.
template <typename Fill>
const Activation &Trunk::prepared(Prepared &own, Prepared &shared, int thread, const Fill &fill) {
    const long rows = rows_;
    if (rows <= FEW_ROWS) {
        own.activation.rows = rows;
        for (long row = 0; row < rows; ++row) fill(own.activation, row);
        return own.activation;
    }
    by_tiles(thread, [&](long row) { fill(shared.activation, row); });
    threads_.meet();
    return shared.activation;
}

const Activation &Trunk::normalised(const std::vector<float> &norm, Prepared &own, Prepared &shared, int thread) {
    float *y = own_[thread].row.data();
    return prepared(own, shared, thread, [&](Activation &to, long row) {
        const float *x = hidden_.data() + row * hidden_stride_;
        kernels.normalise(x, norm.data(), shape.epsilon, shape.hidden, y);
        kernels.convert(y, to, row, 0, shape.hidden);
    });
}

void Trunk::multiply(const Packed &packed, const Activation &x, Next &next, float *out, long stride) const {
    const Matrix &matrix = packed.matrix;
    const long piece = share(matrix.blocks);
    for (long first; (first = next.fetch_add(piece)) < matrix.blocks;) {
        const long end = std::min(first + piece, matrix.blocks);
        kernels.multiply(matrix, first, end - first, x, out + first * BLOCK, stride);
    }
}

// hidden += matrix * x.
void Trunk::add(const Packed &packed, const Activation &x, Next &next, Own &own) {
    const Matrix &matrix = packed.matrix;
    const long piece = share(matrix.blocks), rows = rows_;
    for (long first; (first = next.fetch_add(piece)) < matrix.blocks;) {
        const long end = std::min(first + piece, matrix.blocks);
        for (long block = first; block < end; ++block) {
            kernels.multiply(matrix, block, 1, x, own.tile.data(), BLOCK);
            for (long row = 0; row < rows; ++row) {
                float *to = hidden_.data() + row * hidden_stride_ + block * BLOCK;
                const float *from = own.tile.data() + row * BLOCK;
                for (long lane = 0; lane < BLOCK; ++lane) to[lane] += from[lane];
            }
        }
    }
}

// One task makes as many activations as share a scale, for all rows, and leaves them in their final form. A
// block is one of gate and one of up.
void Trunk::widen(const Layer &layer, const Activation &x, Next &next, Own &own) {
    const Matrix &matrix = layer.widen.matrix;
    const long blocks = matrix.blocks, per_task = pairs_per_task(inner_.activation), rows = rows_;
    for (long task; (task = next.fetch_add(1)) * per_task < blocks;) {
        const long first = task * per_task, count = std::min(per_task, blocks - first);
        for (long block = 0; block < count; ++block) {
            kernels.multiply(matrix, first + block, 1, x, own.tile.data(), BLOCK);
            for (long row = 0; row < rows; ++row) {
                const float *both = own.tile.data() + row * BLOCK;
                kernels.gate(both, both + LANES, LANES, own.group.data() + (row * per_task + block) * LANES);
            }
        }
        for (long row = 0; row < rows; ++row)
            kernels.convert(own.group.data() + row * per_task * LANES, inner_.activation, row, first * LANES,
                            count * LANES);
    }
}

}  // namespace beholder
