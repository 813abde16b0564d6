// nbd-floor-loop IMAGE SOCKET: the least that an NBD server can do for many who flush.
//
// One thread has all connections: what epoll says has come is read and executed, then every FLUSH
// among it waits for one fdatasync, which a second thread does while the first goes on. FLUSHes
// that come during it share the next. Nobody sleeps before 50 microseconds without work.

#include "nbd-floor-cached.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { MAX_WAITING = 65536, MAX_EVENTS = 256 };

/** A FLUSH that is not answered. */
struct waiting {
  struct connection *client;
  uint64_t cookie;
};

struct list {
  int count;
  struct waiting waiting[MAX_WAITING];
};

/** Of the loop: came in this round. Under the lock: wait for a sync, were synced. */
static struct list came, asked, synced;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t were_asked = PTHREAD_COND_INITIALIZER;
static int poller, wakes_loop;

/** Moves everything to the end of another list. */
static void move(struct list *from, struct list *to) {
  if (to->count + from->count > MAX_WAITING) fail("too many FLUSHes");
  memcpy(to->waiting + to->count, from->waiting, (size_t)from->count * sizeof *from->waiting);
  to->count += from->count;
  from->count = 0;
}

static int flush(struct connection *client, uint64_t cookie) {
  if (came.count == MAX_WAITING) fail("too many FLUSHes");
  came.waiting[came.count++] = (struct waiting){client, cookie};
  return 0;
}

static void *sync_all(void *unused) {
  static struct list own;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (asked.count == 0) pthread_cond_wait(&were_asked, &lock);
    move(&asked, &own);
    pthread_mutex_unlock(&lock);
    if (fdatasync(image) != 0) fail("fdatasync");
    pthread_mutex_lock(&lock);
    move(&own, &synced);
    pthread_mutex_unlock(&lock);
    if (eventfd_write(wakes_loop, 1) != 0) fail("eventfd_write");
  }
  return unused;
}

static void answer_synced(void) {
  static struct list own;
  eventfd_t ignored;
  if (eventfd_read(wakes_loop, &ignored) != 0) fail("eventfd_read");
  pthread_mutex_lock(&lock);
  move(&synced, &own);
  pthread_mutex_unlock(&lock);
  for (; own.count > 0; own.count--) {
    const struct waiting *done = &own.waiting[own.count - 1];
    struct simple_reply reply = success(done->cookie);
    put(done->client, &reply, sizeof reply);
  }
}

static void watch(int descriptor, struct connection *client) {
  struct epoll_event event = {EPOLLIN, {.ptr = client}};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event) != 0) fail("epoll_ctl");
}

static void attend(struct connection *client) {
  ssize_t received = recv(client->socket, client->in + client->have, window(client), MSG_DONTWAIT);
  if (received > 0) client->have += (size_t)received;
  if (received > 0 ? execute_all(client) : received < 0 && errno == EAGAIN) return;
  // Neither closed nor freed: a FLUSH of it may still wait, and this lives for one measurement.
  epoll_ctl(poller, EPOLL_CTL_DEL, client->socket, NULL);
  shutdown(client->socket, SHUT_RDWR);
}

static int next_events(struct epoll_event *events) {
  uint64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
  int count;
  do count = epoll_wait(poller, events, MAX_EVENTS, 0);
  while (count == 0 && nanoseconds() < deadline);
  return count == 0 ? epoll_wait(poller, events, MAX_EVENTS, -1) : count;
}

static void *serve(void *unused) {
  struct epoll_event events[MAX_EVENTS];
  for (;;) {
    int count = next_events(events);
    for (int at = 0; at < count; at++) {
      if (events[at].data.ptr == NULL) answer_synced();
      else attend(events[at].data.ptr);
    }
    if (came.count == 0) continue;
    pthread_mutex_lock(&lock);
    move(&came, &asked);
    pthread_cond_signal(&were_asked);
    pthread_mutex_unlock(&lock);
  }
  return unused;
}

static void *begin(void *argument) {
  struct connection *client = argument;
  if (negotiate(client)) watch(client->socket, client);
  else shutdown(client->socket, SHUT_RDWR);
  return NULL;
}

int main(int count, char **arguments) {
  pthread_t loop, syncer;
  poller = epoll_create1(EPOLL_CLOEXEC);
  wakes_loop = eventfd(0, EFD_CLOEXEC);
  if (poller < 0 || wakes_loop < 0) fail("epoll_create1");
  watch(wakes_loop, NULL);
  if (pthread_create(&loop, NULL, serve, NULL) != 0) fail("pthread_create");
  if (pthread_create(&syncer, NULL, sync_all, NULL) != 0) fail("pthread_create");
  return accept_all(count, arguments, 0, begin);
}
