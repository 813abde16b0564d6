/** Statistics as Prometheus reads them, and as docs/metrics.md tells them. */

import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { STATUS_IO_ERROR } from '../../src/abi/request.ts';
import { image, openDisk, serveNbd, toPrometheus } from '../../src/node.ts';

import { Folder } from '../cli/sluice.ts';
import { parsePrometheus, type Sample } from '../support/prometheus.ts';
import { request, TestClient } from './client.ts';
import { serveFake, until } from './serving.ts';
import { FLUSH, pattern, READ, WRITE } from './wire.ts';

/** The value of the sample with these labels. */
function valueOf(text: string, name: string, labels: Sample['labels'] = {}): number | undefined {
  const samples = parsePrometheus(text).flatMap(({ samples }) => samples);
  const wanted = JSON.stringify(labels);
  return samples.find((sample) => sample.name === name && JSON.stringify(sample.labels) === wanted)
    ?.value;
}

describe('metrics', () => {
  it('have the numbers of the statistics, in seconds and bytes', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    await client.ask({ type: READ, length: 4096 });
    await client.ask({ type: READ, length: 4096 });
    serving.device.statusOf = () => STATUS_IO_ERROR;
    await client.ask({ type: WRITE, data: pattern(10) });
    const stats = serving.server.stats();
    const text = toPrometheus(stats);
    const command = { export: '', command: 'read' };
    expect(valueOf(text, 'sluice_nbd_requests_total', command)).toBe(2);
    expect(valueOf(text, 'sluice_nbd_request_bytes_total', command)).toBe(8192);
    expect(valueOf(text, 'sluice_nbd_request_duration_seconds_count', command)).toBe(2);
    const { sumSeconds } = stats.exports[0]!.latencies.read;
    expect(valueOf(text, 'sluice_nbd_request_duration_seconds_sum', command)).toBe(sumSeconds);
    const last = { ...command, le: '16.777216' };
    expect(valueOf(text, 'sluice_nbd_request_duration_seconds_bucket', last)).toBe(2);
    const failed = { export: '', command: 'write', error: 'EIO' };
    expect(valueOf(text, 'sluice_nbd_errors_total', failed)).toBe(1);
    expect(valueOf(text, 'sluice_nbd_connections', { state: 'serving' })).toBe(1);
    expect(valueOf(text, 'sluice_nbd_connections_ended_total', { reason: 'gone' })).toBe(0);
    expect(valueOf(text, 'sluice_nbd_clients_limit')).toBe(Infinity);
    expect(valueOf(text, 'sluice_nbd_received_bytes_total', { export: '' })).toBe(3 * 28 + 10);
  });

  it('escape the name of an export', async () => {
    const name = 'a\\b"c\nd{}=,ä #';
    await using serving = await serveFake({}, { name });
    const text = toPrometheus(serving.server.stats());
    expect(valueOf(text, 'sluice_nbd_clients', { export: name })).toBe(0);
    expect(text).toContain(String.raw`sluice_nbd_clients{export="a\\b\"c\nd{}=,ä #"} 0`);
  });

  it('are those of docs/metrics.md, with their types', async () => {
    await using folder = await Folder.make();
    const path = folder.file('disk.qcow2');
    await image.create(path, { format: 'qcow2', sizeBytes: 2 ** 20 });
    await using disk = await openDisk(path, { format: 'qcow2', writable: true });
    await using server = await serveNbd(disk, { socket: folder.file('s') });
    await using client = await TestClient.go(folder.file('s'));
    client.send(request({ type: WRITE, data: pattern(512) }), request({ type: FLUSH }));
    await until(() => server.stats().exports[0]!.disk!.syncs > 0);
    const families = parsePrometheus(toPrometheus(server.stats()));
    const document = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
    const told = [...document.matchAll(/^\| `(sluice_(?!build)\w+)` \| (\w+) \|/gm)];
    expect(families.map(({ name, type }) => [name, type])).toEqual(
      told.map(([, name, type]) => [name, type]),
    );
    expect(families.length).toBeGreaterThan(40);
  });
});

describe('the reader of these tests', () => {
  const head = '# HELP a_total x\n# TYPE a_total counter\n';
  const histogram = '# HELP h x\n# TYPE h histogram\n';
  it.each([
    [`${head}a_total 1`, 'line feed'],
    ['a_total 1\n', 'no TYPE'],
    ['# TYPE a_total counter\na_total 1\n', 'no HELP'],
    [`${head}a_total 1\na_total 1\n`, 'twice'],
    [`${head}a_total{x="1",x="2"} 1\n`, 'label'],
    [`${head}a_total{x="a"b"} 1\n`, 'no label'],
    [`${head}a_total{x="a\\b"} 1\n`, 'no label'],
    [`${head}a_total undefined\n`, 'no value'],
    [`${head}a_total -1\n`, 'below 0'],
    [`${head}b_total 1\n`, 'not of a_total'],
    ['# HELP a x\n# TYPE a counter\na 1\n', '_total'],
    ['# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n', 'unit'],
    [`${histogram}h_bucket{le="1"} 1\nh_sum 1\nh_count 1\n`, 'not a histogram'],
    [`${histogram}h_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n`, 'not a hist'],
    [`${histogram}h_bucket{le="+Inf"} 1\nh_count 1\n`, 'no sum'],
  ])('refuses %j', (text, message) => {
    expect(() => parsePrometheus(text)).toThrow(message);
  });
});
