/* Peers of runBatch and rangeBatch in assembly/simd/bench.ts. */

#include <stdint.h>

#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)

static __attribute__((noinline)) int count_contiguous(const uint64_t *entries, int count,
                                                      uint64_t first, uint64_t step) {
  int at = 0;
  while (at < count && __builtin_bswap64(entries[at]) == first + (uint64_t)at * step) at++;
  return at;
}

/* Blocks of eight without a branch inside: what a compiler can make vectors of. */
static __attribute__((noinline)) int count_contiguous8(const uint64_t *entries, int count,
                                                       uint64_t first, uint64_t step) {
  int at = 0;
  for (; at + 8 <= count; at += 8) {
    uint64_t differs = 0;
    for (int i = 0; i < 8; i++) {
      differs |= __builtin_bswap64(entries[at + i]) ^ (first + (uint64_t)(at + i) * step);
    }
    if (differs) break;
  }
  while (at < count && __builtin_bswap64(entries[at]) == first + (uint64_t)at * step) at++;
  return at;
}

static __attribute__((noinline)) int any_in_range(const uint64_t *entries, int count,
                                                  uint64_t start, uint64_t end) {
  int found = 0;
  for (int i = 0; i < count; i++) {
    uint64_t offset = __builtin_bswap64(entries[i]) & OFFSET_MASK;
    found |= (offset != 0) & (offset >= start) & (offset < end);
  }
  return found;
}

typedef int (*counter)(const uint64_t *, int, uint64_t, uint64_t);

static int batch(counter count_run, const uint64_t *entries, int batches, int count,
                 uint64_t step) {
  uint32_t hash = 0;
  for (int i = 0; i < batches; i++, entries += count) {
    hash = hash * 31 + (uint32_t)count_run(entries, count, __builtin_bswap64(entries[0]), step);
  }
  return (int)hash;
}

int batch_run(const uint64_t *entries, int batches, int count, int step) {
  return batch(count_contiguous, entries, batches, count, (uint64_t)step);
}

int batch_run8(const uint64_t *entries, int batches, int count, int step) {
  return batch(count_contiguous8, entries, batches, count, (uint64_t)step);
}

int batch_range(const uint64_t *entries, const uint64_t *ranges, int batches, int count) {
  uint32_t hash = 0;
  for (int i = 0; i < batches; i++, ranges += 2) {
    hash = hash * 31 + (uint32_t)any_in_range(entries, count, ranges[0], ranges[1]);
  }
  return (int)hash;
}
