// nbd-floor-direct IMAGE SOCKET: the least that an NBD server can do with O_DIRECT.
//
// One thread and one io_uring for each connection. What a recv brought is handed over in parts of
// eight, writes that follow each other as one, and what has completed is answered in one write. A
// request that is alone is done by pread or pwrite.

#include "nbd-floor.h"

#include <linux/io_uring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { MAX_OPERATIONS = 256, MAX_RUN = 64, PART = 8 };
/** Longer replies leave from where they were read to. */
enum { COPIED_BYTES = 65536 };
/** Of O_DIRECT. So much stands before the data in a buffer, for the head of a reply. */
enum { ALIGNMENT = 4096 };

/** A READ, or WRITEs that follow each other: the first, the cookies of all, their length. */
struct operation {
  struct request request;
  int count;
  uint64_t cookies[MAX_RUN];
  size_t length, room;
  char *buffer;
};

struct ring {
  int descriptor;
  unsigned *submitted, *submitted_mask, *indices;
  unsigned *taken, *completed, *completed_mask;
  struct io_uring_sqe *entries;
  struct io_uring_cqe *results;
};

/** `begun` operations are not in the ring yet, those `in_flight` are. */
struct server {
  struct connection *client;
  struct ring ring;
  int idle_count, begun_count, in_flight;
  struct operation operations[MAX_OPERATIONS];
  struct operation *idle[MAX_OPERATIONS], *begun[PART];
  /** Bytes of the client's `out` that are to be sent. */
  size_t filled;
};

static char *map(int descriptor, size_t length, off_t what) {
  void *found = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, what);
  if (found == MAP_FAILED) fail("mmap");
  return found;
}

static struct ring open_ring(void) {
  struct io_uring_params with = {0};
  int ring = (int)syscall(SYS_io_uring_setup, MAX_OPERATIONS, &with);
  if (ring < 0) fail("io_uring_setup");
  size_t indices = with.sq_entries * sizeof(unsigned);
  size_t entries = with.sq_entries * sizeof(struct io_uring_sqe);
  size_t results = with.cq_entries * sizeof(struct io_uring_cqe);
  char *in = map(ring, with.sq_off.array + indices, IORING_OFF_SQ_RING);
  char *out = map(ring, with.cq_off.cqes + results, IORING_OFF_CQ_RING);
  return (struct ring){
      .descriptor = ring,
      .submitted = (unsigned *)(in + with.sq_off.tail),
      .submitted_mask = (unsigned *)(in + with.sq_off.ring_mask),
      .indices = (unsigned *)(in + with.sq_off.array),
      .taken = (unsigned *)(out + with.cq_off.head),
      .completed = (unsigned *)(out + with.cq_off.tail),
      .completed_mask = (unsigned *)(out + with.cq_off.ring_mask),
      .entries = (struct io_uring_sqe *)map(ring, entries, IORING_OFF_SQES),
      .results = (struct io_uring_cqe *)(out + with.cq_off.cqes),
  };
}

static int is_write(const struct request *request) { return be16toh(request->type) == CMD_WRITE; }

/** Makes room for data of `length` bytes in all; what is there stays. */
static void reserve(struct operation *operation, size_t length) {
  if (length <= operation->room) return;
  size_t room = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  char *buffer = aligned_alloc(ALIGNMENT, ALIGNMENT + room);
  if (buffer == NULL) fail("aligned_alloc");
  if (operation->length > 0) memcpy(buffer, operation->buffer, ALIGNMENT + operation->length);
  free(operation->buffer);
  operation->buffer = buffer;
  operation->room = room;
}

/** Sends what `out` has. */
static int send_out(struct server *server) {
  size_t length = server->filled;
  server->filled = 0;
  return put(server->client, server->client->out, length);
}

/** Has a reply sent with those before it. */
static int reply(struct server *server, const void *bytes, size_t length) {
  struct connection *client = server->client;
  int copied = length <= COPIED_BYTES;
  if (!copied || server->filled + length > BUFFER_BYTES) {
    if (!send_out(server)) return 0;
  }
  if (!copied) return put(client, bytes, length);
  memcpy(client->out + server->filled, bytes, length);
  server->filled += length;
  return 1;
}

/** Answers all requests of an operation. */
static int complete(struct server *server, struct operation *operation) {
  struct connection *client = server->client;
  int alive = 1;
  if (!is_write(&operation->request)) {
    char *head = operation->buffer + ALIGNMENT - head_bytes(client);
    write_head(client, &operation->request, head);
    alive = reply(server, head, head_bytes(client) + operation->length);
  } else {
    for (int at = 0; at < operation->count && alive; at++) {
      struct simple_reply done = success(operation->cookies[at]);
      alive = reply(server, &done, sizeof done);
    }
  }
  server->idle[server->idle_count++] = operation;
  return alive;
}

