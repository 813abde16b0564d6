import { describe, expect, it } from 'vitest';
import {
  type ExportInfo,
  Handshake,
  HANDSHAKE_CLOSE,
  HANDSHAKE_ENTER,
  HANDSHAKE_MORE,
} from '../../src/nbd/handshake.ts';
import { MAX_OPTION_BYTES, MAX_OPTIONS, MAX_SKIPPED_BYTES } from '../../src/nbd/limits.ts';
import { bytes, contextData, hex, infoData, option } from './client.ts';
import { random } from './sessions.ts';
import {
  ERR_EXT_HEADER_REQD,
  ERR_INVALID,
  ERR_POLICY,
  ERR_TOO_BIG,
  ERR_UNKNOWN,
  ERR_UNSUP,
} from './wire.ts';

const GREETING = hex('4e42444d41474943 49484156454f5054 0003');
const FLAGS = hex('00000003');
const INFO: ExportInfo = {
  name: 'disk',
  description: 'a test',
  sizeBytes: 2 ** 40 + 4096,
  readOnly: false,
  multiConn: true,
  preferredBlockBytes: 4096,
  maxPayloadBytes: 33_554_432,
  contexts: [{ name: 'base:allocation', kind: 'allocation' }],
};
/** The size above and the flags of everything but DF, read-only and rotational. */
const SIZE = '0000010000001000';

/** What a negotiation says to `sent`, without the greeting, and how it ended. */
function talk(sent: Uint8Array, info: ExportInfo = INFO): { out: Buffer; handshake: Handshake } {
  const handshake = new Handshake([info]);
  expect(Buffer.from(handshake.takeReplies())).toEqual(GREETING);
  const said: Uint8Array[] = [];
  let at = 0;
  for (;;) {
    const next = handshake.feed(sent, at, sent.length);
    said.push(handshake.takeReplies());
    if (next === at) break;
    at = next;
  }
  return { out: Buffer.concat(said), handshake };
}

/** Types of the option replies to options. */
function types(...options: Uint8Array[]): number[] {
  const { out } = talk(bytes(FLAGS, ...options));
  const found: number[] = [];
  for (let at = 0; at < out.length; at += 20 + out.readUInt32BE(at + 16)) {
    found.push(out.readUInt32BE(at + 12));
  }
  return found;
}

describe('the negotiation', () => {
  it('says what the walk-through of the digest says', () => {
    const { out, handshake } = talk(
      hex(`00000003
        49484156454f5054 00000008 00000000
        49484156454f5054 00000007 00000008 00000000 0001 0003`),
      { ...INFO, sizeBytes: 2 ** 20 },
    );
    expect(out.toString('hex')).toBe(
      hex(`0003e889045565a9 00000008 00000001 00000000
        0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0ded
        0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
        0003e889045565a9 00000007 00000001 00000000`).toString('hex'),
    );
    expect(handshake.outcome).toBe(HANDSHAKE_ENTER);
    expect(handshake.headers).toBe(1);
  });

  it('says the same when every byte comes alone', () => {
    const sent = bytes(
      FLAGS,
      option(8),
      option(99, Buffer.alloc(33)),
      option(10, contextData('disk', 'base:allocation')),
      option(7, infoData('disk', 3)),
    );
    const whole = talk(sent);
    const handshake = new Handshake([INFO]);
    handshake.takeReplies();
    const said: Uint8Array[] = [];
    for (let at = 0; at < sent.length; at++) {
      expect(handshake.feed(sent, at, at + 1)).toBe(at + 1);
      said.push(handshake.takeReplies());
    }
    expect(Buffer.concat(said)).toEqual(whole.out);
    expect(handshake.outcome).toBe(HANDSHAKE_ENTER);
    expect(handshake.selection).toBe(1);
  });

  it('leaves what follows GO to transmission', () => {
    const sent = bytes(FLAGS, option(7, infoData('disk')), 'more');
    const handshake = new Handshake([INFO]);
    handshake.takeReplies();
    expect(handshake.feed(sent, 0, sent.length)).toBe(sent.length - 4);
  });

  it('drops a client that sets a flag it was not offered (Client flags)', () => {
    expect(talk(hex('00000004')).handshake.outcome).toBe(HANDSHAKE_CLOSE);
    expect(talk(hex('00000000')).handshake.outcome).toBe(HANDSHAKE_MORE);
  });

  it('offers flags by what the export is (Transmission flags)', () => {
    const flags = (info: Partial<ExportInfo>, ...options: Buffer[]): string =>
      talk(bytes(FLAGS, ...options, option(1, Buffer.from('disk'))), { ...INFO, ...info })
        .out.subarray(-2)
        .toString('hex');
    expect(flags({})).toBe('0d6d');
    expect(flags({}, option(8))).toBe('0ded');
    expect(flags({ readOnly: true })).toBe('050f');
    expect(flags({ readOnly: true }, option(8))).toBe('058f');
    expect(flags({ multiConn: false }, option(8))).toBe('0ced');
  });

  it('stops when its replies are not taken, and goes on when they are', () => {
    const sent = bytes(FLAGS, ...Array.from({ length: 900 }, () => option(3)));
    const handshake = new Handshake([INFO]);
    const at = handshake.feed(sent, 0, sent.length);
    expect(at).toBeLessThan(sent.length);
    expect(handshake.takeReplies().length).toBeLessThan(20_000);
    expect(handshake.feed(sent, at, sent.length)).toBeGreaterThan(at);
  });
});

