/* Peers of sortKeys: `batches` arrays of `count` keys, one behind the other. */

#include "network.h"

#define BATCH(name) \
  int batch_##name(uint64_t *keys, uint64_t *scratch, int batches, int count) { \
    for (int i = 0; i < batches; i++, keys += count) sort_##name(keys, scratch, count); \
    return 0; \
  }

BATCH(insertion)
BATCH(rank)
BATCH(qsort)
BATCH(merge)
BATCH(radix6)
BATCH(radix8)
BATCH(tail)
BATCH(network)
