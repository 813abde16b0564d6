/* Sorts of u64 keys: ascending, in place, distinct keys below 2^60. `scratch` has room for all. */

#ifndef SORTS_H
#define SORTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

static void sort_insertion(uint64_t *keys, uint64_t *scratch, int count) {
  (void)scratch;
  for (int i = 1; i < count; i++) {
    uint64_t key = keys[i];
    int j = i;
    for (; j > 0 && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

/* The place of a key is how many are smaller: quadratic, without branches. */
static void sort_rank(uint64_t *keys, uint64_t *scratch, int count) {
  for (int i = 0; i < count; i++) {
    uint64_t key = keys[i];
    int rank = 0;
    for (int j = 0; j < count; j++) rank += keys[j] < key;
    scratch[rank] = key;
  }
  memcpy(keys, scratch, (size_t)count * 8);
}

static int compare_keys(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void sort_qsort(uint64_t *keys, uint64_t *scratch, int count) {
  (void)scratch;
  qsort(keys, (size_t)count, 8, compare_keys);
}

/* Runs of 8 by insertion, then merges from the bottom up. */
static void sort_merge(uint64_t *keys, uint64_t *scratch, int count) {
  uint64_t *from = keys, *to = scratch;
  for (int at = 0; at < count; at += 8) {
    sort_insertion(keys + at, scratch, count - at < 8 ? count - at : 8);
  }
  for (int width = 8; width < count; width *= 2) {
    for (int at = 0; at < count; at += 2 * width) {
      int middle = at + width < count ? at + width : count;
      int end = at + 2 * width < count ? at + 2 * width : count;
      int i = at, j = middle;
      uint64_t *out = to + at;
      while (i < middle && j < end) {
        uint64_t x = from[i], y = from[j];
        int first = x < y;
        *out++ = first ? x : y;
        i += first;
        j += !first;
      }
      while (i < middle) *out++ = from[i++];
      while (j < end) *out++ = from[j++];
    }
    uint64_t *swap = from;
    from = to;
    to = swap;
  }
  if (from != keys) memcpy(keys, from, (size_t)count * 8);
}

/* Least significant digit first, from the place up: kind and sector, without the bits that all keys
 * share. The slots below are put right by insertion, which has little to do: equal places are rare. */
INLINE void sort_radix(uint64_t *keys, uint64_t *scratch, int count, int bits) {
  uint64_t any = 0, all = ~(uint64_t)0;
  uint64_t *from = keys, *to = scratch;
  uint16_t places[256];
  const unsigned mask = (1u << bits) - 1;
  for (int i = 0; i < count; i++) {
    any |= keys[i];
    all &= keys[i];
  }
  for (int shift = 12; shift < 60;) {
    uint64_t varying = (any & ~all) >> shift;
    if (varying == 0) break;
    shift += __builtin_ctzll(varying);
    memset(places, 0, sizeof places);
    for (int i = 0; i < count; i++) places[(from[i] >> shift) & mask]++;
    for (unsigned i = 0, sum = 0; i <= mask; i++) {
      unsigned here = places[i];
      places[i] = (uint16_t)sum;
      sum += here;
    }
    for (int i = 0; i < count; i++) to[places[(from[i] >> shift) & mask]++] = from[i];
    uint64_t *swap = from;
    from = to;
    to = swap;
    shift += bits;
  }
  if (from != keys) memcpy(keys, from, (size_t)count * 8);
  sort_insertion(keys, scratch, count);
}

static void sort_radix6(uint64_t *keys, uint64_t *scratch, int count) {
  sort_radix(keys, scratch, count, 6);
}

static void sort_radix8(uint64_t *keys, uint64_t *scratch, int count) {
  sort_radix(keys, scratch, count, 8);
}

/* For a sorted prefix and a short tail: the tail by insertion, then a merge from the back. */
static void sort_tail(uint64_t *keys, uint64_t *scratch, int count) {
  int prefix = 1;
  while (prefix < count && keys[prefix - 1] < keys[prefix]) prefix++;
  int tail = count - prefix;
  memcpy(scratch, keys + prefix, (size_t)tail * 8);
  sort_insertion(scratch, 0, tail);
  for (int i = prefix - 1, j = tail - 1, to = count - 1; j >= 0; to--) {
    if (i >= 0 && keys[i] > scratch[j]) keys[to] = keys[i--];
    else keys[to] = scratch[j--];
  }
}

#endif
