/** `sluice crash`, as users run it. What it finds, and what not, is the explorer's business. */
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, it, type TestContext } from 'vitest';
import { MUTANTS } from '../../scripts/mutants/list.mjs';
import { compileWith, mutate } from '../../scripts/mutants/mutant.mjs';
import { humanReport, jsonReport, progressTexts } from '../../src/cli/crash-report.ts';
import { FAULTS } from '../../src/testing/explore.ts';
import { Folder, hasScript, run, Running, sluice, SLUICE } from './sluice.ts';

const ESCAPE = String.fromCharCode(27);
/** More than any machine explores while a test runs. */
const ENDLESS = String(10 ** 12);
const KEPT = new RegExp(
  String.raw`^every promise kept: (\d+) crash states, (\d+) streams, (\d+) steps, ` +
    String.raw`\d+\.\d s, [\d.]+[kM]? states/s, seed (\d+)\n$`,
);

interface Json {
  readonly result: string;
  readonly seed: number;
  readonly states: number;
  readonly streams: number;
  readonly steps: number;
  readonly seconds: number;
  readonly failure: {
    readonly rule: string;
    readonly message: string;
    readonly stream: readonly string[];
    readonly timeline: readonly string[];
  } | null;
  readonly repeat: string;
}

/** `sluice crash ARGS --output json` to its end. */
async function crashJson(args: readonly string[]): Promise<{ code: number | null; found: Json }> {
  const { code, stdout, stderr } = await sluice(['crash', ...args, '--output', 'json']);
  expect(stderr).toBe('');
  return { code, found: JSON.parse(stdout) as Json };
}

/** What `sluice crash ARGS` says when a signal has ended it. */
async function interrupted(args: readonly string[], signal: NodeJS.Signals): Promise<Json> {
  const words = [SLUICE, 'crash', ...args, '--output', 'json'];
  // It says nothing before the end: a signal that comes before it listens ends it at once.
  for (let wait = 1000; ; wait *= 2) {
    await using running = new Running(process.execPath, words);
    await new Promise((resolve) => setTimeout(resolve, wait));
    const { code, signal: by, stdout, stderr } = await running.stop(signal);
    if (by === signal && wait < 16_000) continue;
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    return JSON.parse(stdout) as Json;
  }
}

