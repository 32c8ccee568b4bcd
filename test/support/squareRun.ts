import { type EventInput, ProviderError } from "../../tasks/connectors/connector.ts";
import { square } from "../../tasks/connectors/square/index.ts";
import {
  type SquareSimulator,
  type SquareSimulatorOptions,
  startSquareSimulator,
} from "../simulators/square.ts";
import { secret } from "./secrets.ts";

export const accessToken = secret("an access token");
export const noon = new Date("2026-03-11T17:00:00Z");
export const later = (minutes: number) => new Date(noon.getTime() + minutes * 60_000);
const running: SquareSimulator[] = [];

export async function simulate(options: Partial<SquareSimulatorOptions> = {}) {
  const defaults = { port: 0, accessToken, orders: 400, days: 10, latencyMs: 0, now: noon };
  const simulator = await startSquareSimulator({ ...defaults, ...options });
  running.push(simulator);
  return simulator;
}
export async function closeSimulators() {
  for (const simulator of running.splice(0)) await simulator.close();
}

type StreamName = keyof typeof square.streams;
type Settings = {
  config?: object;
  credentials?: object;
  token?: string;
  now?: Date;
  signal?: AbortSignal;
  range?: { since: Date; until: Date };
};

/** What every call to the simulator has. */
export function callOf(simulator: SquareSimulator, settings: Settings = {}) {
  const config = { environment: "simulator", locationIds: simulator.locations, ...settings.config };
  const credentials = { accessToken: settings.token ?? accessToken, ...settings.credentials };
  return {
    config: square.config.parse(config),
    credentials: square.credentials.parse(credentials),
    now: settings.now ?? noon,
    signal: settings.signal ?? new AbortController().signal,
    fetch,
    baseUrl: simulator.url,
  };
}

export function fetchPage(
  simulator: SquareSimulator,
  stream: StreamName,
  from?: unknown,
  settings: Settings = {},
) {
  const { checkpoint, fetchPage } = square.streams[stream];
  return fetchPage({
    ...callOf(simulator, settings),
    // As after a restart of the worker: what a checkpoint needs must survive JSON.
    checkpoint: checkpoint.optional().parse(from && JSON.parse(JSON.stringify(from))),
    ...(settings.range ? { range: settings.range } : {}),
  });
}

/** Reads to the end of the window, as the engine does. */
export async function run(
  simulator: SquareSimulator,
  stream: StreamName,
  from?: unknown,
  settings: Settings = {},
) {
  const events: EventInput[] = [];
  const unparsable = [];
  const progress: (number | undefined)[] = [];
  for (let checkpoint = from, pages = 1; ; pages++) {
    const page = await fetchPage(simulator, stream, checkpoint, settings);
    events.push(...page.events);
    unparsable.push(...page.unparsable);
    progress.push(page.progress);
    checkpoint = page.checkpoint;
    if (page.done) return { events, unparsable, checkpoint, pages, progress, highWater: page.highWater };
  }
}

export const sourceIds = (events: EventInput[]) => events.map((event) => event.sourceId).sort();
export const expectedIds = (simulator: SquareSimulator, table: "orders" | "payments" | "refunds") =>
  simulator
    .records(table)
    .map((record) => `${table.slice(0, -1)}:${record.id}`)
    .sort();

export async function refusal(action: Promise<unknown>): Promise<ProviderError> {
  const error = await action.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof ProviderError) return error;
  throw new Error(`not refused as a provider does: ${error}`);
}
