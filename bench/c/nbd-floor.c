// nbd-floor IMAGE SOCKET: the least that an NBD server can do.
//
// One thread for each connection; every request that one recv brought is done at once with pread,
// pwrite or fdatasync on the page cache, and all replies leave in one write. Nothing is checked,
// ordered, counted or shared, and there is one format: what a client gets from this is what the
// kernel and the client themselves leave. Like sluice it looks at an empty socket for 50
// microseconds before it sleeps, and replies are structured where the client asks for that.
//
// NBD proto, "Newstyle negotiation", "Transmission phase".

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { OPT_INFO = 6, OPT_GO = 7, OPT_STRUCTURED_REPLY = 8 };
enum { REP_ACK = 1, REP_INFO = 3 };
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_FLUSH = 3 };
enum { REQUEST_BYTES = 28, SIMPLE_BYTES = 16, CHUNK_BYTES = 28 };
enum { WINDOW_BYTES = 262144, BUFFER_BYTES = 8 << 20, SPIN_NANOSECONDS = 50000 };

static const uint32_t REP_ERR_UNSUP = 0x80000001;
/** HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN. */
static const uint16_t TRANSMISSION_FLAGS = 1 | 4 | 256;

static int image;
static uint64_t size;

struct option {
  uint64_t magic;
  uint32_t option, length;
} __attribute__((packed));

struct option_reply {
  uint64_t magic;
  uint32_t option, type, length;
} __attribute__((packed));

struct export_info {
  uint16_t type;
  uint64_t size;
  uint16_t flags;
} __attribute__((packed));

struct request {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset;
  uint32_t length;
} __attribute__((packed));

struct simple_reply {
  uint32_t magic, error;
  uint64_t cookie;
} __attribute__((packed));

/** Of type NBD_REPLY_TYPE_OFFSET_DATA. */
struct chunk {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie;
  uint32_t length;
  uint64_t offset;
} __attribute__((packed));

struct connection {
  int socket;
  /** READs are answered by chunks. */
  int structured;
  char in[BUFFER_BYTES], out[BUFFER_BYTES];
};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static _Noreturn void leave(struct connection *client) {
  close(client->socket);
  free(client);
  pthread_exit(NULL);
}

static void get(struct connection *client, void *bytes, size_t length) {
  if (length == 0) return;
  if (recv(client->socket, bytes, length, MSG_WAITALL) != (ssize_t)length) leave(client);
}

static void put(struct connection *client, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t sent = send(client->socket, at, length, MSG_NOSIGNAL);
    if (sent <= 0) leave(client);
    at += sent;
    length -= (size_t)sent;
  }
}

static void answer(struct connection *client, uint32_t option, uint32_t type, const void *data,
                   uint32_t length) {
  struct option_reply reply = {htobe64(0x3e889045565a9), option, htobe32(type), htobe32(length)};
  put(client, &reply, sizeof reply);
  put(client, data, length);
}

static void negotiate(struct connection *client) {
  static const char greeting[18] = "NBDMAGICIHAVEOPT\0\3";
  struct export_info info = {0, htobe64(size), htobe16(TRANSMISSION_FLAGS)};
  uint32_t client_flags;
  put(client, greeting, sizeof greeting);
  get(client, &client_flags, sizeof client_flags);
  for (;;) {
    struct option asked;
    get(client, &asked, sizeof asked);
    uint32_t length = be32toh(asked.length);
    if (length > BUFFER_BYTES) leave(client);
    get(client, client->in, length);
    switch (be32toh(asked.option)) {
      case OPT_STRUCTURED_REPLY:
        client->structured = 1;
        answer(client, asked.option, REP_ACK, NULL, 0);
        break;
      case OPT_INFO:
      case OPT_GO:
        answer(client, asked.option, REP_INFO, &info, sizeof info);
        answer(client, asked.option, REP_ACK, NULL, 0);
        if (be32toh(asked.option) == OPT_GO) return;
        break;
      default:
        answer(client, asked.option, REP_ERR_UNSUP, NULL, 0);
    }
  }
}

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/** Some bytes, at least one. */
static size_t receive(struct connection *client, size_t have) {
  size_t room = BUFFER_BYTES - have;
  char *bytes = client->in + have;
  if (room > WINDOW_BYTES) room = WINDOW_BYTES;
  ssize_t received = recv(client->socket, bytes, room, MSG_DONTWAIT);
  if (received < 0 && errno == EAGAIN) {
    uint64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
    do received = recv(client->socket, bytes, room, MSG_DONTWAIT);
    while (received < 0 && errno == EAGAIN && nanoseconds() < deadline);
  }
  if (received < 0 && errno == EAGAIN) received = recv(client->socket, bytes, room, 0);
  if (received <= 0) leave(client);
  return (size_t)received;
}