describe('EXPORT_NAME', () => {
  it('is answered with size, flags and 124 zeroes', () => {
    const { out, handshake } = talk(bytes(hex('00000001'), option(1, Buffer.from('disk'))));
    expect(out).toEqual(bytes(hex(`${SIZE} 0d6d`), Buffer.alloc(124)));
    expect(handshake.outcome).toBe(HANDSHAKE_ENTER);
  });

  it('has no zeroes when NO_ZEROES was negotiated', () => {
    expect(talk(bytes(FLAGS, option(1))).out).toEqual(hex(`${SIZE} 0d6d`));
  });

  it('is all that a client without fixed newstyle may ask', () => {
    expect(talk(bytes(hex('00000000'), option(1))).handshake.outcome).toBe(HANDSHAKE_ENTER);
    expect(talk(bytes(hex('00000000'), option(6))).handshake.outcome).toBe(HANDSHAKE_CLOSE);
  });

  it.each([
    ['of another export', Buffer.from('other')],
    ['longer than a string may be', Buffer.alloc(4097, 'a')],
    ['with NUL', Buffer.from('a\0b')],
    ['that is not UTF-8', hex('ff')],
  ])('%s is not answered', (_what, name) => {
    const { out, handshake } = talk(bytes(FLAGS, option(1, name)));
    expect(out).toHaveLength(0);
    expect(handshake.outcome).toBe(HANDSHAKE_CLOSE);
  });
});

describe('INFO and GO', () => {
  it('tell everything that was asked, once', () => {
    const { out } = talk(bytes(FLAGS, option(6, infoData('', 3, 1, 2, 1, 77))));
    const reply = (length: string): string => `0003e889045565a9 00000006 00000003 ${length}`;
    expect(out).toEqual(
      bytes(
        hex(`${reply('0000000c')} 0000 ${SIZE} 0d6d ${reply('00000006')} 0001`),
        'disk',
        hex(`${reply('00000008')} 0002`),
        'a test',
        hex(`${reply('0000000e')} 0003 00000001 00001000 02000000`),
        hex('0003e889045565a9 00000006 00000001 00000000'),
      ),
    );
  });

  it('INFO does not enter transmission, GO does', () => {
    const { handshake } = talk(bytes(FLAGS, option(6, infoData('disk'))));
    expect(handshake.outcome).toBe(HANDSHAKE_MORE);
  });

  it.each([
    ['nothing', hex('')],
    ['a name length alone', hex('00000000')],
    ['a name past the end', bytes([4, 1000], 'abc', [2, 0])],
    ['a name length of 2^32-1', bytes([4, 0xffffffff], [2, 0])],
    ['more types announced than sent', bytes([4, 0], [2, 500])],
    ['more types sent than announced', bytes([4, 0], [2, 0], [2, 3])],
    ['NUL in the name', infoData('a\0b')],
    ['a name that is not UTF-8', bytes([4, 1], hex('ff'), [2, 0])],
    ['a name of 4097 bytes', infoData('a'.repeat(4097))],
  ])('are ERR_INVALID with %s', (_what, data) => {
    expect(types(option(6, data), option(7, data), option(3))).toEqual([
      ERR_INVALID,
      ERR_INVALID,
      2,
      1,
    ]);
  });

  it('are ERR_UNKNOWN for another export', () => {
    expect(types(option(6, infoData('nope')), option(7, infoData('nope')))).toEqual([
      ERR_UNKNOWN,
      ERR_UNKNOWN,
    ]);
  });

  it('take a name of 4096 bytes', () => {
    const name = 'ä'.repeat(2048);
    const { out, handshake } = talk(bytes(FLAGS, option(7, infoData(name, 1))), { ...INFO, name });
    expect(handshake.outcome).toBe(HANDSHAKE_ENTER);
    expect(out.includes(name)).toBe(true);
  });

  it('are ERR_TOO_BIG beyond the limit, and the next option is found', () => {
    const data = Buffer.alloc(MAX_OPTION_BYTES + 1);
    expect(types(option(7, data), option(3))).toEqual([ERR_TOO_BIG, 2, 1]);
  });
});

