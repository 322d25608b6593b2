// One weight matrix times a few rows of activations: y = x W^T + b, the weights read once.
//
// Shapes: O outputs (rows of W), I inputs, N rows of activations, G group size.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <new>

#include "lanes.h"

enum Kind : int64_t { FLOAT32 = 0, INT8 = 1, INT4 = 2 };

// As gptcore/transforms/quantize.py stores it; the layout is known to gptcore/kernels/native.py as well.
struct Matrix {
    int64_t kind;
    int64_t group;  // G, with INT4
    int64_t n_outputs, n_inputs;
    const void* codes;      // fp32 (O, I); int8 (O, I); uint8 (O, I / 2), low nibble first
    const float* scales;    // (O) with INT8, (O, I / G) with INT4
    const float* minimums;  // (O, I / G) with INT4: the value of code 0
    const float* bias;      // (O) or null
};

// Memory that a thread keeps from call to call.
template <class Number>
class Scratch {
  public:
    ~Scratch() { release(); }
    Number* take(long n) {
        if (n > size_) {
            release();
            data_ = static_cast<Number*>(::operator new(sizeof(Number) * n, std::align_val_t(64)));
            size_ = n;
        }
        return data_;
    }

  private:
    void release() {
        if (data_) ::operator delete(data_, std::align_val_t(64));
        data_ = nullptr, size_ = 0;
    }
    Number* data_ = nullptr;
    long size_ = 0;
};

struct Range {
    long begin, end;
};

// The part of n things, in whole blocks, that falls to one of several threads.
inline Range share(long n, long block, int thread, int n_threads) {
    const long n_blocks = (n + block - 1) / block;
    return {std::min(n, n_blocks * thread / n_threads * block), std::min(n, n_blocks * (thread + 1) / n_threads * block)};
}

inline long rounded_up(long n, long block) { return (n + block - 1) / block * block; }

// Several short rows at once are not a stream that the processor would read ahead by itself. Called with each step through
// a block of rows, this asks for the same part of the block after the next: `n` bytes, at most two lines.
inline void read_ahead(const void* block, long block_bytes, long done, long n = 1) {
    const char* next = static_cast<const char*>(block) + 2 * block_bytes + done;
    __builtin_prefetch(next);
    if (n > 64) __builtin_prefetch(next + 64);
}

// -------------------------------------------------------------------------------------------------------------- tiles

// What a tile of fp32 or int16 numbers is computed with.
template <class Number>
struct Vectors;
template <>
struct Vectors<float> {
    using Vector = Floats;
    using Sum = Floats;
    using Total = float;
    static constexpr long LENGTH = LANES;
    static Sum zero() { return zeros(); }
};
template <>
struct Vectors<int16_t> {
    using Vector = Shorts;
    using Sum = Sums;
    using Total = int32_t;
    static constexpr long LENGTH = SHORTS;
    static Sum zero() { return no_sums(); }
};

// R rows of weights by M <= 4 rows of activations; out[r * 4 + m].
template <int R, int M, class Number, class Total>
inline void tile(const Number* w, const Number* x, long n, Total* out) {
    using Of = Vectors<Number>;
    typename Of::Sum sums[R][4];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < 4; ++m) sums[r][m] = Of::zero();
    constexpr long STEP = sizeof(Number) * R * Of::LENGTH;
    const bool is_short = M == 1 && n * sizeof(Number) < 4096;  // longer rows are streams of their own
    long k = 0;
    for (; k + Of::LENGTH <= n; k += Of::LENGTH) {
        if (is_short) read_ahead(w, sizeof(Number) * R * n, sizeof(Number) * R * k, STEP);
        typename Of::Vector activations[M];
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) activations[m] = load(x + m * n + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            typename Of::Vector weights = load(w + r * n + k);
            keep(weights);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) sums[r][m] = fma(weights, activations[m], sums[r][m]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum_four(sums[r][0], sums[r][1], sums[r][2], sums[r][3], out + r * 4);
    for (; k < n; ++k)
        for (int r = 0; r < R; ++r)
            for (int m = 0; m < M; ++m) out[r * 4 + m] = fma(w[r * n + k], x[m * n + k], out[r * 4 + m]);
}

