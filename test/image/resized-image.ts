/** An image whose disk is resized while it is open, and a sparse file that is what it is to be. */
import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect } from 'vitest';

import type { Disk } from '../../src/disk.ts';
import { openDisk, type OpenOptions } from '../../src/node.ts';
import { expectSame, pattern } from '../backend/driver.ts';

const KEY = 'open sesame';
/** Bytes that are looked at around each place where something happened. */
const WINDOW_BYTES = 12_288;

/** What an image is made of. */
export interface Recipe {
  /** Of `qemu-img create -o`. */
  readonly options: string;
  readonly sizeBytes: number;
  readonly encrypted?: boolean;
  readonly backing?: readonly [name: string, format: 'raw' | 'qcow2'];
}

/** Runs qemu-img in a folder; answers what it prints. */
export function img(folder: string, ...args: readonly string[]): string {
  return execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
}

/** An image, and its shadow. */
export class ResizedImage {
  readonly path: string;
  readonly #folder: string;
  readonly #shadow: string;
  readonly #fd: number;
  readonly #encrypted: boolean;
  /** Where something happened. */
  readonly #places = new Set<number>();
  #sizeBytes: number;
  #stamp = 0;

  private constructor(path: string, sizeBytes: number, encrypted: boolean) {
    this.path = path;
    this.#folder = dirname(path);
    this.#shadow = `${basename(path)}.shadow`;
    this.#fd = openSync(join(this.#folder, this.#shadow), 'w+');
    this.#encrypted = encrypted;
    this.#sizeBytes = sizeBytes;
    ftruncateSync(this.#fd, sizeBytes);
  }

  /** Lets qemu-img make it. */
  static create(folder: string, name: string, recipe: Recipe): ResizedImage {
    const { options, sizeBytes, encrypted = false, backing } = recipe;
    const key = encrypted ? ['--object', `secret,id=s,data=${KEY}`] : [];
    const base = backing === undefined ? [] : ['-b', backing[0], '-F', backing[1]];
    const about = [...key, '-f', 'qcow2', '-o', options, ...base];
    img(folder, 'create', '-q', ...about, name, String(sizeBytes));
    return new ResizedImage(join(folder, name), sizeBytes, encrypted);
  }

  /** An image that is there, which reads as zeroes. */
  static over(path: string, sizeBytes: number): ResizedImage {
    return new ResizedImage(path, sizeBytes, true);
  }

  open(options: OpenOptions = {}): Promise<Disk> {
    return openDisk(this.path, {
      format: 'qcow2',
      writable: true,
      backing: { folders: [this.#folder] },
      ...(this.#encrypted ? { encryption: { key: KEY } } : {}),
      ...options,
    });
  }

  /** The disk begins with these bytes. */
  begins(bytes: Uint8Array): void {
    writeSync(this.#fd, bytes, 0, Math.min(bytes.length, this.#sizeBytes), 0);
    this.#places.add(0);
  }

  /** Writes new bytes, as far as the disk reaches. */
  async write(disk: Disk, offset: number, length: number): Promise<void> {
    const from = Math.max(0, Math.floor(offset));
    const bytes = pattern(Math.min(length, this.#sizeBytes - from), ++this.#stamp);
    writeSync(this.#fd, bytes, 0, bytes.length, from);
    this.#places.add(from).add(from + bytes.length);
    await disk.write(from, bytes);
  }

  async resize(disk: Disk, sizeBytes: number): Promise<void> {
    this.#places.add(this.#sizeBytes).add(sizeBytes);
    await disk.resize(sizeBytes, { shrink: sizeBytes < this.#sizeBytes });
    ftruncateSync(this.#fd, sizeBytes);
    this.#sizeBytes = sizeBytes;
    expect(disk.size).toBe(sizeBytes);
  }

  /** The disk reads as its shadow around every place where something happened. */
  async expectRead(disk: Disk): Promise<void> {
    for (const place of this.#places) {
      const from = Math.max(0, place - WINDOW_BYTES);
      const length = Math.min(2 * WINDOW_BYTES, this.#sizeBytes - from);
      if (length <= 0) continue;
      const expected = new Uint8Array(length);
      readSync(this.#fd, expected, 0, length, from);
      expectSame(await disk.read(from, length), expected);
    }
  }

  /** QEMU finds no errors and no leaks, the size, and the contents. The disk is closed. */
  expectByQemu(path = this.path): void {
    const options = (name: string): string =>
      `driver=qcow2,file.filename=${name}${this.#encrypted ? ',encrypt.key-secret=s' : ''}`;
    const key = ['--object', `secret,id=s,data=${KEY}`];
    const image = options(basename(path));
    const run = (command: string, ...args: string[]): string =>
      img(this.#folder, command, ...key, ...args);
    expect(run('check', '--image-opts', image)).toContain('No errors were found');
    const info = JSON.parse(run('info', '--output=json', '--image-opts', image)) as object;
    expect(info).toMatchObject({ 'virtual-size': this.#sizeBytes });
    const shadow = `driver=raw,file.filename=${this.#shadow}`;
    expect(run('compare', '--image-opts', image, shadow)).toBe('Images are identical.\n');
  }

  /** Ends its use. */
  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}
