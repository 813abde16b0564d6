# A client of the soak: writes, zeroes and reads blocks of its region at random, several at a time,
# and looks at every block that it reads. What it knows outlives it, in a file: for each block the
# generation that was sent last and the one that was acknowledged last.
#
#   worker.py load URI STATE FIRST BLOCKS SEED    until stdin ends; reports on stdout
#   worker.py check URI STATE FIRST BLOCKS SEED   reads everything once
#
# An odd generation is data that tells block and generation in every 16 bytes, an even one zeroes.
# A block may have any generation from the acknowledged to the sent one, as a whole; a block of
# somebody else must be whole.

import json
import mmap
import random
import select
import struct
import sys
import zlib

import nbd

BLOCK = 4096
DEPTH = 8
MOST_BLOCKS = 32
ZEROES = bytes(BLOCK)

mode, uri, state_path = sys.argv[1:4]
first, blocks, seed = map(int, sys.argv[4:7])
random.seed(seed)
with open(state_path, 'r+b') as state_file:
    state = memoryview(mmap.mmap(state_file.fileno(), 0)).cast('I')
total = len(state) // 2
counts = dict(reads=0, writes=0, zeroes=0, flushes=0, verifiedBytes=0, faults=[])


def content(block, generation):
    if generation % 2 == 0:
        return ZEROES
    stamp = struct.pack('<QI', block, generation)
    return (stamp + struct.pack('<I', zlib.crc32(stamp))) * (BLOCK // 16)


def generation_of(block, data):
    """Of a whole block; None where it is torn or another one's."""
    if data == ZEROES:
        return 0
    generation = struct.unpack_from('<I', data, 8)[0]
    return generation if generation % 2 == 1 and data == content(block, generation) else None


def look(start, data, mine):
    """Checks what was read; answers the generations."""
    found = []
    for index in range(len(data) // BLOCK):
        block = start + index
        generation = generation_of(block, bytes(data[index * BLOCK:(index + 1) * BLOCK]))
        if generation is None:
            counts['faults'].append(f'block {block} is not whole')
        elif mine:
            low, high = state[2 * block + 1], state[2 * block]
            fits = low <= generation <= high or (
                generation == 0 and any(g % 2 == 0 for g in range(low, high + 1)))
            if not fits:
                counts['faults'].append(
                    f'block {block} has generation {generation}, not {low} to {high}')
        found.append(generation)
    counts['verifiedBytes'] += len(data)
    return found


handle = nbd.NBD()
handle.connect_uri(uri)
busy = set()
pending = 0


def read_all(settle):
    for start in range(first, first + blocks, 256):
        length = min(256, first + blocks - start)
        found = look(start, handle.pread(length * BLOCK, start * BLOCK), True)
        if not settle:
            continue
        for index, generation in enumerate(found):
            if generation is None:
                continue
            block = start + index
            # Zeroes are what any even generation looks like: the last one that was possible.
            if generation == 0:
                generation = max(state[2 * block] & ~1, state[2 * block + 1] & ~1)
            state[2 * block] = state[2 * block + 1] = generation


def answered(kind, start, length, generations=None, data=None):
    def callback(error):
        global pending
        pending -= 1
        busy.difference_update(range(start, start + length))
        if error.value != 0:
            counts['faults'].append(f'{kind} of block {start} failed: {error.value}')
            return 1
        counts[kind] += 1
        if generations is not None:
            for index, generation in enumerate(generations):
                state[2 * (start + index) + 1] = generation
        if data is not None:
            look(start, data.to_bytearray(), first <= start < first + blocks)
        return 1
    return callback


def ask():
    """Starts a request at random; False when the range is in use."""
    global pending
    kind = random.choices(['reads', 'writes', 'zeroes', 'flushes', 'others'], [8, 8, 1, 1, 2])[0]
    length = random.choice([1, 1, 1, 2, 4, MOST_BLOCKS])
    start = random.randrange(first, first + blocks - length + 1)
    if kind == 'others':
        start = random.randrange(total - length + 1)
        kind = 'reads'
        if any(first <= block < first + blocks for block in (start, start + length - 1)):
            return False
    if kind == 'flushes':
        handle.aio_flush(answered(kind, start, 0))
        pending += 1
        return True
    blocks_of = range(start, start + length)
    if not busy.isdisjoint(blocks_of):
        return False
    busy.update(blocks_of)
    pending += 1
    if kind == 'reads':
        data = nbd.Buffer(length * BLOCK)
        handle.aio_pread(data, start * BLOCK, answered(kind, start, length, None, data))
        return True
    odd = 1 if kind == 'writes' else 0
    generations = []
    for block in blocks_of:
        generation = state[2 * block] + 1
        generation += (generation + odd) % 2
        state[2 * block] = generation
        generations.append(generation)
    flags = nbd.CMD_FLAG_FUA if random.random() < 0.05 else 0
    done = answered(kind, start, length, generations)
    if kind == 'zeroes':
        handle.aio_zero(length * BLOCK, start * BLOCK, done, flags)
    else:
        data = b''.join(content(b, g) for b, g in zip(blocks_of, generations))
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start * BLOCK, done, flags)
    return True


def stopped():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def load():
    # What was in flight when the last one here was killed is settled now.
    read_all(True)
    print('loading', flush=True)
    turns, stop = 0, False
    while not stop or pending > 0:
        turns += 1
        if turns % 64 == 0:
            stop = stop or stopped()
        if turns % 4096 == 0:
            report()
        if not stop and pending < DEPTH and ask():
            handle.poll(0)
        elif pending > 0:
            handle.poll(100)


def report():
    print(json.dumps({**counts, 'faults': counts['faults'][:10]}), flush=True)


if mode == 'load':
    load()
else:
    read_all(False)
report()
handle.shutdown()
