/* Peer of parseChains in assembly/bench.ts: takes chains from a virtqueue, checks and
 * translates them, and gives them back. VIRTIO 1.3, 2.7 (split), 2.8 (packed), 5.2.6 (header).
 *
 * bench/peers/ring-walk.ts is the same in TypeScript: the same checks in the same order, the same
 * errors (RING_ERROR_* of src/abi/virtio-device.ts) and the same hash. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 0x80, USED = 0x8000 };
enum { HEADER_SIZE = 16, DESC_SIZE = 16, BLK_T_IN = 0, BLK_T_OUT = 1 };
enum { QUEUE_PACKED = 1, QUEUE_INDIRECT = 2 };
enum { REGIONS = 16, QUEUES = 64, CHAINS = 1024, TABLES = 128 };
enum { CHAIN_DESCRIPTORS = 1024, CHAIN_SEGMENTS = 8, INDIRECT_ENTRIES = 65535 };

enum {
  AVAIL_INDEX = 1,
  BAD_HEAD,
  IN_FLIGHT,
  BAD_NEXT,
  LOOP,
  INDIRECT_LENGTH,
  INDIRECT_FEATURE,
  INDIRECT_NESTED,
  INDIRECT_NEXT,
  ORDER,
  RANGE,
  DESCRIPTORS,
  BYTES
};

/* What a chain is as a request. */
enum { CHAIN_OK, CHAIN_SHORT_HEADER, CHAIN_NO_STATUS };

typedef struct {
  uint64_t start;
  uint32_t size;
  uint32_t place;
} Region;

typedef struct {
  uint32_t address;
  uint32_t length;
} Segment;

typedef struct {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
  uint32_t length;
  uint32_t first;
  uint32_t segments;
  uint32_t status;
  uint32_t error;
  uint32_t id;
  uint32_t slots;
  uint32_t table;
  uint32_t spare[4];
  Segment list[CHAIN_SEGMENTS];
} Chain;

_Static_assert(sizeof(Chain) == 128, "a chain has two cache lines");

typedef struct {
  uint32_t size;
  uint32_t flags;
  uint32_t desc;
  uint32_t avail;
  uint32_t next;
  uint32_t wrap;
  uint32_t in_flight;
  uint32_t error;
  uint32_t error_head;
  uint32_t spare[7];
  uint32_t busy[65536 / 32];
} Queue;

typedef struct {
  uint32_t region_count;
  uint32_t last_region;
  uint32_t free_chains;
  uint32_t free_tables;
  Region regions[REGIONS];
  uint16_t chain_pile[CHAINS];
  uint16_t table_pile[TABLES];
  uint16_t taken[CHAINS];
  Chain chains[CHAINS];
  Segment tables[TABLES][CHAIN_DESCRIPTORS];
  Queue queues[QUEUES];
} Ring;

INLINE uint16_t load16(const uint8_t *at) {
  uint16_t value;
  memcpy(&value, at, 2);
  return value;
}

INLINE uint32_t load32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return value;
}

INLINE uint64_t load64(const uint8_t *at) {
  uint64_t value;
  memcpy(&value, at, 8);
  return value;
}

/* The region that has this guest address, the last one first, or null. */
static __attribute__((noinline)) const Region *search(Ring *ring, uint64_t address) {
  for (uint32_t i = 0; i < ring->region_count; i++) {
    const Region *region = &ring->regions[i];
    if (address - region->start < region->size) {
      ring->last_region = i;
      return region;
    }
  }
  return 0;
}

INLINE const Region *find(Ring *ring, uint64_t address) {
  const Region *region = &ring->regions[ring->last_region];
  if (LIKELY(address - region->start < region->size)) return region;
  return search(ring, address);
}

/* The place of a range that lies in one region; 0 says that it does not. */
INLINE uint32_t translate(Ring *ring, uint64_t address, uint32_t length) {
  const Region *region = find(ring, address);
  if (UNLIKELY(region == 0)) return 0;
  uint64_t offset = address - region->start;
  if (UNLIKELY(length > region->size - offset)) return 0;
  return region->place + (uint32_t)offset;
}

/* The walk along one chain. Copies of it go to the rare functions: it stays in registers. */
typedef struct {
  Segment *list;
  uint32_t room;
  uint32_t segments;
  uint32_t header;
} Walk;

