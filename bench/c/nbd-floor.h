// What the floors of bench:nbd have in common: an NBD server's handshake and its replies. Nothing
// is checked, ordered or counted, and there is one format.
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
#include <unistd.h>

enum { OPT_INFO = 6, OPT_GO = 7, OPT_STRUCTURED_REPLY = 8 };
enum { REP_ACK = 1, REP_INFO = 3 };
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_FLUSH = 3 };
enum { REQUEST_BYTES = 28, SIMPLE_BYTES = 16, CHUNK_BYTES = 28 };
enum { WINDOW_BYTES = 262144, BUFFER_BYTES = 8 << 20 };

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

/** 0: the client has gone, as with all that returns int. */
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

/** Of what stands before the data that a READ is answered with. */
static size_t head_bytes(const struct connection *client) {
  return client->structured ? CHUNK_BYTES : SIMPLE_BYTES;
}

static void write_head(const struct connection *client, const struct request *read, char *out) {
  uint32_t length = be32toh(read->length);
  struct simple_reply reply = success(read->cookie);
  struct chunk chunk = {htobe32(0x668e33ef), htobe16(1),          htobe16(1),
                        read->cookie,        htobe32(8 + length), read->offset};
  if (client->structured) memcpy(out, &chunk, sizeof chunk);
  else memcpy(out, &reply, sizeof reply);
}

/** Takes what has been executed out of `in`. */
static void drop(struct connection *client, size_t length) {
  if (length == 0) return;
  client->have -= length;
  memmove(client->in, client->in + length, client->have);
}

/** How long the request at `at` in `in` is; 0: it is not whole; -1: the client is to go. */
static ssize_t request_length(const struct connection *client, size_t at) {
  if (client->have - at < REQUEST_BYTES) return 0;
  const struct request *request = (const struct request *)(client->in + at);
  uint32_t length = be32toh(request->length);
  int type = be16toh(request->type);
  if (type == CMD_DISC || length > BUFFER_BYTES / 2) return -1;
  size_t whole = REQUEST_BYTES + (type == CMD_WRITE ? length : 0);
  return client->have - at < whole ? 0 : (ssize_t)whole;
}

/** Room for more of what `client` sends. */
static size_t window(const struct connection *client) {
  size_t room = BUFFER_BYTES - client->have;
  return room < WINDOW_BYTES ? room : WINDOW_BYTES;
}

/** Has each client that comes to the socket served by a thread that begins with `begin`. */
static int accept_all(int count, char **arguments, int flags, void *(*begin)(void *)) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct stat found;
  if (count != 3 || strlen(arguments[2]) >= sizeof address.sun_path) {
    fprintf(stderr, "usage: %s IMAGE SOCKET\n", arguments[0]);
    return 2;
  }
  strcpy(address.sun_path, arguments[2]);
  image = open(arguments[1], O_RDWR | O_CLOEXEC | flags);
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
