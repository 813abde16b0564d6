import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { brokenPromises } from '../scripts/wasm-promises.mjs';

const MEMORY_IMPORT = section(2, 1, 3, ...ascii('env'), 6, ...ascii('memory'), 2, 0, 0);
const I32_CONST_7 = [0x41, 7, 0x0b];

/** A module of these sections. */
function module(...sections: number[][]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from([0, ...ascii('asm'), 1, 0, 0, 0, ...sections.flat()]);
}

/** The body of a section starts with the number of its entries. */
function section(id: number, ...body: number[]): number[] {
  return [id, body.length, ...body];
}

function ascii(text: string): number[] {
  return Array.from(text, (letter) => letter.charCodeAt(0));
}

function built(name: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(readFileSync(new URL(`../build/${name}`, import.meta.url)));
}

describe('the promises of the engine', () => {
  it.each(['engine.wasm', 'engine.shared.wasm'])('are kept by %s', (name) => {
    expect(brokenPromises(built(name))).toEqual([]);
  });

  it('are kept by a module with its memory and constants', () => {
    const v128 = [0x7b, 0, 0xfd, 12, ...Array.from({ length: 16 }, () => 0x80), 0x0b];
    const globals = section(6, 2, 0x7f, 0, ...I32_CONST_7, ...v128);
    expect(brokenPromises(module(MEMORY_IMPORT, globals))).toEqual([]);
  });

  it('are broken by a module without the memory', () => {
    expect(brokenPromises(module())).toEqual(['imports nothing where only env.memory is allowed']);
  });

  it('are broken by a data segment', () => {
    const data = section(11, 1, 0, ...I32_CONST_7, 2, ...ascii('hi'));
    expect(brokenPromises(module(MEMORY_IMPORT, data))).toEqual(['has 1 data segments']);
  });

  it('are broken by a mutable global', () => {
    const globals = section(6, 1, 0x7f, 1, ...I32_CONST_7);
    expect(brokenPromises(module(MEMORY_IMPORT, globals))).toEqual(['has 1 mutable globals']);
  });
});
