"""Writers that flush, over NBD with libnbd: python3 client.py URI WORKLOAD

WORKLOAD is JSON: actors, rounds, idleRounds, writes [fewest, most], connections, lockstep, seed,
regionBlocks. An actor is a program with a part of the disk to itself: it writes 4 KiB blocks at
random, one after the other, then flushes, so many rounds; then come rounds without writes. Actors
run beside each other on one connection or several; in lockstep all of them write, and when all have
been answered all flush.

At the end every block that was written is read back. Prints JSON: when it began and ended (seconds
since the epoch), from the first request to the last answer; flushes, writes, cpuSeconds of this
program meanwhile, and wrong blocks.
"""

import json
import random
import select
import struct
import sys
import time

import nbd

BLOCK = 4096
POLL_IN, POLL_OUT = select.POLLIN | select.POLLHUP, select.POLLOUT

uri, load = sys.argv[1], json.loads(sys.argv[2])
handles = [nbd.NBD() for _ in range(load["connections"])]
for handle in handles:
    handle.connect_uri(uri)
written = {}
requests = {"writes": 0, "flushes": 0}


def block_of(stamp):
    return bytearray(struct.pack("<Q", stamp) * (BLOCK // 8))


class Actor:
    """rounds of (writes, then a flush), each request when the one before is answered"""

    def __init__(self, index):
        self.index = index
        self.handle = handles[index % len(handles)]
        self.random = random.Random(load["seed"] * 1000 + index)
        self.rounds = load["rounds"] + load["idleRounds"]
        self.waiting = None
        self.begin_round()

    def begin_round(self):
        idle = self.rounds <= load["idleRounds"]
        self.writes = 0 if idle else self.random.randint(*load["writes"])

    def step(self):
        """Sends the next request; answers False when there is none."""
        if self.writes > 0:
            self.writes -= 1
            self.write()
        elif self.rounds > 0:
            self.rounds -= 1
            requests["flushes"] += 1
            self.waiting = "flush"
            self.handle.aio_flush(self.answered)
        else:
            return False
        return True

    def write(self):
        block = self.index * load["regionBlocks"] + self.random.randrange(load["regionBlocks"])
        requests["writes"] += 1
        stamp = requests["writes"] + (self.index << 32)
        written[block] = stamp
        self.waiting = "write"
        data = nbd.Buffer.from_bytearray(block_of(stamp))
        self.handle.aio_pwrite(data, block * BLOCK, self.answered)

    def answered(self, error):
        if error.value != 0:
            raise SystemExit(f"a {self.waiting} failed with errno {error.value}")
        if self.waiting == "flush" and self.rounds > 0:
            self.begin_round()
        self.waiting = None
        ready.append(self)
        return 1


poller = select.poll()
by_fd = {handle.aio_get_fd(): handle for handle in handles}


def wait():
    """Lets libnbd work until something has happened."""
    if len(handles) == 1:
        handles[0].poll(-1)
        return
    for fd, handle in by_fd.items():
        direction = handle.aio_get_direction()
        poller.register(
            fd,
            (POLL_IN if direction & nbd.AIO_DIRECTION_READ else 0)
            | (POLL_OUT if direction & nbd.AIO_DIRECTION_WRITE else 0),
        )
    for fd, events in poller.poll():
        handle = by_fd[fd]
        direction = handle.aio_get_direction()
        if events & POLL_IN and direction & nbd.AIO_DIRECTION_READ:
            handle.aio_notify_read()
        elif events & POLL_OUT and direction & nbd.AIO_DIRECTION_WRITE:
            handle.aio_notify_write()


def run_freely():
    while ready or any(actor.waiting for actor in actors):
        while ready:
            ready.pop(0).step()
        if any(actor.waiting for actor in actors):
            wait()


def run_in_lockstep():
    active = actors
    while active:
        ready.clear()
        active = [actor for actor in active if actor.step()]
        while any(actor.waiting for actor in active):
            wait()


def wrong_blocks():
    handle = handles[0]
    return sum(handle.pread(BLOCK, at * BLOCK) != block_of(stamp) for at, stamp in written.items())


actors = [Actor(index) for index in range(load["actors"])]
ready = list(actors)
began, began_cpu = time.time(), time.process_time()
(run_in_lockstep if load["lockstep"] else run_freely)()
ended, cpu_seconds = time.time(), time.process_time() - began_cpu
wrong = wrong_blocks()
for handle in handles:
    handle.shutdown()
times = {"began": began, "ended": ended, "cpuSeconds": cpu_seconds}
print(json.dumps({**times, "wrong": wrong, **requests}))
