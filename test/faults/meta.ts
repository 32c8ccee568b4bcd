import { type MetaSimulator, startMetaSimulator } from "../simulators/meta.ts";
import { localDate } from "../simulators/metaData.ts";
import type { MetaFault } from "../simulators/metaFaults.ts";
import type { MetaErrorName } from "../simulators/metaProtocol.ts";
import { sendWebhook, type WebhookOptions } from "../simulators/metaWebhooks.ts";
import { secret } from "../support/secrets.ts";
import { defineFaults, type Fault, type Simulated } from "./fault.ts";

type Account = Simulated & { simulator: MetaSimulator; today: string; id: string; appSecret: string };
type MetaRow = Fault<Account> & {
  /** Meta makes a report of every query. */
  reports?: boolean;
};

const timeZone = "America/New_York";
// No less than what a later sync reads again.
const backfillDays = 28;
const daysBefore = (date: string, days: number) =>
  new Date(Date.parse(date) - days * 86_400_000).toISOString().slice(0, 10);

async function start(number: number, { reports = false }: MetaRow): Promise<Account> {
  const id = String(7_000_000 + number);
  const accessToken = secret("an access token");
  const appSecret = secret("an app secret");
  const appId = String(9_000_000 + number);
  const simulator = await startMetaSimulator({
    ...{ port: 0, latencyMs: 0, accessToken, appSecret, appId },
    accounts: [{ id, name: "Faulty", timeZone, currency: "USD", campaigns: 3, adSets: 1, ads: 1 }],
    ...(reports ? { maxSyncRows: 0 } : {}),
  });
  const today = localDate(Date.now(), timeZone);
  return {
    url: simulator.url,
    marks: [`act_${id}`, accessToken],
    config: {
      environment: "simulator",
      accountIds: [id],
      levels: ["campaigns"],
      ...{ backfillDays, pageSize: 25, deletionDelayHours: 0 },
    },
    credentials: { accessToken, appId, appSecret },
    limits: [`app:${appId}`, `account:${id}`],
    truth: () => simulator.truth("campaign", daysBefore(today, backfillDays), today),
    close: simulator.close,
    simulator,
    today,
    id,
    appSecret,
  };
}

/** One that befalls some requests of a first sync. */
const during = (name: string, fault: MetaFault, options: { reports?: boolean } = {}): MetaRow => ({
  name,
  ...options,
  during: ({ simulator }) => simulator.setFault({ path: /insights$/, ...fault }),
  happened: ({ simulator }) => simulator.struck() === (fault.times ?? 1),
});
const error = (name: string, error: MetaErrorName, fault: Partial<MetaFault> = {}) =>
  during(name, { kind: "error", error, after: 1, ...fault });
const report = (name: string, fault: MetaFault) =>
  during(name, { path: /^\d+$/, ...fault }, { reports: true });

function restateAds({ simulator, today }: Account) {
  for (const ad of simulator.ads()) simulator.restate(ad, daysBefore(today, 3), { spend: 1_234_567 });
}
const isRestated = ({ truth }: Account) => truth().some(({ value }) => Number(value) > 10_000);
async function sendAll(
  url: string,
  { id, appSecret }: Account,
  how: Omit<WebhookOptions, "accountId">,
  wanted: number,
) {
  const statuses = await sendWebhook(url, appSecret, { accountId: id, ...how });
  if (statuses.some((status) => status !== wanted))
    throw new Error(`The webhook was answered with ${statuses.join()}.`);
}

// Not a report that never ends: that takes an hour of the worker's clock (test/metaAdsReports.test.ts).
const rows: MetaRow[] = [
  during("no answer", { kind: "hang", after: 1 }),
  during("a body that breaks off", { kind: "truncated", after: 1 }),
  during("a page of HTML", { kind: "badJson", after: 1 }),
  during("502", { kind: "badGateway", times: 2, after: 1 }),
  during("a page twice", { kind: "repeatedPage", after: 1 }),
  during("pages in the wrong order", { kind: "reorderedPages", after: 1 }),
  error("4, the limit of the app", "appLimit", { times: 2 }),
  error("17, the limit of the account", "accountLimit"),
  error("613, a limit of the account", "customLimit"),
  error("80000, a limit of insights", "insightsLimit"),
  error("80004, a limit of management", "managementLimit"),
  error("100/1487534, too much data", "tooMuchData", { after: 0 }),
  error("100/1504018, too long for an answer", "syncTimeout", { after: 0 }),
  error("2/1504038, too long for an answer", "syncTimeoutOther", { after: 0 }),
  error("1, reduce the amount of data", "reduceOne"),
  error("2, reduce the amount of data", "reduceTwo"),
  error("1/99, an unknown error", "unknown", { times: 2 }),
  error("2/1504043, an error that passes", "intermittent", { times: 2 }),
  error("2/1504041, breakdowns that do not fit", "badBreakdowns"),
  error("2/1504042, metrics that do not fit", "badMetrics"),
  error("100, an old cursor", "invalidCursor", { behindCursor: true, after: 0 }),
  error("100/33, an account that cannot be found", "gone", { after: 0 }),
  error("190, a token that has ended", "tokenExpired"),
  error("10, a permission of the app", "noAppPermission"),
  error("200, a permission of the account", "noPermission"),
  report("a report that fails", { kind: "reportFailed", reportError: "reportFailed", times: 2 }),
  report("a report that is skipped", { kind: "reportSkipped" }),
  report("a report that is gone", { kind: "reportExpired" }),
  {
    name: "records restated later",
    after: restateAds,
    happened: isRestated,
  },
  {
    name: "a webhook twice",
    after: async (account, { to }) => {
      restateAds(account);
      await sendAll(to, account, { times: 2 }, 200);
    },
    trigger: "none",
    happened: isRestated,
  },
  {
    name: "a webhook that says little",
    after: async (account, { to }) => {
      restateAds(account);
      await sendAll(to, account, {}, 200);
    },
    trigger: "none",
    happened: isRestated,
  },
  {
    name: "a forged webhook",
    after: (account, { to }) => sendAll(to, account, { forged: true }, 404),
    trigger: "none",
    happened: () => true,
  },
  {
    name: "records deleted",
    after: ({ simulator, today }) => {
      for (const ad of simulator.ads()) simulator.restate(ad, daysBefore(today, 4), null);
    },
    trigger: "full_refresh",
    happened: ({ truth, today }) => !truth().some(({ sourceId }) => sourceId.includes(daysBefore(today, 4))),
  },
  {
    name: "records that cannot be read, mended later",
    during: ({ simulator }) => simulator.setCorruption((row) => ({ ...row, spend: "a lot" })),
    after: ({ simulator }) => simulator.setCorruption(undefined),
    happened: () => true,
  },
];

export const metaFaults = defineFaults<Account>({
  provider: "meta-ads",
  name: "Meta Ads",
  start,
  faults: rows,
});
