import type { Reporter, TestModule } from 'vitest/node'

/**
 * Ends a run with one plain line, `123 passed, 0 failed, 2 skipped`, for scripts and for people who scroll to the end. A file that
 * could not be loaded, a hook that failed and an error outside of every test count as failed: no broken run prints `0 failed`.
 */
export class CountReporter implements Reporter {
  onTestRunEnd(
    testModules: readonly TestModule[],
    unhandledErrors: readonly unknown[],
    reason: 'passed' | 'interrupted' | 'failed',
  ): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0, pending: 0 }
    for (const testModule of testModules) {
      counts.failed += testModule.errors().length
      for (const suite of testModule.children.allSuites()) counts.failed += suite.errors().length
      for (const test of testModule.children.allTests()) counts[test.result().state]++
    }
    // Servers that cannot be started, a filter that fits no file: nothing ran, and that is no success.
    if (reason !== 'passed' && counts.failed === 0) counts.failed = 1
    const { passed, failed, skipped, pending } = counts
    const unfinished = pending > 0 || reason === 'interrupted' ? `, ${pending} not finished` : ''
    process.stdout.write(`\n${passed} passed, ${failed} failed, ${skipped} skipped${unfinished}\n`)
  }
}