/* Longer lists go on in a table; an error when there is none, which the caller has made sure of. */
static __attribute__((noinline)) int grow(Ring *ring, Chain *chain, Walk *walk) {
  if (walk->room != CHAIN_SEGMENTS || ring->free_tables == 0) return DESCRIPTORS;
  uint32_t table = ring->table_pile[--ring->free_tables];
  memcpy(ring->tables[table], chain->list, sizeof chain->list);
  chain->table = table + 1;
  walk->list = ring->tables[table];
  walk->room = CHAIN_DESCRIPTORS;
  return 0;
}

INLINE int append(Ring *ring, Chain *chain, Walk *walk, uint32_t place, uint32_t length) {
  if (UNLIKELY(walk->segments == walk->room)) {
    Walk grown = *walk;
    int error = grow(ring, chain, &grown);
    if (error != 0) return error;
    *walk = grown;
  }
  Segment *segment = &walk->list[walk->segments++];
  segment->address = place;
  segment->length = length;
  return 0;
}

/* A buffer that regions cut, or that has a part of the header. */
static __attribute__((noinline)) int add_parts(Ring *ring, const uint8_t *memory, Chain *chain,
                                               Walk *walk, uint64_t address, uint32_t length,
                                               uint32_t writable) {
  while (length > 0) {
    const Region *region = find(ring, address);
    if (region == 0) return RANGE;
    uint32_t offset = (uint32_t)(address - region->start);
    uint32_t part = region->size - offset < length ? region->size - offset : length;
    uint32_t place = region->place + offset;
    address += part;
    length -= part;
    if (writable == 0 && walk->header < HEADER_SIZE) {
      uint32_t wanted = HEADER_SIZE - walk->header;
      uint32_t count = part < wanted ? part : wanted;
      memcpy((uint8_t *)chain + walk->header, memory + place, count);
      walk->header += count;
      place += count;
      part -= count;
    }
    if (part > 0) {
      int error = append(ring, chain, walk, place, part);
      if (error != 0) return error;
    }
  }
  return 0;
}

INLINE int add(Ring *ring, const uint8_t *memory, Chain *chain, Walk *walk, uint64_t address,
               uint32_t length, uint32_t writable) {
  uint32_t place = translate(ring, address, length);
  int has_header = writable == 0 && walk->header < HEADER_SIZE;
  if (UNLIKELY(place == 0 || (has_header && (walk->header != 0 || length < HEADER_SIZE)))) {
    Walk parts = *walk;
    int error = add_parts(ring, memory, chain, &parts, address, length, writable);
    *walk = parts;
    return error;
  }
  if (has_header) {
    memcpy(chain, memory + place, HEADER_SIZE);
    walk->header = HEADER_SIZE;
    place += HEADER_SIZE;
    length -= HEADER_SIZE;
    if (length == 0) return 0;
  }
  return append(ring, chain, walk, place, length);
}

/* Whether a descriptor may refer to an indirect table; the place of the table in `*table`. */
static __attribute__((noinline)) int enter(Ring *ring, const Queue *queue, uint64_t address,
                                           uint32_t length, uint32_t flags, int indirect,
                                           uint32_t seen, uint32_t *table) {
  if (indirect) return INDIRECT_NESTED;
  if ((queue->flags & QUEUE_PACKED) != 0 && seen > 1) return INDIRECT_NEXT;
  if ((queue->flags & QUEUE_INDIRECT) == 0) return INDIRECT_FEATURE;
  if ((flags & NEXT) != 0) return INDIRECT_NEXT;
  if (length == 0 || length % DESC_SIZE != 0) return INDIRECT_LENGTH;
  if (length / DESC_SIZE > INDIRECT_ENTRIES) return INDIRECT_LENGTH;
  *table = translate(ring, address, length);
  return *table == 0 ? RANGE : 0;
}

/* What the walk has found as a request: where the data lie, and the status byte. */
INLINE void finish(Chain *chain, Walk *walk, uint64_t total, uint64_t readable,
                   uint32_t readable_segments) {
  chain->status = 0;
  chain->error = CHAIN_OK;
  if (UNLIKELY(walk->segments == readable_segments)) {
    chain->error = CHAIN_NO_STATUS;
  } else {
    Segment *last = &walk->list[walk->segments - 1];
    last->length -= 1;
    chain->status = last->address + last->length;
    walk->segments -= last->length == 0;
  }
  chain->length = 0;
  chain->first = 0;
  chain->segments = 0;
  if (UNLIKELY(walk->header < HEADER_SIZE)) {
    chain->type = 0;
    chain->sector = 0;
    if (chain->error == CHAIN_OK) chain->error = CHAIN_SHORT_HEADER;
  } else if (chain->type == BLK_T_OUT) {
    chain->segments = readable_segments;
    chain->length = (uint32_t)(readable - HEADER_SIZE);
  } else if (chain->type == BLK_T_IN && chain->error == CHAIN_OK) {
    chain->first = readable_segments;
    chain->segments = walk->segments - readable_segments;
    chain->length = (uint32_t)(total - readable - 1);
  }
}

