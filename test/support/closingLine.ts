import type { AggregatedResult, Reporter } from "@jest/reporters";

/** Ends the run with one plain line that every CI understands. */
export default class ClosingLine implements Pick<Reporter, "onRunComplete"> {
  onRunComplete(_contexts: unknown, results: AggregatedResult) {
    const skipped = results.numPendingTests > 0 ? `, ${results.numPendingTests} skipped` : "";
    process.on("exit", () => {
      // The search for secrets comes after all tests, and counts as one.
      const leaks = globalThis.erpTestsLeak ? 1 : 0;
      const failed = results.numFailedTests + results.numRuntimeErrorTestSuites + leaks;
      process.stdout.write(`Tests: ${results.numPassedTests} passed, ${failed} failed${skipped}\n`);
    });
  }
}
