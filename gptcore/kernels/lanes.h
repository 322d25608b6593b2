// Vectors of the machine that the file is compiled for: AVX-512, AVX2 with FMA, or whatever the compiler makes of four.
//
// Floats holds LANES fp32; Shorts holds SHORTS int16, whose products are added up in pairs as int32 (Sums).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define GPTWORKS_LANES "AVX-512"
#define GPTWORKS_X86
#include <immintrin.h>

constexpr long LANES = 16, SHORTS = 32;
constexpr int TILE_ROWS = 6;  // weight rows that the 32 registers hold products of, for four rows of activations
using Floats = __m512;
using Shorts = __m512i;
typedef int32_t Sums __attribute__((vector_size(64)));  // not __m512i: gcc then copies each sum at each step

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
inline Floats repeat(float a) { return _mm512_set1_ps(a); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats from_int8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline void from_nibbles(const uint8_t* p, Floats& low, Floats& high) {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    low = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
    high = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
}
inline __m256 halved(__m512 a) { return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); }
inline __m256i halved(Sums a) {
    const __m512i b = (__m512i)a;
    return _mm256_add_epi32(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
}

inline Sums no_sums() { return Sums{}; }
inline Shorts load(const int16_t* p) { return _mm512_loadu_si512(p); }
inline void widen(const int8_t* from, int16_t* to) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    _mm512_storeu_si512(to, _mm512_cvtepi8_epi16(bytes));
}
inline Sums fma(Shorts a, Shorts b, Sums sums) {
#if defined(__AVX512VNNI__)
    return (Sums)_mm512_dpwssd_epi32((__m512i)sums, a, b);
#else
    return sums + (Sums)_mm512_madd_epi16(a, b);
#endif
}

#elif defined(__AVX2__) && defined(__FMA__)
#define GPTWORKS_LANES "AVX2"
#define GPTWORKS_X86
#include <immintrin.h>

constexpr long LANES = 8, SHORTS = 16;
constexpr int TILE_ROWS = 3;
using Floats = __m256;
using Shorts = __m256i;
typedef int32_t Sums __attribute__((vector_size(32)));

inline Floats zeros() { return _mm256_setzero_ps(); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }
inline Floats repeat(float a) { return _mm256_set1_ps(a); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats from_int8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline void from_nibbles(const uint8_t* p, Floats& low, Floats& high) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    low = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
    high = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
}
inline __m256 halved(__m256 a) { return a; }
inline __m256i halved(Sums a) { return (__m256i)a; }

inline Sums no_sums() { return Sums{}; }
inline Shorts load(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void widen(const int8_t* from, int16_t* to) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtepi8_epi16(bytes));
}
inline Sums fma(Shorts a, Shorts b, Sums sums) { return sums + (Sums)_mm256_madd_epi16(a, b); }

#else
#define GPTWORKS_LANES "portable"

constexpr long LANES = 4, SHORTS = 8;
constexpr int TILE_ROWS = 3;
typedef float Floats __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef int32_t Sums __attribute__((vector_size(16)));

inline Floats zeros() { return Floats{0, 0, 0, 0}; }
inline Floats load(const float* p) {
    Floats a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
inline void store(float* p, Floats a) { std::memcpy(p, &a, sizeof a); }
inline Floats repeat(float a) { return Floats{a, a, a, a}; }
inline Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats from_int8(const int8_t* p) { return Floats{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
inline void from_nibbles(const uint8_t* p, Floats& low, Floats& high) {
    for (int i = 0; i < 4; ++i) low[i] = float(p[i] & 15), high[i] = float(p[i] >> 4);
}
inline Sums no_sums() { return Sums{}; }
inline Shorts load(const int16_t* p) {
    Shorts a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
inline void widen(const int8_t* from, int16_t* to) {
    for (int i = 0; i < 8; ++i) to[i] = from[i];
}
inline Sums fma(Shorts a, Shorts b, Sums sums) {
    for (int i = 0; i < 4; ++i) sums[i] += int32_t(a[2 * i]) * b[2 * i] + int32_t(a[2 * i + 1]) * b[2 * i + 1];
    return sums;
}
#endif

// The sums over the lanes of one or four vectors.
#if defined(GPTWORKS_X86)
inline void sum_four(Floats a, Floats b, Floats c, Floats d, float* out) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(halved(a), halved(b)), _mm256_hadd_ps(halved(c), halved(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
inline void sum_four(Sums a, Sums b, Sums c, Sums d, int32_t* out) {
    const __m256i pairs =
        _mm256_hadd_epi32(_mm256_hadd_epi32(halved(a), halved(b)), _mm256_hadd_epi32(halved(c), halved(d)));
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sums);
}
#else
template <class Vector, class Number>
inline void sum_four(Vector a, Vector b, Vector c, Vector d, Number* out) {
    out[0] = a[0] + a[1] + a[2] + a[3];
    out[1] = b[0] + b[1] + b[2] + b[3];
    out[2] = c[0] + c[1] + c[2] + c[3];
    out[3] = d[0] + d[1] + d[2] + d[3];
}
#endif

// Has the compiler keep a value in a register, where it would rather load it again for each use.
template <class Vector>
inline void keep(Vector& a) {
#if defined(__AVX512F__)
    asm("" : "+v"(a));
#elif defined(GPTWORKS_X86)
    asm("" : "+x"(a));
#endif
}

// a * b + c, rounded as the vectors round it.
inline float fma(float a, float b, float c) {
#if defined(GPTWORKS_X86)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

inline int32_t fma(int16_t a, int16_t b, int32_t c) { return int32_t(a) * b + c; }

inline float sum(Floats a) {
    float four[4];
    sum_four(a, a, a, a, four);
    return four[0];
}
