import { defineConfig } from 'vitest/config';

import SlowestFirst from './test/support/sequencer.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Processes: tests open devices, change directories and start workers of their own.
    pool: 'forks',
    maxWorkers: 3,
    // Long enough for a fuzz run or a guest on a busy machine; a hang still ends.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    allowOnly: false,
    sequence: { sequencer: SlowestFirst },
    reporters: ['default', './test/support/reporter.ts'],
  },
});