/* Follows the descriptors of a chain; 0 or an error. `packed` is known where it is inlined. */
INLINE int walk_chain(Ring *restrict ring, const uint8_t *restrict memory, const Queue *queue,
                      Chain *chain, uint32_t index, const int packed) {
  Walk walk = {chain->list, CHAIN_SEGMENTS, 0, 0};
  uint32_t table = queue->desc, limit = queue->size, seen = 0, count = 0, slots = 0, id = index;
  uint32_t direction = 0, readable_segments = 0;
  uint64_t total = 0, readable = 0;
  int indirect = 0;
  chain->table = 0;
  for (;;) {
    const uint8_t *desc = memory + table + (size_t)index * DESC_SIZE;
    uint64_t address = load64(desc);
    uint32_t length = load32(desc + 8), tail = load32(desc + 12);
    uint32_t flags = packed ? tail >> 16 : tail & 0xffff;
    if (UNLIKELY(++seen > limit)) return LOOP;
    if (packed && !indirect) {
      slots = seen;
      id = tail & 0xffff;
    }
    if (UNLIKELY((flags & INDIRECT) != 0) && !(packed && indirect)) {
      int error = enter(ring, queue, address, length, flags, indirect, seen, &table);
      if (error != 0) return error;
      limit = length / DESC_SIZE;
      index = seen = 0;
      indirect = 1;
      continue;
    }
    if (UNLIKELY(++count > CHAIN_DESCRIPTORS)) return DESCRIPTORS;
    uint32_t writable = flags & WRITE;
    if (writable != direction) {
      if (UNLIKELY(writable == 0)) return ORDER;
      direction = writable;
      readable = total;
      readable_segments = walk.segments;
    }
    total += length;
    if (UNLIKELY(total >= (uint64_t)1 << 32)) return BYTES;
    if (LIKELY(length != 0)) {
      int error = add(ring, memory, chain, &walk, address, length, writable);
      if (UNLIKELY(error != 0)) return error;
    }
    if (packed && indirect) {
      if (++index == limit) break;
      continue;
    }
    if ((flags & NEXT) == 0) break;
    index = packed ? (index + 1 == limit ? 0 : index + 1) : tail >> 16;
    if (!packed && UNLIKELY(index >= limit)) return BAD_NEXT;
  }
  if (direction == 0) {
    readable = total;
    readable_segments = walk.segments;
  }
  chain->slots = packed ? slots : 1;
  chain->id = id;
  finish(chain, &walk, total, readable, readable_segments);
  return 0;
}

INLINE int is_busy(const Queue *queue, uint32_t id) {
  return (queue->busy[id >> 5] >> (id & 31)) & 1;
}

/* A record for the next chain: there is one, and a table. */
INLINE Chain *reserve(Ring *ring, uint32_t *number) {
  if (UNLIKELY(ring->free_chains == 0 || ring->free_tables == 0)) return 0;
  *number = ring->chain_pile[ring->free_chains - 1];
  return &ring->chains[*number];
}

INLINE void accept(Ring *ring, Queue *queue, const Chain *chain) {
  queue->busy[chain->id >> 5] |= (uint32_t)1 << (chain->id & 31);
  queue->in_flight += chain->slots;
  ring->free_chains--;
}

static void refuse(Ring *ring, Queue *queue, Chain *chain, uint32_t head, int error) {
  queue->error = (uint32_t)error;
  queue->error_head = head;
  if (chain != 0 && chain->table != 0) {
    ring->table_pile[ring->free_tables++] = (uint16_t)(chain->table - 1);
  }
}

