import { isDeepStrictEqual } from "node:util";
import { type SquareFault, type SquareSimulator, startSquareSimulator } from "../simulators/square.ts";
import { type TableName, tableNames } from "../simulators/squareStore.ts";
import { truthOf } from "../simulators/squareTruth.ts";
import { secret } from "../support/secrets.ts";
import { defineFaults, type Fault, type Simulated, type WebhookAddress } from "./fault.ts";

type Account = Simulated & { simulator: SquareSimulator; signatureKey: string };
type SquareRow = Fault<Account>;

async function start(number: number): Promise<Account> {
  // None begins as another does: it is a mark.
  const location = `LFAULT${number}END`;
  const oauth = {
    clientId: `sq0idp-fault${number}end`,
    clientSecret: secret("a client secret"),
    refreshToken: secret("a refresh token"),
  };
  const accessToken = secret("an access token");
  const signatureKey = secret("a webhook key");
  const simulator = await startSquareSimulator({
    port: 0,
    accessToken,
    oauth,
    locations: [location],
    orders: 60,
    days: 3,
    latencyMs: 0,
    seed: 7,
  });
  const expiresAt = new Date(Date.now() + 30 * 86_400_000).toISOString();
  return {
    url: simulator.url,
    marks: [location, oauth.clientId],
    config: { environment: "simulator", locationIds: [location], pageSize: 25 },
    credentials: { ...oauth, accessToken, expiresAt, webhookSignatureKey: signatureKey },
    limits: [`account:${location}`],
    truth: () =>
      tableNames.flatMap((table) => simulator.records(table).map((record) => truthOf(table, record))),
    close: simulator.close,
    simulator,
    signatureKey,
  };
}

/** One that befalls some requests of a first sync. */
const during = (name: string, fault: SquareFault): SquareRow => ({
  name,
  during: ({ simulator }) => simulator.setFault({ after: 2, ...fault }),
  happened: ({ simulator }) => simulator.struck() === (fault.times ?? 1),
});

const ids = ({ simulator }: Account, table: TableName, count: number) =>
  simulator
    .records(table)
    .slice(0, count)
    .map(({ id }) => id);
const restate = (account: Account, table: TableName, count: number, patch: object) => {
  for (const id of ids(account, table, count)) account.simulator.restate(table, id, { ...patch });
};
const isStated = ({ simulator }: Account, table: TableName, patch: object) =>
  simulator.records(table).some((record) => isDeepStrictEqual(record, { ...record, ...patch }));
/** Of the first record of a table. */
async function notify(
  account: Account,
  { url, to }: WebhookAddress,
  table: TableName,
  how: Parameters<SquareSimulator["notify"]>[3],
  wanted: number,
) {
  const [id = ""] = ids(account, table, 1);
  const { signatureKey, simulator } = account;
  const status = await simulator.notify({ url, signatureKey }, table, id, { ...how, to });
  if (status !== wanted) throw new Error(`The webhook was answered with ${status}.`);
}
const [canceled, failed] = [{ state: "CANCELED" }, { status: "FAILED" }];