describe('metadata contexts', () => {
  const set = (...queries: string[]): Buffer => option(10, contextData('disk', ...queries));
  const list = (...queries: string[]): Buffer => option(9, contextData('', ...queries));

  it('are selected with an id', () => {
    const { out, handshake } = talk(bytes(FLAGS, option(8), set('base:allocation', 'x:y')));
    expect(out.subarray(20)).toEqual(
      bytes(
        hex('0003e889045565a9 0000000a 00000004 00000013 00000001'),
        'base:allocation',
        hex('0003e889045565a9 0000000a 00000001 00000000'),
      ),
    );
    expect(handshake.selection).toBe(1);
  });

  it('are listed by name, by wildcard and without a query', () => {
    for (const queries of [['base:allocation'], ['base:'], []]) {
      expect(types(option(8), list(...queries))).toEqual([1, 4, 1]);
    }
    expect(types(option(8), list('qemu:', 'base', 'base:alloc'))).toEqual([1, 1]);
  });

  it('are selected by full name only, and listing selects nothing', () => {
    for (const asked of [set('base:'), set(), set('other:context'), list('base:allocation')]) {
      expect(talk(bytes(FLAGS, option(8), asked)).handshake.selection).toBe(0);
    }
  });

  it.each([
    ['empty', set()],
    ['malformed', option(10, hex('00'))],
    ['too large', option(10, Buffer.alloc(MAX_OPTION_BYTES + 1))],
    ['for another export', option(10, contextData('nope', 'base:allocation'))],
  ])('are forgotten by a selection that is %s', (_what, second) => {
    const { handshake } = talk(bytes(FLAGS, option(8), set('base:allocation'), second));
    expect(handshake.selection).toBe(0);
  });

  it('need structured replies', () => {
    expect(types(set('base:allocation'), list())).toEqual([ERR_INVALID, ERR_INVALID]);
  });

  it.each([
    ['2^32-1 queries', bytes([4, 0], [4, 0xffffffff])],
    ['a query past the end', bytes([4, 0], [4, 1], [4, 5000], 'base:')],
    ['bytes behind the queries', bytes(contextData('', 'base:'), 'x')],
    ['a query that is not UTF-8', bytes([4, 0], [4, 1], [4, 1], hex('80'))],
    ['no number of queries', bytes([4, 0])],
  ])('are ERR_INVALID with %s', (_what, data) => {
    expect(types(option(8), option(9, data), option(10, data))).toEqual([
      1,
      ERR_INVALID,
      ERR_INVALID,
    ]);
  });
});