template <int R, class Number, class Total>
inline void tile(const Number* w, const Number* x, int n_rows, long n, Total* out) {
    if (n_rows == 4) return tile<R, 4>(w, x, n, out);
    if (n_rows == 3) return tile<R, 3>(w, x, n, out);
    if (n_rows == 2) return tile<R, 2>(w, x, n, out);
    tile<R, 1>(w, x, n, out);
}

// ----------------------------------------------------------------------------------------------------- int16 activations

// A row of activations as int16, with as many bits as the int32 sums of I products with int8 leave room for: 5,504 steps
// to each side for GPT-2's longest rows. A value that is not finite makes the scale NaN, and so the whole result.
inline void narrowed(const float* x, long n, int16_t* out, float* scale) {
    float largest = 0.0f, finite = 0.0f;
#pragma omp simd reduction(max : largest) reduction(+ : finite)
    for (long i = 0; i < n; ++i) {
        largest = std::max(largest, std::fabs(x[i]));
        finite += x[i] * 0.0f;
    }
    const float limit = float(std::min<int64_t>(32767, INT32_MAX / (127 * std::max<int64_t>(1, n))));
    const float inverse = largest > 0.0f ? limit / largest : 0.0f;
    *scale = largest / limit + finite;
#pragma omp simd
    for (long i = 0; i < n; ++i) {
        const float y = x[i] * inverse;
        out[i] = int16_t(int32_t(y + (y < 0.0f ? -0.5f : 0.5f)));
    }
    std::fill(out + n, out + rounded_up(n, SHORTS), int16_t(0));
}

// ------------------------------------------------------------------------------------------------- rows, dequantized

// INT4 codes come two to a byte. Where a group is made of whole pairs of vectors the activations are put into the order
// in which the nibbles fall out of the bytes: the even places of 2 * LANES inputs, then the odd ones.
inline bool is_split(const Matrix& a) { return a.kind == INT4 && a.group % (2 * LANES) == 0; }

inline void split(const float* x, long n, float* out) {
    for (long k = 0; k < n; k += 2 * LANES)
        for (long i = 0; i < LANES; ++i) {
            out[k + i] = x[k + 2 * i];
            out[k + LANES + i] = x[k + 2 * i + 1];
        }
}

// Without its scale, which is applied to the sums.
inline void dense_int8(const int8_t* codes, long n, float* out) {
    long i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, from_int8(codes + i));
    for (; i < n; ++i) out[i] = float(codes[i]);
}

inline void dense_int4(const Matrix& a, long row, float* out) {
    const long n = a.n_inputs, n_groups = n / a.group;
    const uint8_t* codes = static_cast<const uint8_t*>(a.codes) + row * (n / 2);
    const float *scales = a.scales + row * n_groups, *minimums = a.minimums + row * n_groups;
    if (is_split(a)) {
        for (long k = 0; k < n; k += 2 * LANES) {
            const Floats scale = repeat(scales[k / a.group]), minimum = repeat(minimums[k / a.group]);
            Floats low, high;
            from_nibbles(codes + k / 2, low, high);
            store(out + k, fma(low, scale, minimum));
            store(out + k + LANES, fma(high, scale, minimum));
        }
        return;
    }
    for (long k = 0; k < n; ++k) {
        const int code = k % 2 ? codes[k / 2] >> 4 : codes[k / 2] & 15;
        out[k] = float(code) * scales[k / a.group] + minimums[k / a.group];
    }
}

