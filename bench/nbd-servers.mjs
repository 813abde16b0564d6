// How the NBD servers that are compared are started: on an image, at a unix socket.

import { fileURLToPath } from 'node:url';

const SLUICE = fileURLToPath(new URL('../dist/bin.cjs', import.meta.url));

/** @typedef {{ format: string, cache: string }} Served */

/** @typedef {(image: string, socket: string) => string[]} Command */

/** @type {(served: Served, more?: string[]) => Command} */
export const sluice =
  ({ format, cache }, more = []) =>
  (image, socket) =>
    [process.execPath, SLUICE].concat(
      `serve -f ${format} -t -e 0 --cache ${cache}`.split(' '),
      more,
      ['-k', socket, image],
    );

/** @type {(served: Served, aio: string) => Command} */
export const qemuNbd =
  ({ format, cache }, aio) =>
  (image, socket) =>
    `qemu-nbd -t -e 0 -f ${format} --aio=${aio} --cache=${cache} -k`
      .split(' ')
      .concat(socket, image);

/**
 * bench/c/nbd-floor.c, nbd-floor-loop.c or nbd-floor-direct.c, compiled: raw images.
 * @type {(program: string) => Command}
 */
export const nbdFloor = (program) => (image, socket) => [program, image, socket];

/** Raw images, in the page cache. @type {Command} */
export const nbdkit = (image, socket) => ['nbdkit', '-f', '-U', socket, 'file', image];