/** Hands over what has begun. */
static void submit(struct server *server) {
  struct ring *ring = &server->ring;
  unsigned tail = *ring->submitted;
  for (int at = 0; at < server->begun_count; at++, tail++) {
    struct operation *operation = server->begun[at];
    unsigned index = tail & *ring->submitted_mask;
    ring->indices[index] = index;
    ring->entries[index] = (struct io_uring_sqe){
        .opcode = is_write(&operation->request) ? IORING_OP_WRITE : IORING_OP_READ,
        .fd = image,
        .addr = (uint64_t)(uintptr_t)(operation->buffer + ALIGNMENT),
        .len = (uint32_t)operation->length,
        .off = be64toh(operation->request.offset),
        .user_data = (uint64_t)(uintptr_t)operation,
    };
  }
  __atomic_store_n(ring->submitted, tail, __ATOMIC_RELEASE);
  long count = server->begun_count;
  if (syscall(SYS_io_uring_enter, ring->descriptor, count, 0, 0, NULL, 0) != count) {
    fail("io_uring_enter");
  }
  server->in_flight += server->begun_count;
  server->begun_count = 0;
}

/** Does what has begun, and is alone. */
static int execute_lone(struct server *server) {
  struct operation *operation = server->begun[--server->begun_count];
  off_t offset = (off_t)be64toh(operation->request.offset);
  char *data = operation->buffer + ALIGNMENT;
  ssize_t done = is_write(&operation->request) ? pwrite(image, data, operation->length, offset)
                                               : pread(image, data, operation->length, offset);
  if (done != (ssize_t)operation->length) fail("pread or pwrite");
  return complete(server, operation);
}

/** Begins a request, with the WRITE before it where it follows that. */
static void begin(struct server *server, const struct request *request) {
  size_t length = be32toh(request->length);
  uint64_t offset = be64toh(request->offset);
  struct operation *last = server->begun_count > 0 ? server->begun[server->begun_count - 1] : NULL;
  if (last == NULL || !is_write(request) || !is_write(&last->request) || last->count == MAX_RUN ||
      be64toh(last->request.offset) + last->length != offset) {
    if (server->begun_count == PART) submit(server);
    last = server->idle[--server->idle_count];
    last->request = *request;
    last->count = 0;
    last->length = 0;
    server->begun[server->begun_count++] = last;
  }
  reserve(last, last->length + length);
  if (is_write(request)) memcpy(last->buffer + ALIGNMENT + last->length, request + 1, length);
  last->cookies[last->count++] = request->cookie;
  last->length += length;
}

/** Begins what is whole in `in`, as long as there are operations. */
static int begin_all(struct server *server) {
  struct connection *client = server->client;
  size_t at = 0;
  while (server->idle_count > 0) {
    ssize_t taken = request_length(client, at);
    if (taken < 0) return 0;
    if (taken == 0) break;
    const struct request *request = (const struct request *)(client->in + at);
    int type = be16toh(request->type);
    if (type == CMD_READ || type == CMD_WRITE) {
      begin(server, request);
    } else {
      if (type == CMD_FLUSH && fdatasync(image) != 0) fail("fdatasync");
      struct simple_reply done = success(request->cookie);
      if (!reply(server, &done, sizeof done)) return 0;
    }
    at += (size_t)taken;
  }
  drop(client, at);
  if (server->in_flight == 0 && server->begun_count == 1) return execute_lone(server);
  if (server->begun_count > 0) submit(server);
  return 1;
}

/** Answers what the kernel has done. */
static int complete_all(struct server *server) {
  struct ring *ring = &server->ring;
  while (*ring->taken != __atomic_load_n(ring->completed, __ATOMIC_ACQUIRE)) {
    const struct io_uring_cqe *result = &ring->results[*ring->taken & *ring->completed_mask];
    struct operation *operation = (struct operation *)(uintptr_t)result->user_data;
    if (result->res != (int)operation->length) fail("io_uring");
    __atomic_store_n(ring->taken, *ring->taken + 1, __ATOMIC_RELEASE);
    server->in_flight--;
    if (!complete(server, operation)) return 0;
  }
  return 1;
}

/** What the client has sent meanwhile, if it has; when nothing is in the ring, it is waited for. */
static int receive(struct server *server) {
  struct connection *client = server->client;
  int flags = 0;
  if (server->in_flight > 0) {
    short readable = server->idle_count > 0 ? POLLIN : 0;
    struct pollfd watched[] = {{client->socket, readable, 0}, {server->ring.descriptor, POLLIN, 0}};
    if (poll(watched, 2, -1) < 0) fail("poll");
    if (watched[0].revents == 0) return 1;
    flags = MSG_DONTWAIT;
  }
  ssize_t received = recv(client->socket, client->in + client->have, window(client), flags);
  if (received > 0) client->have += (size_t)received;
  return received > 0 || (received < 0 && errno == EAGAIN);
}

static void *serve(void *argument) {
  struct connection *client = argument;
  struct server *server = calloc(1, sizeof *server);
  if (server == NULL) fail("calloc");
  server->client = client;
  if (negotiate(client)) {
    server->ring = open_ring();
    for (int at = 0; at < MAX_OPERATIONS; at++) server->idle[at] = &server->operations[at];
    server->idle_count = MAX_OPERATIONS;
    while (receive(server) && complete_all(server) && begin_all(server) && send_out(server));
    close(server->ring.descriptor);
  }
  // Not freed: the kernel may still fill a buffer, and this lives for one measurement.
  close(client->socket);
  return NULL;
}

int main(int count, char **arguments) { return accept_all(count, arguments, O_DIRECT, serve); }
