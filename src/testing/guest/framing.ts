/**
 * How a virtio-blk request is cut into descriptors. VIRTIO 1.3, 2.7.4: a device must not care.
 *
 * A request is two strings of bytes: what the device reads (header, then data of a write) and what
 * it writes (data of a read, then status). A framing cuts each into pieces, anywhere; a piece is a
 * descriptor, and one of no bytes is a descriptor of length 0.
 */
import { invalid } from '../../arguments.ts';

/** The parts of a request, in bytes. */
export interface RequestParts {
  /** Read by the device. */
  readonly header: number;
  readonly out: number;
  /** Written by the device. */
  readonly in: number;
  readonly status: number;
}

/** A request in pieces. */
export interface FramedRequest {
  /** Bytes of each readable piece; together header + out. */
  readonly readable: readonly number[];
  /** Bytes of each writable piece; together in + status. */
  readonly writable: readonly number[];
  /** Pieces from this one on stand in an indirect table; default: what the driver does. */
  readonly indirectFrom?: number;
}

/** Cuts requests. */
export type Framing = (parts: RequestParts) => FramedRequest;

/** Header, data and status have one descriptor each; without data there is none for it. */
export const plainFraming: Framing = (parts) => ({
  readable: withoutEmpty([parts.header, parts.out]),
  writable: withoutEmpty([parts.in, parts.status]),
});

/** One readable descriptor for header and data, and one writable for data and status. */
export const joinedFraming: Framing = (parts) => ({
  readable: withoutEmpty([parts.header + parts.out]),
  writable: withoutEmpty([parts.in + parts.status]),
});

/** As plain, with the data in so many descriptors: whole sectors each while there are enough. */
export function segmentedFraming(segments: number): Framing {
  return (parts) => ({
    readable: withoutEmpty([parts.header, ...evenly(parts.out, segments)]),
    writable: withoutEmpty([...evenly(parts.in, segments), parts.status]),
  });
}

/** Pieces of these bytes, over and over, whatever they cut: [1] is a descriptor for each byte. */
export function cutFraming(pieces: readonly number[]): Framing {
  return (parts) => ({
    readable: repeated(parts.header + parts.out, pieces),
    writable: repeated(parts.in + parts.status, pieces),
  });
}

/** Cuts anywhere, sometimes twice at one place. @param below a number from 0 to limit - 1 */
export function randomFraming(below: (limit: number) => number, mostCuts = 4): Framing {
  const cut = (total: number): number[] => {
    const cuts = Array.from({ length: below(mostCuts + 1) }, () => below(total + 1));
    const ends = [...cuts.sort((a, b) => a - b), total];
    return ends.map((end, index) => end - (ends[index - 1] ?? 0));
  };
  return (parts) => ({
    readable: cut(parts.header + parts.out),
    writable: cut(parts.in + parts.status),
  });
}

/** Another framing with a descriptor of length 0 before each of its own. */
export function withEmptyDescriptors(framing: Framing): Framing {
  return (parts) => {
    const framed = framing(parts);
    const spread = (pieces: readonly number[]): number[] => pieces.flatMap((piece) => [0, piece]);
    return { ...framed, readable: spread(framed.readable), writable: spread(framed.writable) };
  };
}

/** Another framing in an indirect table, but for so many descriptors that stand before it. */
export function indirectFraming(framing: Framing, from = 0): Framing {
  return (parts) => ({ ...framing(parts), indirectFrom: from });
}

/** Another framing without an indirect table, also where the driver usually makes one. */
export function directFraming(framing: Framing): Framing {
  return indirectFraming(framing, Infinity);
}

/** The pieces, checked: they make up the whole request. */
export function frame(framing: Framing, parts: RequestParts): FramedRequest {
  const framed = framing(parts);
  const readable = sum(framed.readable);
  const writable = sum(framed.writable);
  if (readable !== parts.header + parts.out || writable !== parts.in + parts.status) {
    throw invalid(
      `the framing has ${readable} readable and ${writable} writable bytes, ` +
        `the request ${parts.header + parts.out} and ${parts.in + parts.status}`,
    );
  }
  return framed;
}

function withoutEmpty(pieces: readonly number[]): number[] {
  return pieces.filter((piece) => piece > 0);
}

function sum(pieces: readonly number[]): number {
  let total = 0;
  for (const piece of pieces) total += piece;
  return total;
}

function evenly(total: number, count: number): number[] {
  const unit = total % 512 === 0 && total / 512 >= count ? 512 : 1;
  const each = Math.floor(total / unit / count) * unit;
  return Array.from({ length: count }, (_, index) =>
    index + 1 < count ? each : total - each * (count - 1),
  );
}

function repeated(total: number, pieces: readonly number[]): number[] {
  if (!(sum(pieces) > 0)) throw invalid('a framing of no bytes cuts nothing');
  const cut: number[] = [];
  for (let rest = total; rest > 0;) {
    const piece = Math.min(rest, pieces[cut.length % pieces.length] ?? rest);
    cut.push(piece);
    rest -= piece;
  }
  return cut;
}