describe('other options', () => {
  it('LIST names the export and its description', () => {
    const { out } = talk(bytes(FLAGS, option(3)));
    expect(out).toEqual(
      bytes(
        hex('0003e889045565a9 00000003 00000002 0000000e 00000004'),
        'diska test',
        hex('0003e889045565a9 00000003 00000001 00000000'),
      ),
    );
  });

  it('ABORT is acknowledged, with data or without, and ends it', () => {
    for (const data of [hex(''), Buffer.from('bye')]) {
      const { out, handshake } = talk(bytes(FLAGS, option(2, data), option(3)));
      expect(out).toEqual(hex('0003e889045565a9 00000002 00000001 00000000'));
      expect(handshake.outcome).toBe(HANDSHAKE_CLOSE);
    }
  });

  it.each([
    ['STARTTLS is ERR_POLICY', option(5), [ERR_POLICY]],
    ['EXTENDED_HEADERS is acknowledged once', bytes(option(11), option(11)), [1, ERR_INVALID]],
    ['EXTENDED_HEADERS takes no data', option(11, hex('00')), [ERR_INVALID]],
    ['EXTENDED_HEADERS comes after structured replies', bytes(option(8), option(11)), [1, 1]],
    [
      'EXTENDED_HEADERS stays when structured replies are asked for',
      bytes(option(11), option(8)),
      [1, ERR_EXT_HEADER_REQD],
    ],
    ['an unknown option is ERR_UNSUP', option(0x7fffffff), [ERR_UNSUP]],
    ['an option with much data is skipped', option(99, Buffer.alloc(100_000)), [ERR_UNSUP]],
    ['STRUCTURED_REPLY is acknowledged once', bytes(option(8), option(8)), [1, ERR_INVALID]],
    ['STRUCTURED_REPLY takes no data', option(8, hex('00')), [ERR_INVALID]],
    ['LIST takes no data', option(3, hex('00')), [ERR_INVALID]],
  ])('%s, and the next one is found', (_what, options, expected) => {
    expect(types(options, option(3))).toEqual([...expected, 2, 1]);
  });

  it('a wrong magic ends it', () => {
    const wrong = bytes('IHAVEOPS', [4, 3], [4, 0]);
    expect(talk(bytes(FLAGS, wrong)).handshake.outcome).toBe(HANDSHAKE_CLOSE);
  });

  it('more data than the limit ends it before any comes', () => {
    const most = talk(bytes(FLAGS, option(99, hex(''), MAX_SKIPPED_BYTES)));
    expect(most.handshake.outcome).toBe(HANDSHAKE_MORE);
    const more = talk(bytes(FLAGS, option(99, hex(''), MAX_SKIPPED_BYTES + 1)));
    expect(more.handshake.outcome).toBe(HANDSHAKE_CLOSE);
  });

  it('more options than the limit end it', () => {
    const options = (count: number): Buffer =>
      bytes(FLAGS, ...Array.from({ length: count }, () => option(3)));
    expect(talk(options(MAX_OPTIONS)).handshake.outcome).toBe(HANDSHAKE_MORE);
    const over = talk(options(MAX_OPTIONS + 1));
    expect(over.handshake.outcome).toBe(HANDSHAKE_CLOSE);
    expect(over.out).toHaveLength(MAX_OPTIONS * (20 + 14 + 20));
  });
});

describe('noise', () => {
  it('never throws, is never held beyond the limit, and consumes all until the outcome', () => {
    for (let seed = 1; seed <= 2000; seed++) {
      const next = random(seed);
      const options = Array.from({ length: 1 + next(6) }, () => {
        const data = Buffer.from(Uint8Array.from({ length: next(60) }, () => next(256)));
        if (next(2) === 0) data.fill(0, 0, Math.min(4, data.length));
        return option(next(13), data, next(8) === 0 ? next(70) : data.length);
      });
      const sent = bytes(FLAGS, ...options);
      if (next(4) === 0) sent[next(sent.length)] = next(256);
      const handshake = new Handshake([INFO]);
      for (let at = 0; at < sent.length && handshake.outcome === HANDSHAKE_MORE;) {
        const end = Math.min(sent.length, at + 1 + next(40));
        const consumed = handshake.feed(sent, at, end);
        expect(handshake.takeReplies().length, `seed ${seed}`).toBeLessThan(20_000);
        if (handshake.outcome === HANDSHAKE_MORE) expect(consumed, `seed ${seed}`).toBe(end);
        at = consumed;
      }
    }
  });
});

