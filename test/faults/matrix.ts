import { startApi } from "../support/api.ts";
import { createTestDatabase } from "../support/database.ts";
import { startTestWorker } from "../support/worker.ts";
import { type Outcome, type Stage, tryCell } from "./cell.ts";
import type { FaultyProvider, Simulated } from "./fault.ts";
import { metaFaults } from "./meta.ts";
import { squareFaults } from "./square.ts";
import { startWatch } from "./watch.ts";

/** Erases the type of the account: a provider starts it, and its faults get it back. */
const anyProvider = <Account extends Simulated>(provider: FaultyProvider<Account>) => ({
  provider: provider.provider,
  name: provider.name,
  cells: provider.faults.map((fault) => ({
    name: fault.name,
    async start(number: number) {
      const account = await provider.start(number, fault);
      return {
        account: account as Simulated,
        run: (stage: Stage) => tryCell(stage, provider, fault, account),
      };
    },
  })),
});

export const providers = [anyProvider(squareFaults), anyProvider(metaFaults)];

const PUBLIC_URL = "https://analytics.test";
const SIMULATORS = "http://simulators.invalid";

export type Failure = { provider: string; fault: string; error: unknown };
export type Matrix = { outcomes: Outcome[]; failures: Failure[] };

/** Every fault of every provider, all at once, through one worker. */
export async function tryMatrix(only: (cell: { provider: string; name: string }) => boolean = () => true) {
  const database = await createTestDatabase();
  const accounts: Simulated[] = [];
  const worker = await startTestWorker(database, {
    concurrency: 12,
    simulatorUrl: SIMULATORS,
    fetch: (input, init) => fetch(addressOf(accounts, input, init), init),
  });
  const api = await startApi(database, { publicUrl: PUBLIC_URL, simulatorUrl: SIMULATORS });
  const webhooks = (integrationId: string) => {
    const path = `/v1/webhooks/${integrationId}`;
    return { url: `${PUBLIC_URL}${path}`, to: `${api.url}${path}` };
  };
  const watch = startWatch(database);
  const matrix: Matrix = { outcomes: [], failures: [] };
  try {
    const cells = providers.flatMap(({ provider, cells }) => cells.map((cell) => ({ provider, ...cell })));
    await Promise.all(
      cells.filter(only).map(async ({ provider, name, start }, number) => {
        const { account, run } = await start(number);
        accounts.push(account);
        try {
          matrix.outcomes.push(await run({ database, watch, webhooks }));
        } catch (error) {
          matrix.failures.push({ provider, fault: name, error });
        }
      }),
    );
  } finally {
    await watch.stop();
    await worker.stop();
    await api.close();
    for (const account of accounts) await account.close();
    await database.drop();
  }
  return matrix;
}

/** One worker knows one address of simulators: which of them is meant is in the request. */
function addressOf(accounts: Simulated[], input: Parameters<typeof fetch>[0], init?: RequestInit): URL {
  const url = new URL(input instanceof Request ? input.url : input);
  const headers = [...new Headers(init?.headers)].flat();
  const request = [url.href, ...headers, typeof init?.body === "string" ? init.body : ""].join("\n");
  const account = accounts.find(({ marks }) => marks.some((mark) => request.includes(mark)));
  if (!account) throw new Error(`Nobody's request: ${request}`);
  return new URL(url.pathname + url.search, account.url);
}