// Rows of fp32 weights in one piece: the matrix itself, or dequantized into scratch.
inline const float* dense_rows(const Matrix& a, long row, long n_rows, Scratch<float>& scratch) {
    const long n = a.n_inputs;
    if (a.kind == FLOAT32) return static_cast<const float*>(a.codes) + row * n;
    float* out = scratch.take(n_rows * n);
    for (long r = 0; r < n_rows; ++r) {
        if (a.kind == INT8) dense_int8(static_cast<const int8_t*>(a.codes) + (row + r) * n, n, out + r * n);
        else dense_int4(a, row + r, out + r * n);
    }
    return out;
}

// --------------------------------------------------------------------------------------------- one row of activations
//
// Dequantized in the registers. The sums are taken in the order of the fp32 tile, so that a row of activations gives the
// same bits whether it comes alone or with others.

constexpr int ONE_ROWS = 6;  // weight rows at a time: as many chains of additions hide each other's latency

template <int R>
inline void one_int8(const Matrix& a, long row, const float* x, float* y) {
    const long n = a.n_inputs;
    const int8_t* w = static_cast<const int8_t*>(a.codes) + row * n;
    Floats sums[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r] = zeros();
    long k = 0;
    for (; k + LANES <= n; k += LANES) {
        read_ahead(w, R * n, R * k);
        const Floats activations = load(x + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r] = fma(from_int8(w + r * n + k), activations, sums[r]);
    }
    for (int r = 0; r < R; ++r) {
        float total = sum(sums[r]);
        for (long i = k; i < n; ++i) total = fma(float(w[r * n + i]), x[i], total);
        y[row + r] = total * a.scales[row + r];
    }
}

// STEPS pairs of vectors make a group; 0: as many as it takes.
template <int R, int STEPS>
inline void one_int4(const Matrix& a, long row, const float* x, float* y) {
    const long half = a.n_inputs / 2, n_groups = a.n_inputs / a.group, n_steps = STEPS ? STEPS : a.group / (2 * LANES);
    const uint8_t* w = static_cast<const uint8_t*>(a.codes) + row * half;
    const float *scales = a.scales + row * n_groups, *minimums = a.minimums + row * n_groups;
    const uint8_t* codes = w;
    Floats sums[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r] = zeros();
    for (long g = 0; g < n_groups; ++g) {
        read_ahead(scales, sizeof(float) * R * n_groups, sizeof(float) * R * g);
        read_ahead(minimums, sizeof(float) * R * n_groups, sizeof(float) * R * g);
        for (long s = 0; s < n_steps; ++s) read_ahead(w, R * half, R * (codes - w + s * LANES));
        // A row's numbers stay in the registers through its group; with all rows' they would not.
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Floats scale = repeat(scales[r * n_groups + g]), minimum = repeat(minimums[r * n_groups + g]);
#pragma GCC unroll 4
            for (long s = 0; s < n_steps; ++s) {
                Floats low, high;
                from_nibbles(codes + r * half + s * LANES, low, high);
                sums[r] = fma(fma(low, scale, minimum), load(x + 2 * s * LANES), sums[r]);
                sums[r] = fma(fma(high, scale, minimum), load(x + (2 * s + 1) * LANES), sums[r]);
            }
        }
        codes += n_steps * LANES, x += 2 * n_steps * LANES;
    }
    for (int r = 0; r < R; ++r) y[row + r] = sum(sums[r]);
}

template <int R>
inline void one_int4(const Matrix& a, long row, const float* x, float* y) {
    switch (a.group / (2 * LANES)) {
        case 1: return one_int4<R, 1>(a, row, x, y);
        case 2: return one_int4<R, 2>(a, row, x, y);
        case 4: return one_int4<R, 4>(a, row, x, y);
        default: return one_int4<R, 0>(a, row, x, y);
    }
}

inline void multiply_one(const Matrix& a, const float* x, Range outputs, float* y) {
    long o = outputs.begin;
    for (; o + ONE_ROWS <= outputs.end; o += ONE_ROWS) {
        if (a.kind == INT8) one_int8<ONE_ROWS>(a, o, x, y);
        else one_int4<ONE_ROWS>(a, o, x, y);
    }
    for (; o < outputs.end; ++o) {
        if (a.kind == INT8) one_int8<1>(a, o, x, y);
        else one_int4<1>(a, o, x, y);
    }
}