describe('extended headers', () => {
  const flagsOf = (...options: Uint8Array[]): number => {
    const { out } = talk(bytes(FLAGS, ...options));
    const at = out.indexOf(hex('00000003 0000000c 0000'));
    return out.readUInt16BE(at + 10 + 8);
  };
  const select = option(10, contextData('', 'base:allocation'));

  it('forbid EXPORT_NAME', () => {
    const { out, handshake } = talk(bytes(FLAGS, option(11), option(1, Buffer.from('disk'))));
    expect(out).toHaveLength(20);
    expect(handshake.outcome).toBe(HANDSHAKE_CLOSE);
  });

  it('let contexts be selected, and BLOCK_STATUS name them', () => {
    expect(types(option(11), select)).toEqual([1, 4, 1]);
    expect(flagsOf(option(11), select, option(7, infoData()))).toBe(0x1ded);
  });

  it.each([
    ['without a context', [option(11)]],
    ['without extended headers', [option(8), select]],
    ['after a selection of nothing', [option(11), select, option(10, contextData(''))]],
  ])('offer no names of contexts %s', (_what, options) => {
    expect(flagsOf(...options, option(7, infoData())) & 0x1000).toBe(0);
  });

  it('are told by INFO before anything is selected', () => {
    expect(flagsOf(option(11), option(6, infoData()))).toBe(0x1ded);
    expect(flagsOf(option(8), option(6, infoData()))).toBe(0x0ded);
  });
});

describe('contexts of an export with bitmaps', () => {
  const map = { granularityBytes: 65_536, isDirty: () => false, runEnd: () => 0 };
  const contexts = [
    { name: 'base:allocation', kind: 'allocation' },
    { name: 'qemu:allocation-depth', kind: 'depth' },
    { name: 'qemu:dirty-bitmap:b0', kind: 'bitmap', map },
    { name: 'qemu:dirty-bitmap:b1', kind: 'bitmap', map },
  ] as const;
  /** Ids and names that an option is answered with. */
  const said = (code: number, ...queries: string[]): [number, string][] => {
    const asked = bytes(FLAGS, option(8), option(code, contextData('', ...queries)));
    const { out } = talk(asked, { ...INFO, contexts });
    const found: [number, string][] = [];
    for (let at = 20; at < out.length;) {
      const end = at + 20 + out.readUInt32BE(at + 16);
      if (out.readUInt32BE(at + 12) === 4) {
        found.push([out.readUInt32BE(at + 20), out.toString('utf8', at + 24, end)]);
      }
      at = end;
    }
    return found;
  };
  const names = (...places: number[]): [number, string][] =>
    places.map((place) => [0, contexts[place]?.name ?? '']);

  it('are listed by wildcards', () => {
    expect(said(9)).toEqual(names(0, 1, 2, 3));
    expect(said(9, 'base:')).toEqual(names(0));
    expect(said(9, 'qemu:')).toEqual(names(1, 2, 3));
    expect(said(9, 'qemu:dirty-bitmap:')).toEqual(names(2, 3));
    expect(said(9, 'qemu:dirty-bitmap:b1', 'base:')).toEqual(names(0, 3));
    expect(said(9, 'qemu', 'qemu:dirty-bitmap', 'qemu:dirty-bitmap:b2', 'qemu:x')).toEqual([]);
  });

  it('are selected by name, each with the same id whatever else is', () => {
    expect(said(10, 'base:', 'qemu:', 'qemu:dirty-bitmap:')).toEqual([]);
    expect(said(10, 'qemu:dirty-bitmap:b1')).toEqual([[4, 'qemu:dirty-bitmap:b1']]);
    const all = contexts.map(({ name }) => name);
    expect(said(10, ...all, ...all)).toEqual(all.map((name, place) => [place + 1, name]));
  });

  it('may be asked for a hundred times, and are answered once each', () => {
    const queries = Array.from({ length: 100 }, (_, index) => `qemu:dirty-bitmap:b${index % 9}`);
    expect(said(10, ...queries)).toHaveLength(2);
  });
});
