/** Runs the built executable, as users do. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The `sluice` executable. */
export const SLUICE = fileURLToPath(new URL('../../dist/bin.cjs', import.meta.url));

/** Nothing outlives a test that has been given up. */
const LONGEST_RUN_MS = 110_000;

/** How a program ended and what it said. */
export interface Outcome {
  /** The exit code, or null when a signal ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** What the program reads; null: what is typed later. */
  readonly input?: string | Uint8Array | null;
  /** Signals go to all that it starts, too, and nothing of it is left when it ends. */
  readonly group?: boolean;
}

/** A program that runs, and what it has said so far. */
export class Running implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly outcome: Promise<Outcome>;
  stdout = '';
  stderr = '';
  readonly #group: boolean;
  #heard: () => void = () => undefined;

  constructor(program: string, args: readonly string[], options: RunOptions = {}) {
    this.#group = options.group === true;
    this.child = spawn(program, args, {
      cwd: options.cwd,
      detached: this.#group,
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: LONGEST_RUN_MS,
      killSignal: 'SIGKILL',
    });
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#heard();
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#heard();
    });
    // A program that ends without reading its input has said all it has to say by its exit code.
    this.child.stdin?.on('error', () => undefined);
    if (options.input !== null) this.child.stdin?.end(options.input);
    if (this.#group) this.child.on('exit', () => this.#signal('SIGKILL'));
    this.outcome = this.#end();
  }

  /** Resolves when stderr has a whole first line; rejects when the program ends before. */
  async firstLine(): Promise<string> {
    const [line] = await this.#said(() => /^.*(?=\n)/.exec(this.stderr));
    return line;
  }

  /** Resolves when stdout has what fits `pattern`; rejects when the program ends before. */
  shows(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#said(() => pattern.exec(this.stdout));
  }

  async #said(find: () => RegExpExecArray | null): Promise<RegExpExecArray> {
    for (;;) {
      const found = find();
      if (found !== null) return found;
      const ended = await Promise.race([
        new Promise<undefined>((resolve) => (this.#heard = () => resolve(undefined))),
        this.outcome,
      ]);
      if (ended !== undefined) throw new Error(`it ended: ${JSON.stringify(ended)}`);
    }
  }

  /** Sends a signal and waits for the end. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Outcome> {
    this.#signal(signal);
    return this.outcome;
  }

  /** What still runs at the end of a test is killed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
  }

  #signal(signal: NodeJS.Signals): void {
    const { pid } = this.child;
    if (!this.#group || pid === undefined) this.child.kill(signal);
    else if (isRunning(-pid)) process.kill(-pid, signal);
  }

  async #end(): Promise<Outcome> {
    const [code, signal] = (await once(this.child, 'close')) as [
      number | null,
      NodeJS.Signals | null,
    ];
    return { code, signal, stdout: this.stdout, stderr: this.stderr };
  }
}

function isRunning(id: number): boolean {
  try {
    return process.kill(id, 0);
  } catch {
    return false;
  }
}

/** Runs a program to its end. */
export function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Outcome> {
  return new Running(program, args, options).outcome;
}

/** Runs a program that must succeed; answers what it wrote to stdout. */
export async function succeed(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const { code, signal, stdout, stderr } = await run(program, args, options);
  if (code === 0) return stdout;
  throw new Error(`${program} ${args.join(' ')}: ${code ?? signal}\n${stdout}${stderr}`);
}

/** `sluice ARGS` to its end. */
export function sluice(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return run(process.execPath, [SLUICE, ...args], options);
}

/** A server that greets clients. */
export class Serving extends Running {
  uri = '';
}

/** `sluice serve ARGS`, once it is ready. */
export async function serve(
  args: readonly string[],
  options: RunOptions & { readonly under?: readonly string[] } = {},
): Promise<Serving> {
  const command = [...(options.under ?? []), process.execPath, SLUICE, 'serve', ...args];
  const server = new Serving(command[0]!, command.slice(1), options);
  server.uri = await server.firstLine();
  if (!server.uri.startsWith('nbd')) {
    await server.stop('SIGKILL');
    throw new Error(`no URI but ${server.uri}`);
  }
  return server;
}

/** A folder that goes away with all that is in it. */
export class Folder implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async make(parent = tmpdir()): Promise<Folder> {
    return new Folder(await mkdtemp(join(parent, 'sluice-test-')));
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** A sparse file of zeroes. */
  async image(name: string, sizeBytes: number): Promise<string> {
    const path = this.file(name);
    await using file = await open(path, 'wx');
    await file.truncate(sizeBytes);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

/** Whether programs can be run on a pseudo terminal. */
export function hasScript(): boolean {
  try {
    execFileSync('script', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

/** There is something at this path. */
export function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Waits until something is true. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}
