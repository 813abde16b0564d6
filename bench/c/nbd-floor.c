// nbd-floor IMAGE SOCKET: the least that an NBD server can do.
//
// One thread for each connection; every request that one recv brought is done at once, and all
// replies leave in one write. Nothing is shared: what a client gets from this is what the kernel
// and the client themselves leave. Like sluice it looks at an empty socket for 50 microseconds
// before it sleeps, and replies are structured where the client asks for that.

#include "nbd-floor-cached.h"

static int flush(struct connection *client, uint64_t cookie) {
  (void)client, (void)cookie;
  if (fdatasync(image) != 0) fail("fdatasync");
  return 1;
}

/** Some bytes, at least one. */
static int receive(struct connection *client) {
  size_t room = window(client);
  char *bytes = client->in + client->have;
  ssize_t received = recv(client->socket, bytes, room, MSG_DONTWAIT);
  if (received < 0 && errno == EAGAIN) {
    uint64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
    do received = recv(client->socket, bytes, room, MSG_DONTWAIT);
    while (received < 0 && errno == EAGAIN && nanoseconds() < deadline);
  }
  if (received < 0 && errno == EAGAIN) received = recv(client->socket, bytes, room, 0);
  if (received > 0) client->have += (size_t)received;
  return received > 0;
}

static void *serve(void *argument) {
  struct connection *client = argument;
  if (negotiate(client)) while (receive(client) && execute_all(client));
  close(client->socket);
  free(client);
  return NULL;
}

int main(int count, char **arguments) { return accept_all(count, arguments, 0, serve); }