/** Does a request; returns how many bytes of reply it has written to `out`. */
static size_t execute(const struct request *request, const char *data, int structured, char *out) {
  uint32_t length = be32toh(request->length);
  uint64_t offset = be64toh(request->offset);
  int type = be16toh(request->type);
  if (type == CMD_WRITE && pwrite(image, data, length, (off_t)offset) != length) fail("pwrite");
  if (type == CMD_FLUSH && fdatasync(image) != 0) fail("fdatasync");
  size_t header = SIMPLE_BYTES;
  if (type == CMD_READ && structured) {
    header = CHUNK_BYTES;
    struct chunk chunk = {htobe32(0x668e33ef), htobe16(1),          htobe16(1),
                          request->cookie,     htobe32(8 + length), request->offset};
    memcpy(out, &chunk, sizeof chunk);
  } else {
    struct simple_reply reply = {htobe32(0x67446698), 0, request->cookie};
    memcpy(out, &reply, sizeof reply);
  }
  if (type != CMD_READ) return header;
  if (pread(image, out + header, length, (off_t)offset) != length) fail("pread");
  return header + length;
}

static void *serve(void *argument) {
  struct connection *client = argument;
  negotiate(client);
  for (size_t have = 0;;) {
    have += receive(client, have);
    size_t at = 0;
    size_t filled = 0;
    while (have - at >= REQUEST_BYTES) {
      const struct request *request = (const struct request *)(client->in + at);
      uint32_t length = be32toh(request->length);
      int type = be16toh(request->type);
      size_t payload = type == CMD_WRITE ? length : 0;
      if (type == CMD_DISC || length > BUFFER_BYTES / 2) leave(client);
      if (have - at < REQUEST_BYTES + payload) break;
      if (filled + CHUNK_BYTES + length > BUFFER_BYTES) {
        put(client, client->out, filled);
        filled = 0;
      }
      const char *data = client->in + at + REQUEST_BYTES;
      filled += execute(request, data, client->structured, client->out + filled);
      at += REQUEST_BYTES + payload;
    }
    put(client, client->out, filled);
    memmove(client->in, client->in + at, have - at);
    have -= at;
  }
}

int main(int count, char **arguments) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat found;
  if (count != 3 || strlen(arguments[2]) >= sizeof address.sun_path) {
    fprintf(stderr, "usage: nbd-floor IMAGE SOCKET\n");
    return 2;
  }
  strcpy(address.sun_path, arguments[2]);
  image = open(arguments[1], O_RDWR | O_CLOEXEC);
  if (image < 0 || fstat(image, &found) != 0) fail(arguments[1]);
  size = (uint64_t)found.st_size;
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) fail("bind");
  if (listen(listener, 128) != 0) fail("listen");
  for (;;) {
    pthread_t thread;
    struct connection *client = malloc(sizeof *client);
    if (client == NULL) fail("malloc");
    client->structured = 0;
    client->socket = accept(listener, NULL, NULL);
    if (client->socket < 0) fail("accept");
    if (pthread_create(&thread, NULL, serve, client) != 0) fail("pthread_create");
    pthread_detach(thread);
  }
}
