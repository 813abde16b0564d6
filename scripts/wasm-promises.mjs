// What the release builds of the engine promise: no import but the memory, no data segments, no
// mutable globals. That is what lets one module run over anybody's memory, many times, and makes
// a copy of its region a copy of its whole state. (WebAssembly core specification, section 5.5.)

const GLOBAL_SECTION = 6;
const DATA_SECTION = 11;
const MODULE_HEADER_BYTES = 8;
const OP_END = 0x0b;

/** Reads the binary format: single bytes and LEB128 numbers. */
class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  byte() {
    const value = this.bytes[this.at++];
    if (value === undefined) throw new RangeError('a wasm section ends early');
    return value;
  }

  /** An unsigned LEB128 number; signed ones are skipped with it too, their length is the same. */
  number() {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = this.byte();
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
  }
}

/**
 * The body of the first section with this id, or an empty one.
 * @param {Uint8Array} wasm
 * @param {number} wanted
 */
function section(wasm, wanted) {
  const reader = new Reader(wasm);
  reader.at = MODULE_HEADER_BYTES;
  while (reader.at < wasm.length) {
    const id = reader.byte();
    const lengthBytes = reader.number();
    if (id === wanted) return wasm.subarray(reader.at, reader.at + lengthBytes);
    reader.at += lengthBytes;
  }
  return new Uint8Array([0]);
}

/**
 * How many globals are mutable. Their initial values are skipped by type: `const` with an operand
 * of the type's size, then `end`.
 * @param {Uint8Array} wasm
 */
function mutableGlobals(wasm) {
  const reader = new Reader(section(wasm, GLOBAL_SECTION));
  let mutable = 0;
  for (let left = reader.number(); left > 0; left--) {
    const type = reader.byte();
    mutable += reader.byte();
    skipInitializer(reader, type);
  }
  return mutable;
}

/**
 * @param {Reader} reader
 * @param {number} type
 */
function skipInitializer(reader, type) {
  const fixedBytes = { 0x7d: 4, 0x7c: 8, 0x7b: 16 }[type]; // f32, f64, v128
  reader.byte();
  if (type === 0x7b) reader.number(); // v128.const has a prefix byte
  if (fixedBytes === undefined) reader.number();
  else reader.at += fixedBytes;
  if (reader.byte() !== OP_END) throw new RangeError('a global is not initialized by a constant');
}

/**
 * The promises that a module breaks, as sentences; none when it keeps them all.
 * @param {Uint8Array<ArrayBuffer>} wasm
 * @returns {string[]}
 */
export function brokenPromises(wasm) {
  const broken = [];
  const imports = WebAssembly.Module.imports(new WebAssembly.Module(wasm));
  const names = imports.map(({ module, name }) => `${module}.${name}`);
  if (names.join() !== 'env.memory') {
    broken.push(`imports ${names.join(', ') || 'nothing'} where only env.memory is allowed`);
  }
  const segments = new Reader(section(wasm, DATA_SECTION)).number();
  if (segments > 0) broken.push(`has ${segments} data segments`);
  const globals = mutableGlobals(wasm);
  if (globals > 0) broken.push(`has ${globals} mutable globals`);
  return broken;
}
