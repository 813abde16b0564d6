// Requests of one size through libblkio's own virtio driver, as many at once as are asked for, for
// so many seconds; prints how many were done.
//
//   blkio-load SOCKET read|write|seqwrite DEPTH SECONDS BYTES
//
// libblkio is declared here as far as it is used; its header is not needed.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct blkio;
struct blkioq;
struct timespec;

struct blkio_mem_region {
  void *addr;
  size_t len;
  uint64_t iova;
  int64_t fd_offset;
  int fd;
  uint32_t flags;
};

struct blkio_completion {
  void *user_data;
  const char *error_msg;
  int ret;
  char reserved[12];
};

int blkio_create(const char *driver, struct blkio **made);
int blkio_set_str(struct blkio *b, const char *name, const char *value);
int blkio_get_uint64(struct blkio *b, const char *name, uint64_t *value);
int blkio_connect(struct blkio *b);
int blkio_start(struct blkio *b);
int blkio_alloc_mem_region(struct blkio *b, struct blkio_mem_region *region, size_t length);
int blkio_map_mem_region(struct blkio *b, const struct blkio_mem_region *region);
struct blkioq *blkio_get_queue(struct blkio *b, int index);
void blkioq_read(struct blkioq *q, uint64_t at, void *to, size_t length, void *data, uint32_t flags);
void blkioq_write(struct blkioq *q, uint64_t at, const void *from, size_t length, void *data,
                  uint32_t flags);
int blkioq_do_io(struct blkioq *q, struct blkio_completion *done, int least, int most,
                 struct timespec *timeout);
const char *blkio_get_error_msg(void);

enum { DEPTH_MAX = 128 };

static void check(int result) {
  if (result >= 0) return;
  fprintf(stderr, "blkio-load: %s\n", blkio_get_error_msg());
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

struct load {
  struct blkioq *queue;
  const char *kind;
  size_t bytes;
  uint64_t blocks;
  uint64_t next;
};

static void submit(struct load *load, char *buffer) {
  const int sequential = strcmp(load->kind, "seqwrite") == 0;
  const uint64_t block = sequential ? load->next++ : next_random();
  const uint64_t at = block % load->blocks * load->bytes;
  if (strcmp(load->kind, "read") == 0) {
    blkioq_read(load->queue, at, buffer, load->bytes, buffer, 0);
  } else {
    blkioq_write(load->queue, at, buffer, load->bytes, buffer, 0);
  }
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  const int depth = atoi(argv[3]);
  const double seconds = atof(argv[4]);
  if (depth < 1 || depth > DEPTH_MAX) return 2;
  struct load load = {.kind = argv[2], .bytes = (size_t)atol(argv[5])};

  struct blkio *b;
  check(blkio_create("virtio-blk-vhost-user", &b));
  check(blkio_set_str(b, "path", argv[1]));
  check(blkio_connect(b));
  uint64_t capacity;
  check(blkio_get_uint64(b, "capacity", &capacity));
  check(blkio_start(b));
  struct blkio_mem_region region;
  check(blkio_alloc_mem_region(b, &region, load.bytes * (size_t)depth));
  check(blkio_map_mem_region(b, &region));
  memset(region.addr, 7, load.bytes * (size_t)depth);
  load.queue = blkio_get_queue(b, 0);
  load.blocks = capacity / load.bytes;

  for (int index = 0; index < depth; index++) {
    submit(&load, (char *)region.addr + (size_t)index * load.bytes);
  }
  struct blkio_completion done[DEPTH_MAX];
  uint64_t total = 0;
  const double start = now();
  double end = start;
  while (end - start < seconds) {
    const int count = blkioq_do_io(load.queue, done, 1, depth, NULL);
    check(count);
    for (int index = 0; index < count; index++) {
      check(done[index].ret);
      submit(&load, done[index].user_data);
    }
    total += (uint64_t)count;
    end = now();
  }
  printf("%.0f\n", (double)total / (end - start));
  fflush(stdout);
  _Exit(0);
}
