/** What `sluice --version` says. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ENGINE_WASM_BASE64 } from '../engine-wasm.ts';

/** The version of the package. */
export function packageVersion(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

/** The version of the package, the SHA-256 of the engine that is in use, and Node's version. */
export function versionText(json: boolean): string {
  const version = packageVersion();
  const engine = createHash('sha256').update(ENGINE_WASM_BASE64, 'base64').digest('hex');
  const { node } = process.versions;
  if (!json) return `sluice ${version} (engine ${engine.slice(0, 12)}, Node ${node})\n`;
  const keys = { name: 'sluice', version, 'wasm-sha256': engine, node };
  return `${JSON.stringify(keys, null, 2)}\n`;
}
