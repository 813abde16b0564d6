/* Peers of mergeBatch in assembly/simd/bench.ts, by sort. */

#include "network.h"

typedef struct {
  uint64_t offset;
  uint32_t length;
  uint32_t kind;
} Request;

typedef struct {
  uint32_t first;
  uint32_t parts;
} Run;

INLINE int cut_runs(const Request *requests, const uint64_t *keys, Run *runs, int count,
                    uint32_t limit) {
  Run *run = runs - 1;
  uint64_t end = ~(uint64_t)0;
  uint32_t kind = 0, bytes = 0;
  for (int i = 0; i < count; i++) {
    uint32_t slot = keys[i] & 0xfff;
    Request request = requests[slot];
    if (request.offset == end && request.kind == kind && bytes + request.length <= limit) {
      run->parts++;
      bytes += request.length;
    } else {
      run++;
      run->first = slot;
      run->parts = 1;
      kind = request.kind;
      bytes = request.length;
    }
    end = request.offset + request.length;
  }
  return (int)(run - runs) + 1;
}

#define BATCH(name) \
  int batch_##name(const Request *requests, uint64_t *keys, uint64_t *scratch, Run *runs, \
                   int batches, int count, uint32_t limit) { \
    int found = 0; \
    for (int i = 0; i < batches; i++, requests += count, runs += count) { \
      for (int slot = 0; slot < count; slot++) { \
        uint64_t sector = requests[slot].offset >> 9; \
        keys[slot] = (uint64_t)requests[slot].kind << 56 | sector << 12 | (unsigned)slot; \
      } \
      sort_##name(keys, scratch, count); \
      found += cut_runs(requests, keys, runs, count, limit); \
    } \
    return found; \
  }

BATCH(insertion)
BATCH(rank)
BATCH(merge)
BATCH(radix6)
BATCH(radix8)
BATCH(network)
