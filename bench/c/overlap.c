/* Peer of overlapBatch in assembly/simd/bench.ts. */

#include <stdint.h>

static __attribute__((noinline)) int count_overlaps(const uint64_t *starts, const uint64_t *ends,
                                                    int count, uint64_t start, uint64_t end) {
  int found = 0;
  for (int i = 0; i < count; i++) found += (starts[i] < end) & (start < ends[i]);
  return found;
}

int batch_overlap(const uint64_t *starts, const uint64_t *ends, const uint64_t *queries,
                  int batches, int count) {
  uint32_t hash = 0;
  for (int i = 0; i < batches; i++, starts += count, ends += count, queries += 2) {
    hash = hash * 31 + (uint32_t)count_overlaps(starts, ends, count, queries[0], queries[1]);
  }
  return (int)hash;
}
