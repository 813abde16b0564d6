/** `sluice stats`: what a server that has a control socket is doing. */
import { request } from 'node:http';
import type { Command } from 'commander';
import { writePart } from '../output.ts';
import { Refusal } from '../refusal.ts';
import { wholeNumber } from '../served-image-options.ts';
import { type ControlStats, statsText } from '../stats-text.ts';
import { outputOption } from './common.ts';

const NOTES = `
Latencies are from the header of a request to its reply; p50 <64 us says that
half of the requests took less than that. docs/metrics.md has every field of the
JSON, and the metrics for Prometheus that the same socket gives:

  curl --unix-socket disk.ctl http://localhost/metrics

Exit codes: 0 done; 1 failed.

Examples:
  sluice serve -t --control disk.ctl -k disk.sock disk.img &
  sluice stats disk.ctl
  sluice stats --watch 1 disk.ctl`;

/** A server that hangs is told from one that is slow. */
const TIMEOUT_MS = 5000;
/** For a whole answer. */
const ANSWER_MS = 30_000;
/** Far more than 10,000 clients make. */
const MAX_ANSWER_BYTES = 64 * 2 ** 20;
const CLEAR_SCREEN = '\x1b[H\x1b[2J';

interface StatsOptions {
  readonly output: 'human' | 'json';
  readonly watch?: number;
}

/** Adds the command to the program. */
export function addStats(program: Command): void {
  program
    .command('stats')
    .summary('say what a running server is doing')
    .description('Says what a server that was started with --control is doing.')
    .usage('[OPTIONS] SOCKET')
    .helpOption('-h, --help', 'print this help')
    .allowExcessArguments(false)
    .showHelpAfterError("Try 'sluice stats --help'.")
    .addHelpText('after', NOTES)
    .addOption(outputOption())
    .option(
      '--watch <seconds>',
      'again and again until Ctrl-C, or until the reader goes away',
      (text) => wholeNumber(text, 86_400, 1),
    )
    .argument('<socket>', 'what --control of sluice serve says')
    .action((socket: string, options: StatsOptions) => stats(socket, options));
}

async function stats(socket: string, { output, watch }: StatsOptions): Promise<void> {
  for (;;) {
    const body = await fetchStats(socket);
    const text = output === 'json' ? body : textOf(socket, body);
    const clear = watch !== undefined && output === 'human' && process.stdout.isTTY;
    const wanted = await writePart(clear ? CLEAR_SCREEN + text : text);
    if (watch === undefined || !wanted) return;
    await new Promise((resolve) => setTimeout(resolve, watch * 1000));
  }
}

/** The answer to `GET /stats`, in time and in bounds. */
function fetchStats(socket: string): Promise<string> {
  const what = `ask the server at ${JSON.stringify(socket)}`;
  return new Promise((resolve, reject) => {
    const fail = (reason: string, code: string): void =>
      reject(new Refusal(what, Object.assign(new Error(reason), { code })));
    const asked = request({ socketPath: socket, path: '/stats', agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (text: string) => {
        body += text;
        if (body.length > MAX_ANSWER_BYTES) asked.destroy(new Error('it answers without end'));
      });
      response.on('close', () => {
        if (!response.complete) fail('it closed before the end of its answer', 'ECONNRESET');
        else if (response.statusCode === 200) resolve(body);
        else fail(`it answers ${response.statusCode}, so it is no control socket`, 'EPROTO');
      });
    });
    const deadline = setTimeout(() => asked.destroy(late(ANSWER_MS)), ANSWER_MS);
    asked.on('close', () => clearTimeout(deadline));
    asked.setTimeout(TIMEOUT_MS, () => asked.destroy(late(TIMEOUT_MS)));
    asked.on('error', (cause: NodeJS.ErrnoException) => {
      const strange = cause.code?.startsWith('HPE_') === true;
      if (strange) fail('it does not speak HTTP, so it is no control socket', 'EPROTO');
      else reject(new Refusal(what, cause));
    });
    asked.end();
  });
}

function late(ms: number): Error {
  return Object.assign(new Error(`no answer for ${ms / 1000} s`), { code: 'ETIMEDOUT' });
}

/** What is not as it must be comes from somebody else; it may have control characters, too. */
function textOf(socket: string, body: string): string {
  try {
    const text = statsText(JSON.parse(body) as ControlStats);
    return text.replaceAll(/[^\n\x20-\x7e\xa0-\uffff]/g, '?');
  } catch (cause) {
    const isJson = !(cause instanceof SyntaxError);
    const found = isJson ? 'the answer is not that of a control socket' : 'the answer is no JSON';
    const reason = Object.assign(new Error(found, { cause }), { code: 'EPROTO' });
    throw new Refusal(`ask the server at ${JSON.stringify(socket)}`, reason);
  }
}
