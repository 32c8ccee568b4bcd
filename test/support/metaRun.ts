import { type EventInput, type Page, ProviderError } from "../../tasks/connectors/connector.ts";
import type { MetaCheckpoint } from "../../tasks/connectors/meta-ads/checkpoint.ts";
import { metaAds } from "../../tasks/connectors/meta-ads/index.ts";
import { type MetaSimulator, type MetaSimulatorOptions, startMetaSimulator } from "../simulators/meta.ts";
import type { TrueEvent } from "../simulators/metaRows.ts";

export const accessToken = "EAAG-simulated-token";
export const appSecret = "simulated-app-secret";
export const verifyToken = "chosen-by-us";
export const noon = new Date("2026-03-11T17:00:00Z");
export const days = (count: number) => new Date(noon.getTime() + count * 86_400_000);
const running: MetaSimulator[] = [];

export async function simulate(options: Partial<MetaSimulatorOptions> = {}) {
  const simulator = await startMetaSimulator({
    ...{ port: 0, accessToken, appSecret, latencyMs: 0, now: noon },
    ...options,
  });
  running.push(simulator);
  return simulator;
}
export async function closeSimulators() {
  for (const simulator of running.splice(0)) await simulator.close();
}

export type StreamName = keyof typeof metaAds.streams;
type Settings = {
  config?: object;
  token?: string;
  now?: Date;
  signal?: AbortSignal;
  range?: { since: Date; until: Date };
};

export function callOf(simulator: MetaSimulator, stream: StreamName, settings: Settings = {}) {
  const config = {
    environment: "simulator",
    accountIds: simulator.accounts.map(({ id }) => id),
    levels: [stream],
    backfillDays: 40,
    ...settings.config,
  };
  const credentials = {
    accessToken: settings.token ?? accessToken,
    appId: simulator.appId,
    appSecret,
    verifyToken,
  };
  return {
    config: metaAds.config.parse(config),
    credentials: metaAds.credentials.parse(credentials),
    now: settings.now ?? noon,
    signal: settings.signal ?? new AbortController().signal,
    fetch,
    baseUrl: simulator.url,
  };
}

export function fetchPage(
  simulator: MetaSimulator,
  stream: StreamName,
  from?: unknown,
  settings: Settings = {},
): Promise<Page<MetaCheckpoint>> {
  const { checkpoint, fetchPage } = metaAds.streams[stream];
  return fetchPage({
    ...callOf(simulator, stream, settings),
    // As after a restart of the worker: what a checkpoint needs must survive JSON.
    checkpoint: checkpoint.optional().parse(from && JSON.parse(JSON.stringify(from))),
    ...(settings.range ? { range: settings.range } : {}),
  });
}

/** Reads to the end of the window, as the engine does; waits for nothing that a provider asks to wait for. */
export async function run(
  simulator: MetaSimulator,
  stream: StreamName,
  from?: unknown,
  settings: Settings & { patience?: number } = {},
) {
  const events: EventInput[] = [];
  const pages: Page<MetaCheckpoint>[] = [];
  const refusals: ProviderError[] = [];
  for (let checkpoint = from, left = settings.patience ?? 10; ; ) {
    const page = await fetchPage(simulator, stream, checkpoint, settings).catch((error: unknown) => {
      const passes = error instanceof ProviderError && ["throttled", "transient"].includes(error.kind);
      if (!passes || left-- <= 0) throw error;
      refusals.push(error);
      return undefined;
    });
    if (!page) continue;
    pages.push(page);
    events.push(...page.events);
    checkpoint = page.checkpoint;
    if (page.done)
      return {
        events,
        pages,
        refusals,
        checkpoint,
        unparsable: pages.flatMap(({ unparsable }) => unparsable),
      };
  }
}

/** What a destination holds after these events: of one id the newest statement, nothing of what was deleted. */
export function destination(...runs: { events: EventInput[] }[]): Map<string, EventInput> {
  const held = new Map<string, EventInput>();
  const versions = new Map<string, number>();
  for (const event of runs.flatMap(({ events }) => events)) {
    const id = event.sourceId ?? "";
    const version = Number(event.sourceVersion);
    if (version < (versions.get(id) ?? 0)) continue;
    versions.set(id, version);
    if (event.deleted) held.delete(id);
    else held.set(id, event);
  }
  return held;
}

/** In the truth's form. */
export const held = (destination: Map<string, EventInput>): TrueEvent[] =>
  [...destination.values()]
    .map(({ sourceVersion, ...event }) => event as TrueEvent)
    .sort((a, b) => (a.sourceId < b.sourceId ? -1 : 1));

export async function refusal(action: Promise<unknown>): Promise<ProviderError> {
  const error = await action.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof ProviderError) return error;
  throw new Error(`not refused as a provider does: ${error}`);
}
