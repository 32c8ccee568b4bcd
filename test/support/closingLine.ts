import type { AggregatedResult, Reporter } from "@jest/reporters";

/** Ends the run with one plain line that every CI understands. */
export default class ClosingLine implements Pick<Reporter, "onRunComplete"> {
  onRunComplete(_contexts: unknown, results: AggregatedResult) {
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = results.numPendingTests > 0 ? `, ${results.numPendingTests} skipped` : "";
    process.on("exit", () =>
      process.stdout.write(`Tests: ${results.numPassedTests} passed, ${failed} failed${skipped}\n`),
    );
  }
}
