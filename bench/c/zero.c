/* Peers of zeroBatch in assembly/simd/bench.ts. */

#include <stdint.h>
#include <string.h>

#define NOINLINE static __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))

/* Up to the first block of `size` bytes that is not zero. */
INLINE int is_zero(const unsigned char *at, int length, int size) {
  for (; length >= size; at += size, length -= size) {
    uint64_t any = 0;
    for (int i = 0; i < size; i += 8) {
      uint64_t word;
      memcpy(&word, at + i, 8);
      any |= word;
    }
    if (any != 0) return 0;
  }
  for (int i = 0; i < length; i++) {
    if (at[i] != 0) return 0;
  }
  return 1;
}

NOINLINE int zero_words(const unsigned char *at, int length) { return is_zero(at, length, 8); }
NOINLINE int zero_blocks64(const unsigned char *at, int length) { return is_zero(at, length, 64); }
NOINLINE int zero_blocks256(const unsigned char *at, int length) { return is_zero(at, length, 256); }

/* The C library's memcmp of a block with itself, one byte on. */
NOINLINE int zero_memcmp(const unsigned char *at, int length) {
  return length == 0 || (at[0] == 0 && memcmp(at, at + 1, (size_t)length - 1) == 0);
}

#define BATCH(name) \
  int batch_##name(const unsigned char *at, int batches, int length) { \
    uint32_t hash = 0; \
    for (int i = 0; i < batches; i++, at += length) { \
      hash = hash * 31 + (uint32_t)zero_##name(at, length); \
    } \
    return (int)hash; \
  }

BATCH(words)
BATCH(blocks64)
BATCH(blocks256)
BATCH(memcmp)
