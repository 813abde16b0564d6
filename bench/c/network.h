/* The algorithm of assembly/simd/sort-network.ts in C, for 8 keys and for powers of two from 16. */

#ifndef NETWORK_H
#define NETWORK_H

#include "sorts.h"

/* Keys are u64 elsewhere. */
typedef double Pair __attribute__((vector_size(16), may_alias));
typedef uint64_t Bits __attribute__((vector_size(16)));

#ifdef __SSE2__
#include <emmintrin.h>
#define LEAST(a, b) ((Pair)_mm_min_pd((__m128d)(a), (__m128d)(b)))
#define MOST(a, b) ((Pair)_mm_max_pd((__m128d)(a), (__m128d)(b)))
#else
INLINE Pair pick(Bits mask, Pair a, Pair b) { return (Pair)(((Bits)a & mask) | ((Bits)b & ~mask)); }
#define LEAST(a, b) pick((Bits)((a) < (b)), a, b)
#define MOST(a, b) pick((Bits)((a) < (b)), b, a)
#endif

#define SHUFFLE(a, b, i, j) ((Pair)__builtin_shuffle((a), (b), (Bits){i, j}))
#define SORT(a, b) \
  do { \
    Pair least = LEAST(a, b); \
    b = MOST(a, b); \
    a = least; \
  } while (0)

static const Bits BIAS = {(uint64_t)1 << 62, (uint64_t)1 << 62};

INLINE Pair biased(Pair a) { return (Pair)((Bits)a | BIAS); }
INLINE Pair unbiased(Pair a) { return (Pair)((Bits)a & ~BIAS); }

static void sort_lanes(const Pair *from, Pair *to) {
  Pair a = biased(from[0]), b = biased(from[1]), c = biased(from[2]), d = biased(from[3]);
  Pair e = biased(from[4]), f = biased(from[5]), g = biased(from[6]), h = biased(from[7]);
  SORT(a, c); SORT(b, d); SORT(e, g); SORT(f, h);
  SORT(a, e); SORT(b, f); SORT(c, g); SORT(d, h);
  SORT(a, b); SORT(c, d); SORT(e, f); SORT(g, h);
  SORT(c, e); SORT(d, f);
  SORT(b, e); SORT(d, g);
  SORT(b, c); SORT(d, e); SORT(f, g);
  to[0] = a; to[1] = b; to[2] = c; to[3] = d;
  to[4] = e; to[5] = f; to[6] = g; to[7] = h;
}

INLINE void store_halved(Pair *at, int step, Pair a, Pair b, Pair c, Pair d) {
  SORT(a, c); SORT(b, d);
  SORT(a, b); SORT(c, d);
  at[0] = a; at[step] = b; at[2 * step] = c; at[3 * step] = d;
}

static void merge_mirrored(Pair *work, int height, int run) {
  int step = run / 8;
  for (Pair *block = work; block < work + height; block += run) {
    Pair *down = block + run / 2 + step - 1;
    for (Pair *up = block; up < block + step; up++, down--) {
      Pair a = up[0], b = up[step], c = up[2 * step], d = up[3 * step];
      Pair e = down[0], f = down[step], g = down[2 * step], h = down[3 * step];
      SORT(a, h); SORT(b, g); SORT(c, f); SORT(d, e);
      store_halved(up, step, a, b, c, d);
      store_halved(down, step, e, f, g, h);
    }
  }
}

static void merge_step(Pair *work, int height, int step) {
  for (Pair *block = work; block < work + height; block += 8 * step) {
    for (Pair *at = block; at < block + step; at++) {
      Pair a = at[0], b = at[step], c = at[2 * step], d = at[3 * step];
      Pair e = at[4 * step], f = at[5 * step], g = at[6 * step], h = at[7 * step];
      SORT(a, e); SORT(b, f); SORT(c, g); SORT(d, h);
      store_halved(at, step, a, b, c, d);
      store_halved(at + 4 * step, step, e, f, g, h);
    }
  }
}

static void merge_falling(Pair *work, int height, int distance) {
  for (; distance > 4; distance >>= 3) merge_step(work, height, distance >> 2);
}

#define CROSS(a, b) \
  do { \
    Pair swapped = SHUFFLE(b, b, 1, 0); \
    Pair least = LEAST(a, swapped), most = MOST(a, swapped); \
    a = SHUFFLE(least, most, 0, 3); \
    b = SHUFFLE(least, most, 1, 2); \
  } while (0)

static void merge_lanes(Pair *work, int height) {
  int step = height / 4;
  Pair *down = work + step - 1;
  for (Pair *up = work; up < down; up++, down--) {
    Pair a = up[0], b = up[step], c = up[2 * step], d = up[3 * step];
    Pair e = down[0], f = down[step], g = down[2 * step], h = down[3 * step];
    CROSS(a, h); CROSS(b, g); CROSS(c, f); CROSS(d, e);
    store_halved(up, step, a, b, c, d);
    store_halved(down, step, e, f, g, h);
  }
}

INLINE void store_split(Pair *lower, Pair *upper, Pair a, Pair b) {
  SORT(a, b);
  *lower = unbiased(SHUFFLE(a, b, 0, 2));
  *upper = unbiased(SHUFFLE(a, b, 1, 3));
}

static void finish_lanes(const Pair *at, int height, Pair *lower, Pair *upper) {
  for (const Pair *end = at + height; at < end; at += 8, lower += 4, upper += 4) {
    Pair a = at[0], b = at[1], c = at[2], d = at[3], e = at[4], f = at[5], g = at[6], h = at[7];
    SORT(a, e); SORT(b, f); SORT(c, g); SORT(d, h);
    SORT(a, c); SORT(b, d); SORT(e, g); SORT(f, h);
    store_split(lower, upper, a, b);
    store_split(lower + 1, upper + 1, c, d);
    store_split(lower + 2, upper + 2, e, f);
    store_split(lower + 3, upper + 3, g, h);
  }
}

INLINE void store_four(Pair *at, Pair a, Pair b) {
  SORT(a, b);
  Pair even = SHUFFLE(a, b, 0, 2), odd = SHUFFLE(a, b, 1, 3);
  SORT(even, odd);
  at[0] = unbiased(SHUFFLE(even, odd, 0, 2));
  at[1] = unbiased(SHUFFLE(even, odd, 1, 3));
}

static void sort_eight(Pair *keys) {
  Pair a = biased(keys[0]), b = biased(keys[1]), c = biased(keys[2]), d = biased(keys[3]);
  SORT(a, c); SORT(b, d);
  SORT(a, b); SORT(c, d);
  SORT(b, c);
  Pair x01 = SHUFFLE(a, b, 0, 2), x23 = SHUFFLE(c, d, 0, 2);
  Pair y32 = SHUFFLE(d, c, 1, 3), y10 = SHUFFLE(b, a, 1, 3);
  SORT(x01, y32);
  SORT(x23, y10);
  store_four(keys, x01, x23);
  store_four(keys + 2, y32, y10);
}

static void sort_network(uint64_t *keys, uint64_t *scratch, int count) {
  Pair *source = (Pair *)keys, *work = (Pair *)scratch;
  if (count == 8) {
    sort_eight(source);
    return;
  }
  int height = count / 2;
  for (int at = 0; at < height; at += 8) sort_lanes(source + at, work + at);
  for (int run = 16; run <= height; run *= 2) {
    merge_mirrored(work, height, run);
    merge_falling(work, height, run / 16);
    merge_step(work, height, 1);
  }
  merge_lanes(work, height);
  merge_falling(work, height, height / 8);
  finish_lanes(work, height, source, source + height / 2);
}

#endif
