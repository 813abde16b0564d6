// What the floors of bench:nbd have in common: an NBD server's handshake and its requests, done on
// the page cache with pread and pwrite. Nothing is checked, ordered or counted, and there is one
// format. Includers say what a FLUSH does.
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
  /** Of `in`, not yet executed. */
  size_t have;
  char in[BUFFER_BYTES], out[BUFFER_BYTES];
};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/** Makes what was written stable; 1: it is, and the FLUSH is answered; 0: it will be answered. */
static int flush(struct connection *client, uint64_t cookie);

/** 0: the client has gone, as with all that follows. */
static int get(struct connection *client, void *bytes, size_t length) {
  return length == 0 || recv(client->socket, bytes, length, MSG_WAITALL) == (ssize_t)length;
}

static int put(struct connection *client, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t sent = send(client->socket, at, length, MSG_NOSIGNAL);
    if (sent <= 0) return 0;
    at += sent;
    length -= (size_t)sent;
  }
  return 1;
}

static int answer(struct connection *client, uint32_t option, uint32_t type, const void *data,
                  uint32_t length) {
  struct option_reply reply = {htobe64(0x3e889045565a9), option, htobe32(type), htobe32(length)};
  return put(client, &reply, sizeof reply) && put(client, data, length);
}

static int negotiate(struct connection *client) {
  static const char greeting[18] = "NBDMAGICIHAVEOPT\0\3";
  struct export_info info = {0, htobe64(size), htobe16(TRANSMISSION_FLAGS)};
  uint32_t client_flags;
  if (!put(client, greeting, sizeof greeting)) return 0;
  if (!get(client, &client_flags, sizeof client_flags)) return 0;
  for (int done = 0; !done;) {
    struct option asked;
    if (!get(client, &asked, sizeof asked)) return 0;
    uint32_t option = be32toh(asked.option), length = be32toh(asked.length);
    if (length > BUFFER_BYTES || !get(client, client->in, length)) return 0;
    uint32_t type = REP_ACK;
    if (option == OPT_STRUCTURED_REPLY) client->structured = 1;
    else if (option != OPT_INFO && option != OPT_GO) type = REP_ERR_UNSUP;
    else if (!answer(client, asked.option, REP_INFO, &info, sizeof info)) return 0;
    if (!answer(client, asked.option, type, NULL, 0)) return 0;
    done = option == OPT_GO;
  }
  return 1;
}

static struct simple_reply success(uint64_t cookie) {
  return (struct simple_reply){htobe32(0x67446698), 0, cookie};
}

/** Does a request; returns how many bytes of reply it has written to `out`. */
static size_t execute(struct connection *client, const struct request *request, char *out) {
  uint32_t length = be32toh(request->length);
  uint64_t offset = be64toh(request->offset);
  int type = be16toh(request->type);
  const char *data = (const char *)(request + 1);
  if (type == CMD_WRITE && pwrite(image, data, length, (off_t)offset) != length) fail("pwrite");
  if (type == CMD_FLUSH && !flush(client, request->cookie)) return 0;
  size_t header = SIMPLE_BYTES;
  if (type == CMD_READ && client->structured) {
    header = CHUNK_BYTES;
    struct chunk chunk = {htobe32(0x668e33ef), htobe16(1),          htobe16(1),
                          request->cookie,     htobe32(8 + length), request->offset};
    memcpy(out, &chunk, sizeof chunk);
  } else {
    struct simple_reply reply = success(request->cookie);
    memcpy(out, &reply, sizeof reply);
  }
  if (type != CMD_READ) return header;
  if (pread(image, out + header, length, (off_t)offset) != length) fail("pread");
  return header + length;
}

/** Executes what is whole in `in`, and answers. */
static int execute_all(struct connection *client) {
  size_t at = 0;
  size_t filled = 0;
  while (client->have - at >= REQUEST_BYTES) {
    const struct request *request = (const struct request *)(client->in + at);
    uint32_t length = be32toh(request->length);
    int type = be16toh(request->type);
    size_t payload = type == CMD_WRITE ? length : 0;
    if (type == CMD_DISC || length > BUFFER_BYTES / 2) return 0;
    if (client->have - at < REQUEST_BYTES + payload) break;
    if (filled + CHUNK_BYTES + length > BUFFER_BYTES) {
      if (!put(client, client->out, filled)) return 0;
      filled = 0;
    }
    filled += execute(client, request, client->out + filled);
    at += REQUEST_BYTES + payload;
  }
  memmove(client->in, client->in + at, client->have - at);
  client->have -= at;
  return put(client, client->out, filled);
}

/** Room for more of what `client` sends. */
static size_t window(const struct connection *client) {
  size_t room = BUFFER_BYTES - client->have;
  return room < WINDOW_BYTES ? room : WINDOW_BYTES;
}

/** Has each client that comes to the socket served by a thread that begins with `begin`. */
static int accept_all(int count, char **arguments, void *(*begin)(void *)) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat found;
  if (count != 3 || strlen(arguments[2]) >= sizeof address.sun_path) {
    fprintf(stderr, "usage: %s IMAGE SOCKET\n", arguments[0]);
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
    struct connection *client = calloc(1, sizeof *client);
    if (client == NULL) fail("calloc");
    client->socket = accept(listener, NULL, NULL);
    if (client->socket < 0) fail("accept");
    if (pthread_create(&thread, NULL, begin, client) != 0) fail("pthread_create");
    pthread_detach(thread);
  }
}
