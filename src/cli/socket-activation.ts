/**
 * Socket activation: the process is started with a socket that listens already, as systemd,
 * libnbd and systemd-socket-activate do. sd_listen_fds(3).
 */

/** Of systemd: the first descriptor that is passed. */
const FIRST_FD = 3;
const VARIABLES = ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID'];

/**
 * The descriptor that was passed to this process, or undefined; or why it cannot be had. The
 * variables are for us alone, and are gone afterwards.
 */
export function takePassedSocket(
  environment: NodeJS.ProcessEnv,
  pid: number,
): { readonly fd: number } | { readonly refusal: string } | undefined {
  const { LISTEN_PID: whose, LISTEN_FDS: count } = environment;
  // Of a parent: what it was given was not passed on.
  if (whose !== String(pid)) return undefined;
  for (const name of VARIABLES) delete environment[name];
  if (count === undefined || count === '0') return undefined;
  if (count === '1') return { fd: FIRST_FD };
  if (!/^\d+$/.test(count)) return { refusal: `LISTEN_FDS is no number: '${count}'` };
  return { refusal: `${count} sockets were passed; name one in the .socket unit` };
}