static uint32_t take_split(Ring *ring, const uint8_t *memory, Queue *queue, uint32_t count) {
  uint32_t found = 0;
  uint32_t waiting = (uint16_t)(load16(memory + queue->avail + 2) - queue->next);
  if (waiting + queue->in_flight > queue->size) {
    refuse(ring, queue, 0, 0, AVAIL_INDEX);
    return 0;
  }
  if (count > waiting) count = waiting;
  while (found < count) {
    uint32_t number, slot = queue->next & (queue->size - 1);
    Chain *chain = reserve(ring, &number);
    if (chain == 0) break;
    chain->table = 0;
    uint32_t head = load16(memory + queue->avail + 4 + 2 * slot);
    int error = UNLIKELY(head >= queue->size) ? BAD_HEAD
                : UNLIKELY(is_busy(queue, head)) ? IN_FLIGHT
                                                 : walk_chain(ring, memory, queue, chain, head, 0);
    if (UNLIKELY(error != 0)) {
      refuse(ring, queue, chain, head, error);
      break;
    }
    accept(ring, queue, chain);
    queue->next = (queue->next + 1) & 0xffff;
    ring->taken[found++] = (uint16_t)number;
  }
  return found;
}

static uint32_t take_packed(Ring *ring, const uint8_t *memory, Queue *queue, uint32_t count) {
  uint32_t found = 0;
  while (found < count) {
    uint32_t number, head = queue->next;
    uint32_t flags = load16(memory + queue->desc + (size_t)head * DESC_SIZE + 14);
    uint32_t available = (flags & AVAIL) != 0, used = (flags & USED) != 0;
    if (available != queue->wrap || used == queue->wrap) break;
    Chain *chain = reserve(ring, &number);
    if (chain == 0) break;
    int error = walk_chain(ring, memory, queue, chain, head, 1);
    if (error == 0 && UNLIKELY(is_busy(queue, chain->id))) error = IN_FLIGHT;
    if (error == 0 && UNLIKELY(queue->in_flight + chain->slots > queue->size)) error = AVAIL_INDEX;
    if (UNLIKELY(error != 0)) {
      refuse(ring, queue, chain, head, error);
      break;
    }
    accept(ring, queue, chain);
    queue->next += chain->slots;
    if (queue->next >= queue->size) {
      queue->next -= queue->size;
      queue->wrap ^= 1;
    }
    ring->taken[found++] = (uint16_t)number;
  }
  return found;
}

/* Gives the chains back that have been taken; the hash of them. */
static uint32_t give_back(Ring *ring, Queue *queue, uint32_t count) {
  uint32_t hash = 0;
  for (uint32_t i = 0; i < count; i++) {
    Chain *chain = &ring->chains[ring->taken[i]];
    hash += chain->type + (uint32_t)chain->sector + chain->length + chain->segments * 31;
    hash += chain->status;
    queue->busy[chain->id >> 5] &= ~((uint32_t)1 << (chain->id & 31));
    queue->in_flight -= chain->slots;
    if (chain->table != 0) ring->table_pile[ring->free_tables++] = (uint16_t)(chain->table - 1);
    ring->chain_pile[ring->free_chains++] = ring->taken[i];
  }
  return hash;
}

uint32_t ring_size(void) { return sizeof(Ring); }

void ring_init(Ring *ring) {
  memset(ring, 0, sizeof *ring);
  for (int i = 0; i < CHAINS; i++) ring->chain_pile[i] = (uint16_t)(CHAINS - 1 - i);
  for (int i = 0; i < TABLES; i++) ring->table_pile[i] = (uint16_t)(TABLES - 1 - i);
  ring->free_chains = CHAINS;
  ring->free_tables = TABLES;
}

void ring_map(Ring *ring, uint32_t low, uint32_t high, uint32_t size, uint32_t place) {
  ring->regions[ring->region_count++] = (Region){(uint64_t)high << 32 | low, size, place};
}

void ring_attach(Ring *ring, uint32_t number, uint32_t size, uint32_t flags, uint32_t desc,
                 uint32_t avail) {
  Queue *queue = &ring->queues[number];
  memset(queue, 0, sizeof *queue);
  queue->size = size;
  queue->flags = flags;
  queue->desc = desc;
  queue->avail = avail;
  queue->wrap = 1;
}

/* Takes up to `count` chains, stores what they say, and gives them back; returns their hash. */
uint32_t ring_parse(Ring *ring, const uint8_t *memory, uint32_t number, uint32_t count) {
  Queue *queue = &ring->queues[number];
  if (queue->error != 0) return 0;
  int packed = (queue->flags & QUEUE_PACKED) != 0;
  uint32_t found = packed ? take_packed(ring, memory, queue, count)
                          : take_split(ring, memory, queue, count);
  return give_back(ring, queue, found);
}

/* Why a queue was stopped, and at which head: error | head << 8. */
uint32_t ring_error(const Ring *ring, uint32_t number) {
  return ring->queues[number].error | ring->queues[number].error_head << 8;
}
