// Inference on processors: matrix products of few rows that read the weights at the memory's speed, and a whole
// transformer block in one call. Called from gptcore/kernels/native.py through the C interface at the end.
//
// Shapes: N rows (positions of all sequences), C width, H heads, D = C / H.
#include <omp.h>

#include <vector>

#include "matrix.h"

namespace {

// The threads of one call. All of them go through the same steps and meet at each `wait`.
struct Team {
    int thread, n_threads;
    void wait() const {
#pragma omp barrier
    }
};

// exp(x), relative error 2e-7; the polynomial is that of Cephes' expf (netlib.org/cephes). NaN stays NaN.
inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float whole = std::floor(x * 1.44269504f + 0.5f);
    const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (int32_t(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// GELU in its tanh form, https://arxiv.org/abs/1606.08415: x (1 + tanh u) / 2 = x / (1 + exp(-2 u)).
inline void gelu(float* x, long n) {
#pragma omp simd
    for (long i = 0; i < n; ++i) {
        const float u = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exponential(-2.0f * u));
    }
}

enum After { NOTHING, GELU, ADD_TO };

// Memory of a call that all its threads see, kept from call to call by the thread that calls.
struct Shared {
    Scratch<float> hidden, wide, made, scales, split;
    Scratch<int16_t> shorts;
};

// y = x W^T + b, or gelu of it, or y += it. With int16 activations the rows are narrowed first.
void linear(const Matrix& a, const float* x, long n_rows, float* y, After after, bool narrow, Shared& shared, Team team) {
    const Range outputs = share(a.n_outputs, TILE_ROWS * 4, team.thread, team.n_threads);
    const long padded = rounded_up(a.n_inputs, SHORTS), n_own = outputs.end - outputs.begin;
    float* to = after == ADD_TO ? shared.made.take(0) : y;
    if (narrow && a.kind == INT8) {
        int16_t* shorts = shared.shorts.take(0);
        float* scales = shared.scales.take(0);
        const Range rows = share(n_rows, 1, team.thread, team.n_threads);
        for (long m = rows.begin; m < rows.end; ++m) narrowed(x + m * a.n_inputs, a.n_inputs, shorts + m * padded, scales + m);
        team.wait();
        multiply(a, shorts, scales, n_rows, outputs, to);
    } else if (is_split(a)) {
        float* parts = shared.split.take(0);
        const Range rows = share(n_rows, 1, team.thread, team.n_threads);
        for (long m = rows.begin; m < rows.end; ++m) split(x + m * a.n_inputs, a.n_inputs, parts + m * a.n_inputs);
        team.wait();
        multiply(a, parts, n_rows, outputs, to);
    } else {
        multiply(a, x, n_rows, outputs, to);
    }
    for (long m = 0; m < n_rows; ++m) {
        float* row = to + m * a.n_outputs + outputs.begin;
        const float* bias = a.bias ? a.bias + outputs.begin : nullptr;
        if (bias)
            for (long o = 0; o < n_own; ++o) row[o] += bias[o];
        if (after == GELU) gelu(row, n_own);
        if (after == ADD_TO) {
            float* sum = y + m * a.n_outputs + outputs.begin;
            for (long o = 0; o < n_own; ++o) sum[o] += row[o];
        }
    }
    team.wait();
}

}  // namespace

extern "C" {

struct Norm {
    const float *gain, *bias;
    float epsilon;
};

// A pre-norm block of GPT-2; the layout is known to gptcore/kernels/native.py as well.
struct Block {
    Norm norm_1, norm_2;
    Matrix qkv, out, up, down;
    int64_t n_heads;
};

// Keys and values (sequences, H, S, D) of one layer, D apart from one place to the next.
struct Cache {
    float *keys, *values;
    int64_t row_stride, head_stride;  // in numbers, of both
};
}

namespace {

void normalise(const Norm& norm, const float* x, long n_rows, long width, float* y, Team team) {
    const Range rows = share(n_rows, 1, team.thread, team.n_threads);
    for (long m = rows.begin; m < rows.end; ++m) {
        const float* from = x + m * width;
        float* to = y + m * width;
        float mean = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (long i = 0; i < width; ++i) mean += from[i];
        mean /= float(width);
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < width; ++i) square += (from[i] - mean) * (from[i] - mean);
        const float inverse = 1.0f / std::sqrt(square / float(width) + norm.epsilon);
#pragma omp simd
        for (long i = 0; i < width; ++i) to[i] = (from[i] - mean) * inverse * norm.gain[i] + norm.bias[i];
    }
    team.wait();
}

float dot(const float* a, const float* b, long n) {
    Floats sums = zeros();
    long i = 0;
    for (; i + LANES <= n; i += LANES) sums = fma(load(a + i), load(b + i), sums);
    float total = sum(sums);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

// softmax(q K^T / sqrt(D)) V of one query over the first n_keys places; to (D).
void attend(const float* query, const float* keys, const float* values, long n_keys, long depth, float* to) {
    static thread_local Scratch<float> scratch;
    float* weights = scratch.take(n_keys);
    const float scale = 1.0f / std::sqrt(float(depth));
    float highest = -INFINITY, mass = 0.0f;
    for (long k = 0; k < n_keys; ++k) {
        weights[k] = dot(query, keys + k * depth, depth) * scale;
        highest = std::max(highest, weights[k]);
    }
#pragma omp simd reduction(+ : mass)
    for (long k = 0; k < n_keys; ++k) {
        weights[k] = exponential(weights[k] - highest);
        mass += weights[k];
    }
    std::fill(to, to + depth, 0.0f);
    for (long k = 0; k < n_keys; ++k) {
        const float weight = weights[k] / mass;
        const float* value = values + k * depth;
#pragma omp simd
        for (long d = 0; d < depth; ++d) to[d] += weight * value[d];
    }
}

// Write the new keys and values; then each position sees what stands before it, itself included. qkv (N, 3 C), y (N, C).
void attention(
    const Block& block, const float* qkv, long n_rows, long n_new, const Cache& cache, const int64_t* positions, float* y,
    Team team
) {
    const long heads = block.n_heads, width = block.out.n_inputs, depth = width / heads, n_sequences = n_rows / n_new;
    const Range pairs = share(n_sequences * heads, 1, team.thread, team.n_threads);
    for (long pair = pairs.begin; pair < pairs.end; ++pair) {
        const long sequence = pair / heads, head = pair % heads;
        const long place = sequence * cache.row_stride + head * cache.head_stride;
        for (long t = 0; t < n_new; ++t) {
            const long m = sequence * n_new + t;
            const float* key = qkv + m * 3 * width + width + head * depth;
            std::copy(key, key + depth, cache.keys + place + positions[m] * depth);
            std::copy(key + width, key + width + depth, cache.values + place + positions[m] * depth);
        }
        for (long t = 0; t < n_new; ++t) {
            const long m = sequence * n_new + t;
            const float* query = qkv + m * 3 * width + head * depth;
            attend(query, cache.keys + place, cache.values + place, positions[m] + 1, depth, y + m * width + head * depth);
        }
    }
    team.wait();
}

void reserve(Shared& shared, long n_rows, long widest_input, long widest_added) {
    shared.made.take(n_rows * widest_added);
    shared.shorts.take(n_rows * rounded_up(widest_input, SHORTS));
    shared.split.take(n_rows * widest_input);
    shared.scales.take(n_rows);
}

}  // namespace

extern "C" {

const char* gptworks_lanes() { return GPTWORKS_LANES; }

// y (N, O) = x (N, I) W^T + b.
void gptworks_linear(const Matrix* a, const float* x, int64_t n_rows, float* y, int64_t narrow, int64_t n_threads) {
    static thread_local Shared shared;
    Shared& mine = shared;
    reserve(mine, n_rows, a->n_inputs, 0);
#pragma omp parallel num_threads(int(n_threads))
    linear(*a, x, n_rows, y, NOTHING, narrow, mine, Team{omp_get_thread_num(), omp_get_num_threads()});
}

// x (N, C), in place, through blocks of one shape, for N / n_new sequences of n_new new positions (N) each, which the
// caches (one a block) take up.
void gptworks_blocks(
    const Block* blocks, const Cache* caches, int64_t n_blocks, float* x, int64_t n_rows, int64_t n_new,
    const int64_t* positions, int64_t narrow, int64_t n_threads
) {
    static thread_local Shared shared;
    Shared& mine = shared;
    const long width = blocks->out.n_outputs, inner = blocks->up.n_outputs, mixed = blocks->out.n_inputs;
    float* hidden = mine.hidden.take(n_rows * std::max(width, mixed));
    float* wide = mine.wide.take(n_rows * std::max(3 * mixed, inner));
    reserve(mine, n_rows, std::max({width, mixed, inner}), width);
#pragma omp parallel num_threads(int(n_threads))
    {
        const Team team{omp_get_thread_num(), omp_get_num_threads()};
        for (long i = 0; i < n_blocks; ++i) {
            const Block& block = blocks[i];
            normalise(block.norm_1, x, n_rows, width, hidden, team);
            linear(block.qkv, hidden, n_rows, wide, NOTHING, narrow, mine, team);
            attention(block, wide, n_rows, n_new, caches[i], positions, hidden, team);
            linear(block.out, hidden, n_rows, x, ADD_TO, narrow, mine, team);
            normalise(block.norm_2, x, n_rows, width, hidden, team);
            linear(block.up, hidden, n_rows, wide, GELU, narrow, mine, team);
            linear(block.down, wide, n_rows, x, ADD_TO, narrow, mine, team);
        }
    }
}
}
