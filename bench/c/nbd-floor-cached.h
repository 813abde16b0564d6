// What the floors of bench:nbd in the page cache have in common: pread and pwrite, in the thread
// that has the request. Includers say what a FLUSH does.

#include "nbd-floor.h"

#include <time.h>

/** Nobody sleeps before so long without work. */
enum { SPIN_NANOSECONDS = 50000 };

/** Makes what was written stable; 1: it is, and the FLUSH is answered; 0: it will be answered. */
static int flush(struct connection *client, uint64_t cookie);

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/** Does a request; returns how many bytes of reply it has written to `out`. */
static size_t execute(struct connection *client, const struct request *request, char *out) {
  uint32_t length = be32toh(request->length);
  uint64_t offset = be64toh(request->offset);
  int type = be16toh(request->type);
  if (type == CMD_READ) {
    size_t head = head_bytes(client);
    write_head(client, request, out);
    if (pread(image, out + head, length, (off_t)offset) != length) fail("pread");
    return head + length;
  }
  const char *data = (const char *)(request + 1);
  if (type == CMD_WRITE && pwrite(image, data, length, (off_t)offset) != length) fail("pwrite");
  if (type == CMD_FLUSH && !flush(client, request->cookie)) return 0;
  struct simple_reply reply = success(request->cookie);
  memcpy(out, &reply, sizeof reply);
  return sizeof reply;
}

/** Executes what is whole in `in`, and answers. */
static int execute_all(struct connection *client) {
  size_t at = 0;
  size_t filled = 0;
  for (ssize_t taken; (taken = request_length(client, at)) != 0; at += (size_t)taken) {
    if (taken < 0) return 0;
    const struct request *request = (const struct request *)(client->in + at);
    if (filled + CHUNK_BYTES + be32toh(request->length) > BUFFER_BYTES) {
      if (!put(client, client->out, filled)) return 0;
      filled = 0;
    }
    filled += execute(client, request, client->out + filled);
  }
  drop(client, at);
  return put(client, client->out, filled);
}