describe('sluice crash', () => {
  it('says in one line what it has explored, and nothing else', async () => {
    const { code, stdout, stderr } = await sluice(['crash', '--states', '3000', '--seed', '5']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [, states, streams, steps, seed] = KEPT.exec(stdout) ?? [];
    expect(stdout).toMatch(KEPT);
    expect(Number(states)).toBeGreaterThanOrEqual(3000);
    expect(Number(streams)).toBeGreaterThan(10);
    expect(Number(steps)).toBeGreaterThan(100);
    expect(seed).toBe('5');
  });

  it('writes one JSON object, the same for the same seed but for the time', async () => {
    const args = ['--states', '2000', '--seed', '7', '--requests', '5', '--faults', 'sync,torn'];
    const { code, found } = await crashJson(args);
    expect(code).toBe(0);
    expect(found).toEqual({
      result: 'kept',
      seed: 7,
      states: expect.any(Number),
      streams: expect.any(Number),
      steps: expect.any(Number),
      survivors: expect.any(Number),
      kills: expect.any(Number),
      seconds: expect.any(Number),
      budget: 2000,
      phase: expect.any(String),
      failure: null,
      repeat: 'sluice crash --seed 7 --states 2000 --requests 5 --faults sync,torn',
    });
    const again = await crashJson(args);
    expect(again.found).toEqual({ ...found, seconds: again.found.seconds });
  });

  it('draws a seed where none is given, and says which', async () => {
    const runs = await Promise.all([1, 2, 3].map(() => crashJson(['--states', '50'])));
    const seeds = runs.map(({ found }) => found.seed);
    expect(new Set(seeds).size).toBe(3);
    for (const { found } of runs) expect(found.repeat).toContain(`--seed ${found.seed} `);
  });

  it('explores the faults that are named, all by default', async () => {
    const counts = await Promise.all([
      crashJson(['--states', '3000', '--seed', '1', '--faults', 'none']),
      crashJson(['--states', '3000', '--seed', '1', '--faults', FAULTS.join(',')]),
      crashJson(['--states', '3000', '--seed', '1']),
    ]);
    const [none, all, usual] = counts.map(({ found: { steps, streams } }) => [steps, streams]);
    expect(usual).toEqual(all);
    expect(none).not.toEqual(all);
  });

  it('says how far it came with what is exhaustive', async () => {
    const args = ['crash', '--exhaustive', '--requests', '1', '--faults', 'none', '--seed', '1'];
    const ended = async (states: string): Promise<string | undefined> => {
      const { stdout } = await sluice([...args, '--states', states]);
      return /, seed 1, ended at: (.*)\n$/.exec(stdout)?.[1];
    };
    expect(await ended('20')).toBe('every stream of 1');
    expect(await ended('20000')).toBe('random streams');
  });

  it('has a help that fits a terminal and names every option and fault', async () => {
    const { code, stdout, stderr } = await sluice(['crash', '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^Usage: sluice crash \[OPTIONS\]\n/);
    const options = [...stdout.matchAll(/^ {2}(?:-\w, )?(--[\w-]+)/gm)].map(([, name]) => name);
    expect(options).toEqual([
      '--seed',
      '--states',
      '--requests',
      '--exhaustive',
      '--faults',
      '--engine',
      '--output',
      '--help',
    ]);
    for (const fault of FAULTS) expect(stdout).toMatch(new RegExp(`(^| ) {2}${fault} `, 'm'));
    expect(stdout).toContain('\nExamples:\n  sluice crash\n');
    expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
    expect((await sluice(['--help'])).stdout).toMatch(/^ {2}crash /m);
  });

  it.each<[args: string[], message: string]>([
    [['--seed', '-1'], "'-1' is invalid. It must be a whole number from 0 to 4294967295."],
    [['--seed', 'x'], "'x' is invalid. It must be a whole number from 0 to 4294967295."],
    [['--states', '0'], "'0' is invalid. It must be a whole number from 1 on."],
    [['--requests', '65'], "'65' is invalid. It must be a whole number from 1 to 64."],
    [['--faults', 'sync,x'], `'sync,x' is invalid. It is none, or a list of ${FAULTS.join(', ')}.`],
    [['--faults', ''], "'' is invalid. It is none, or a list of"],
    [['--output', 'xml'], "'xml' is invalid. Allowed choices are human, json."],
    [['--conjure'], "unknown option '--conjure'"],
    [['disk.img'], "crash takes options only, not 'disk.img'"],
    [['--engine'], 'argument missing'],
  ])('refuses %j in one line, and points at the help', async (args, message) => {
    const { code, stdout, stderr } = await sluice(['crash', ...args]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: [^\n]+\nTry 'sluice crash --help'.\n$/);
    expect(stderr).toContain(message);
  });
});

describe('a result that cannot be written', () => {
  it.each(['crash --states 1000', '--version'])('is a failure of sluice %s', async (args) => {
    const command = `"${process.execPath}" "${SLUICE}" ${args} >/dev/full`;
    const { code, stderr } = await run('sh', ['-c', command]);
    expect([code, stderr]).toEqual([1, expect.stringContaining('ENOSPC')]);
  });
});

describe('sluice crash --engine', () => {
  it('explores the build that it is given', async () => {
    await using folder = await Folder.make();
    const file = folder.file("the engine's.wasm");
    await writeFile(file, await readFile(new URL('../../dist/engine.wasm', import.meta.url)));
    const { code, found } = await crashJson(['--engine', file, '--states', '500', '--seed', '1']);
    expect([code, found.result]).toEqual([0, 'kept']);
    expect(found.repeat).toContain(String.raw`--engine '${folder.path}/the engine'\''s.wasm'`);
    const inside = await crashJson(['--states', '500', '--seed', '1']);
    expect(inside.found.states).toBe(found.states);
  });

  it('finds a broken one, and says how in the fewest requests', async () => {
    const mutant = MUTANTS.find(({ name }) => name === 'F3: a flush is elided while a sync runs');
    expect(mutant).toBeDefined();
    await using folder = await Folder.make();
    const file = folder.file('broken.wasm');
    await writeFile(file, await compileWith(mutate(mutant!)));
    const args = ['--engine', file, '--seed', '1', '--states', '100000'];
    const { code, stdout, stderr } = await sluice(['crash', ...args]);
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' });
    const lines = stdout.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^broken: [\w-]+: \S.*/);
    expect(lines[1]).toMatch(/^engine: \S/);
    expect(stdout).toMatch(
      /^stream of \d+ requests:\n( {2}\S.*\n)+what happened:\n( {2}.*\n)+again: /m,
    );
    expect(lines.at(-2)).toBe(`again: sluice crash --seed 1 --states 100000 --engine ${file}`);
    expect(lines.at(-1)).toMatch(/^a promise is broken: \d+ crash states, /);

    const { code: again, found } = await crashJson(args);
    expect([again, found.result]).toEqual([1, 'broken']);
    expect(lines[0]).toBe(`broken: ${found.failure!.rule}: ${found.failure!.message}`);
    expect(found.failure!.stream.length).toBeLessThanOrEqual(4);
    expect(found.failure!.stream.join()).toContain('flush');
    for (const line of found.failure!.timeline) expect(stdout).toContain(`  ${line}\n`);
  }, 120_000);

  it('can be ended when the engine does not come back from a call (C1)', async () => {
    await using folder = await Folder.make();
    const file = folder.file('endless.wasm');
    const edit = {
      file: 'assembly/index.ts',
      find: 'return run(base, now);',
      replace: 'while (base != 1) run(base, now);\n  return 0;',
    };
    const endless = {
      name: 'pump does not return',
      edits: [edit],
      explored: true,
      tests: 'test/engine',
    };
    await writeFile(file, await compileWith(mutate(endless)));
    const found = await interrupted(['--engine', file], 'SIGINT');
    expect(found).toMatchObject({ result: 'stopped', states: 0, failure: null });
  });

  it('refuses what is not an engine, and what is not there', async () => {
    await using folder = await Folder.make();
    const text = folder.file('text.wasm');
    await writeFile(text, 'no engine');
    const empty = folder.file('empty.wasm');
    await writeFile(empty, Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    const refusals = [
      [text, /^sluice: cannot use ".*text\.wasm" as the engine: it is not WebAssembly: [^\n]*\n$/],
      [empty, /^sluice: cannot use ".*" as the engine: it does not export regionSize, init, /],
      [
        folder.file('none'),
        /^sluice: cannot read the engine ".*none": no such file [^\n]*ENOENT\)\n$/,
      ],
    ] as const;
    for (const [file, message] of refusals) {
      const { code, stdout, stderr } = await sluice(['crash', '--engine', file]);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(message);
    }
  });
});

/** `sluice crash` on a pseudo terminal; what it shows is in `stdout`. */
class OnTerminal extends Running {
  constructor(context: TestContext, args: readonly string[], columns = 160, env = {}) {
    if (!hasScript()) context.skip('needs script (Debian package bsdutils)');
    const words = [process.execPath, SLUICE, 'crash', ...args].map((word) => `'${word}'`);
    super('script', ['-qec', `stty cols ${columns} && exec ${words.join(' ')}`, '/dev/null'], {
      env: { TERM: 'xterm', ...env },
      input: null,
    });
  }
}

describe('on a terminal, sluice crash', () => {
  it('shows in one line how far it is, and ends with Ctrl-C', async (context) => {
    await using running = new OnTerminal(context, ['--states', ENDLESS, '--seed', '3']);
    const line = /\r[^\r\n]*[\d.]+[kM]? crash states, 0% of the budget, \S+ states\/s, \S+ h left/;
    await running.shows(line);
    running.child.stdin?.write('\x03');
    const { code, stdout } = await running.outcome;
    expect(code).toBe(130);
    expect(stdout).not.toMatch(/crash states, 0%[^\r]*\n/);
    const end = stdout.slice(stdout.lastIndexOf(`${ESCAPE}[K`) + 3);
    expect(end).toMatch(/^stopped, every promise kept so far: \d+ crash states, .*, seed 3\r\n$/);
  });

  it('uses no colours with NO_COLOR, and cuts the line to the width', async (context) => {
    const args = ['--states', ENDLESS];
    await using running = new OnTerminal(context, args, 30, { NO_COLOR: '1' });
    const [, line] = await running.shows(
      new RegExp(`\r([^\r\n${ESCAPE}]*states[^\r\n]*)${ESCAPE}\\[K`),
    );
    expect(line!.length).toBeLessThanOrEqual(29);
    expect(running.stdout).not.toContain(`${ESCAPE}[2m`);
  });
});

describe('in a pipe, sluice crash', () => {
  it.each(['SIGINT', 'SIGTERM'] as const)(
    'ends at %s with what was done so far',
    async (signal) => {
      const found = await interrupted(['--states', ENDLESS], signal);
      expect(found).toMatchObject({ result: 'stopped', failure: null });
      expect(found.states).toBeGreaterThan(0);
    },
  );
});

describe('the texts of sluice crash', () => {
  const progress = { states: 25_000, streams: 900, steps: 1e6, survivors: 1, kills: 1, phase: 'p' };

  it('say how far it is and how long it will take, shorter where that does not fit', () => {
    expect(progressTexts(progress, 100_000, 10)).toEqual([
      '25.0k crash states, 25% of the budget, 2.5k states/s, 30 s left, 900 streams, p',
      '25.0k crash states, 25% of the budget, 2.5k states/s, 30 s left',
      '25.0k states 25% 2.5k/s 30 s left',
    ]);
    expect(progressTexts(progress, 1_000_000, 10)[2]).toContain(' 7 min left');
    expect(progressTexts(progress, 100_000_000, 10)[2]).toContain(' 11.1 h left');
    expect(progressTexts({ ...progress, states: 0 }, 100, 1)[2]).toBe('0 states 0% 0/s ? left');
  });

  it('report a broken promise although a signal came meanwhile (C3)', () => {
    const failure = { rule: 'r', message: 'm', stream: ['write'], config: 'c', timeline: 't\n' };
    const result = { ...progress, seconds: 2, failure };
    const report = {
      options: { states: 5, output: 'human' },
      seed: 1,
      result,
      stopped: true,
    } as const;
    expect(humanReport(report)).toBe(
      [
        'broken: r: m',
        'engine: c',
        'stream of 1 request:',
        '  write',
        'what happened:',
        '  t',
        'again: sluice crash --seed 1 --states 5',
        'a promise is broken: 25000 crash states, 900 streams, 1000000 steps, ' +
          '2.0 s, 12.5k states/s, seed 1',
        '',
      ].join('\n'),
    );
    expect(JSON.parse(jsonReport(report))).toMatchObject({
      result: 'broken',
      failure: { rule: 'r' },
    });
  });
});
