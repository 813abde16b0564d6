/** `sluice vhost-user`, as users run it. */
import { type Folder, Running, SLUICE } from '../cli/sluice.ts';

/** What it says, apart from complaints, on stderr. */
const GREETING = /^vhost-user-blk at .*\n/;

/** Serves an image at a socket of the folder, once a front-end can connect. */
export class BackEnd extends Running {
  readonly socket: string;

  private constructor(socket: string, options: readonly string[]) {
    super(process.execPath, [SLUICE, 'vhost-user', '-k', socket, ...options]);
    this.socket = socket;
  }

  static async serve(folder: Folder, options: readonly string[]): Promise<BackEnd> {
    const backEnd = new BackEnd(folder.file('disk.sock'), options);
    if (GREETING.test(`${await backEnd.firstLine()}\n`)) return backEnd;
    await backEnd.stop('SIGKILL');
    throw new Error(`it does not serve: ${backEnd.stderr}`);
  }

  /** What it has complained of. */
  get complaints(): string {
    return this.stderr.replace(GREETING, '');
  }
}