const rows: SquareRow[] = [
  during("429 with Retry-After", { kind: "rateLimited", retryAfter: 20, times: 2 }),
  during("429 without Retry-After", { kind: "rateLimited" }),
  during("500", { kind: "serverError", times: 2 }),
  during("502", { kind: "badGateway" }),
  during("503", { kind: "unavailable", times: 2 }),
  during("504", { kind: "gatewayTimeout" }),
  during("408", { kind: "requestTimeout" }),
  during("no answer", { kind: "hang" }),
  during("a body that stalls", { kind: "stall" }),
  during("a body that breaks off", { kind: "truncated" }),
  during("half of the JSON", { kind: "badJson" }),
  during("a page of HTML", { kind: "html" }),
  during("400", { kind: "badRequest" }),
  during("400, a value that it does not take", { kind: "invalidValue" }),
  during("400, a version that it does not have", { kind: "invalidVersion" }),
  during("400, an old cursor", { kind: "invalidCursor", times: 2 }),
  during("404", { kind: "notFound" }),
  during("401", { kind: "unauthorized" }),
  during("401, a token taken back", { kind: "tokenRevoked" }),
  during("401, a token that ends in the middle", { kind: "tokenExpired" }),
  during("403", { kind: "forbidden" }),
  during("403, a permission that is missing", { kind: "insufficientScopes" }),
  during("a page twice", { kind: "repeatedPage", times: 2 }),
  during("pages in the wrong order", { kind: "reorderedPages", times: 2 }),
  {
    name: "records restated while they are read",
    during: (account) =>
      account.simulator.setFault({
        kind: "meanwhile",
        after: 2,
        happens: () => {
          restate(account, "orders", 40, canceled);
          restate(account, "payments", 20, failed);
          account.simulator.addOrders(2);
        },
      }),
    // What was read before it changed is in the next sync.
    after: () => {},
    happened: ({ simulator }) => simulator.struck() === 1,
  },
  {
    name: "records restated later",
    after: (account) => {
      restate(account, "orders", 4, canceled);
      restate(account, "payments", 4, failed);
    },
    happened: (account) => isStated(account, "payments", failed),
  },
  {
    name: "records deleted",
    after: (account) => {
      for (const table of ["orders", "payments"] as const)
        for (const id of ids(account, table, 3)) account.simulator.delete(table, id);
    },
    trigger: "full_refresh",
    happened: ({ simulator }) => simulator.records("orders").length === 57,
  },
  {
    name: "records that cannot be read, mended later",
    during: (account) => restate(account, "orders", 3, { total_money: { amount: 12.5, currency: "USD" } }),
    after: (account) => restate(account, "orders", 3, { total_money: { amount: 1250, currency: "USD" } }),
    happened: (account) => isStated(account, "orders", { total_money: { amount: 1250, currency: "USD" } }),
  },
  {
    name: "a webhook twice",
    after: async (account, address) => {
      restate(account, "payments", 1, failed);
      await notify(account, address, "payments", { eventId: "twice" }, 200);
      await notify(account, address, "payments", { eventId: "twice" }, 200);
    },
    trigger: "none",
    happened: (account) => isStated(account, "payments", failed),
  },
  {
    name: "webhooks in the wrong order",
    after: async (account, address) => {
      // Not in one millisecond, which Square's versions cannot tell apart.
      restate(account, "payments", 1, {
        ...canceled,
        updated_at: new Date(Date.now() - 60_000).toISOString(),
      });
      restate(account, "payments", 1, failed);
      await notify(account, address, "payments", {}, 200);
      await notify(account, address, "payments", { versionsAgo: 1 }, 200);
    },
    trigger: "none",
    happened: (account) => isStated(account, "payments", failed),
  },
  {
    name: "a webhook that says little",
    after: async (account, address) => {
      restate(account, "orders", 1, canceled);
      await notify(account, address, "orders", {}, 200);
    },
    trigger: "none",
    happened: (account) => isStated(account, "orders", canceled),
  },
  {
    name: "a forged webhook",
    after: async (account, address) => {
      restate(account, "payments", 1, failed);
      await notify(account, address, "payments", { forged: true }, 404);
      restate(account, "payments", 1, { status: "COMPLETED" });
    },
    trigger: "none",
    happened: (account) => !isStated(account, "payments", failed),
  },
  {
    name: "lists that lag behind",
    during: ({ simulator }) => {
      simulator.setConsistency(60_000);
      simulator.addOrders(3);
    },
    after: ({ simulator }) => simulator.setConsistency(0),
    happened: ({ simulator }) => simulator.records("orders").length === 63,
  },
];

export const squareFaults = defineFaults<Account>({
  provider: "square",
  name: "Square",
  start,
  faults: rows,
});