// ---------------------------------------------------------------------------------------------------- several rows

// Weight rows that are dequantized at a time: they stay in the second-level cache while all activations pass by.
inline long rows_at_a_time(const Matrix& a, long bytes_each) {
    const long fitting = 262144 / (bytes_each * std::max<int64_t>(1, a.n_inputs));
    return std::max<long>(1, fitting / TILE_ROWS) * TILE_ROWS;
}

// Goes through all tiles of some weight rows by all rows of activations; `done(r, m, sum)` takes each sum.
template <class Number, class Total, class Done>
inline void in_tiles(const Number* weights, long n_weights, const Number* x, long n_rows, long n, Total* out, Done done) {
    for (long m = 0; m < n_rows; m += 4) {
        const int rows = int(std::min<long>(4, n_rows - m));
        for (long r = 0; r < n_weights;) {
            const bool whole = r + TILE_ROWS <= n_weights;
            const int n_tile = whole ? TILE_ROWS : 1;
            if (whole) tile<TILE_ROWS>(weights + r * n, x + m * n, rows, n, out);
            else tile<1>(weights + r * n, x + m * n, rows, n, out);
            for (int j = 0; j < rows; ++j)
                for (int i = 0; i < n_tile; ++i) done(r + i, m + j, out[i * 4 + j]);
            r += n_tile;
        }
    }
}

// y (N, O) for the outputs of a range, without bias; x is split where `is_split` says so.
inline void multiply(const Matrix& a, const float* x, long n_rows, Range outputs, float* y) {
    if (n_rows == 1 && (a.kind == INT8 || is_split(a))) return multiply_one(a, x, outputs, y);
    static thread_local Scratch<float> scratch;
    const long block = rows_at_a_time(a, sizeof(float)), width = a.n_outputs;
    float out[TILE_ROWS * 4];
    for (long first = outputs.begin; first < outputs.end; first += block) {
        const long here = std::min(block, outputs.end - first);
        const float* weights = dense_rows(a, first, here, scratch);
        if (a.kind == INT8)
            in_tiles(weights, here, x, n_rows, a.n_inputs, out, [&](long r, long m, float total) {
                y[m * width + first + r] = total * a.scales[first + r];
            });
        else
            in_tiles(weights, here, x, n_rows, a.n_inputs, out, [&](long r, long m, float total) {
                y[m * width + first + r] = total;
            });
    }
}

// As above, from int16 activations (N, I rounded up to SHORTS) with a scale a row; for INT8 alone.
inline void multiply(const Matrix& a, const int16_t* x, const float* x_scales, long n_rows, Range outputs, float* y) {
    static thread_local Scratch<int16_t> scratch;
    const long n = a.n_inputs, padded = rounded_up(n, SHORTS), block = rows_at_a_time(a, sizeof(int16_t));
    int16_t* weights = scratch.take(block * padded);
    int32_t out[TILE_ROWS * 4];
    for (long first = outputs.begin; first < outputs.end; first += block) {
        const long here = std::min(block, outputs.end - first);
        for (long r = 0; r < here; ++r) {
            const int8_t* codes = static_cast<const int8_t*>(a.codes) + (first + r) * n;
            int16_t* to = weights + r * padded;
            long i = 0;
            for (; i + SHORTS <= n; i += SHORTS) widen(codes + i, to + i);
            for (; i < n; ++i) to[i] = codes[i];
            std::fill(to + n, to + padded, int16_t(0));
        }
        in_tiles(weights, here, x, n_rows, padded, out, [&](long r, long m, int32_t total) {
            y[m * a.n_outputs + first + r] = float(total) * (a.scales[first + r] * x_scales[m]);
        });
    }
}
