import type { Logger } from "pino";
import { type Call, type Connector, ProviderError } from "../../tasks/connectors/connector.ts";
import { providerUrl } from "../../tasks/connectors/index.ts";
import type { TaskServices } from "../../tasks/index.ts";
import { makeFiles } from "../uploads/files.ts";
import { readCredentials, saveRefreshed } from "./credentials.ts";
import { failureOf, misfit, SyncError } from "./failures.ts";
import { type Gate, limitKey, makeGate } from "./gate.ts";
import { pullPages, sweep } from "./pages.ts";
import { makeRedact } from "./redact.ts";
import { type Begun, isRefusal, type Run } from "./run.ts";

/** Where a provider that throttles does not say for how long. */
const PATIENCE_MS = 60_000;
const BUSY_MS = 2_000;

type ProviderCall = Omit<Call<unknown, unknown>, "now">;
export type Work = {
  services: TaskServices;
  connector: Connector;
  begun: Begun;
  run: Run;
  tenantId: string;
  /** Aborted when the worker stops, or the lease is lost. */
  signal: AbortSignal;
};

/** Pulls pages until the stream has caught up, the slice is over, or something is in the way; leaves the run settled. */
export async function readSlice(work: Work): Promise<void> {
  const { services, begun, run, signal } = work;
  let redact = (text: string) => text;
  let gate: Gate | undefined;
  let call: ProviderCall | undefined;
  const calls = () => gate?.takeCalls() ?? 0;
  try {
    if (begun.is_read) {
      if (!(await sweep(work))) await run.pause(0, 0);
      return;
    }
    const credentials = readCredentials({ ...services, tenantId: work.tenantId }, begun, work.connector);
    redact = makeRedact(credentials);
    const config = readConfig(work);
    gate = gateFor(work, config, credentials);
    const waitMs = await gate.pauseMs();
    if (waitMs !== undefined) return await run.pause(0, withJitter(waitMs), "provider");
    call = {
      config,
      credentials,
      signal,
      fetch: gate.fetch,
      baseUrl: providerUrl(work.connector, config, services.simulatorUrl),
      files: makeFiles(services.pool, {
        tenantId: work.tenantId,
        integrationId: begun.integration_id,
        task: "sync_stream",
      }),
    };
    const refreshed = await refresh(work, call);
    if (refreshed === "later") return await run.pause(calls(), BUSY_MS * (0.5 + Math.random()));
    if (refreshed === "changed") return await run.pause(calls(), 0);
    if (refreshed !== undefined) {
      redact = makeRedact([credentials, refreshed]);
      call = { ...call, credentials: refreshed };
    }
    const isOver = await pullPages(work, call, gate, redact);
    if (!isOver) await run.pause(calls(), 0);
  } catch (error) {
    if (isRefusal(error)) throw error;
    if (signal.aborted) return await run.pause(calls(), 0);
    if (await waited(work, error, gate, call)) return;
    const failure = failureOf(error);
    const sentence = redact(failure.sentence).slice(0, 1_000);
    report(
      services.log,
      work,
      { ...failure, sentence },
      redact(String(error instanceof Error ? error.stack : error)),
    );
    if (failure.isFinal) return await run.fail(calls(), failure.errorClass, sentence);
    await run.retry(calls(), failure.errorClass, sentence, failure.afterMs);
  }
}

function readConfig({ connector, begun }: Work): unknown {
  const config = connector.config.safeParse(begun.config);
  if (config.success) return config.data;
  throw new SyncError("invalid_configuration", `The settings do not fit: ${misfit(config.error)}.`);
}

const gateFor = (
  { services, connector, begun, tenantId }: Work,
  config: unknown,
  credentials: unknown,
): Gate => {
  const scopes = connector.limits?.(config, credentials) ?? [];
  // Without limits of its own, at least the streams of one integration hear of each other.
  return makeGate(services.pool, services.fetch, {
    provider: begun.provider,
    scopes: scopes.length > 0 ? scopes : [`integration:${begun.integration_id}`],
    keyOf: limitKey(tenantId, connector.appSecret?.(credentials)),
  });
};

/** New credentials, saved; undefined while those at hand last; or who else is at it. */
async function refresh(work: Work, call: ProviderCall): Promise<unknown> {
  const { connector, begun, run } = work;
  const version = begun.credentials?.version;
  if (!connector.refresh || version === undefined) return undefined;
  const turn = await run.beginRefresh(version);
  if (turn !== "go") return turn === "busy" ? "later" : "changed";
  return renew(work, call, version);
}

/** Under the lock that `beginRefresh` gave. */
async function renew(work: Work, call: ProviderCall, version: number, refused?: ProviderError) {
  const { connector, begun, run, services, tenantId } = work;
  const asked = { ...call, now: new Date(), ...(refused ? { refused } : {}) };
  const renewed = await connector.refresh?.(asked).catch(async (error: unknown) => {
    await run.endRefresh(version);
    throw error;
  });
  if (renewed === undefined) {
    await run.endRefresh(version);
    return undefined;
  }
  return (await saveRefreshed({ ...services, tenantId }, begun, run, renewed)) ? renewed : "changed";
}

/** Puts the run off without costing an attempt, where nothing failed: the provider asks for patience, or credentials are newer. */
async function waited(
  work: Work,
  error: unknown,
  gate: Gate | undefined,
  call: ProviderCall | undefined,
): Promise<boolean> {
  const { run, begun } = work;
  const refusedMs = gate?.refusedMs();
  if (gate && refusedMs !== undefined) {
    await run.pause(gate.takeCalls(), withJitter(refusedMs), "provider");
    return true;
  }
  if (!(gate && call && error instanceof ProviderError)) return false;
  if (error.kind === "throttled") {
    const milliseconds = error.retryAfterMs ?? PATIENCE_MS;
    await gate.pause({ scope: error.scope, milliseconds, reason: error.code ?? "throttled" });
    await run.pause(gate.takeCalls(), withJitter(milliseconds), "provider");
    return true;
  }
  const version = begun.credentials?.version;
  if (error.kind !== "reauth" || version === undefined) return false;
  // Another run may have renewed them a moment ago, which ended those at hand.
  const turn = await run.beginRefresh(version);
  if (turn === "go") {
    const renewed = await renew(work, call, version, error).catch(() => undefined);
    if (renewed === undefined) return false;
    // An attempt, until a page shows that the new ones are better.
    await run.retry(
      gate.takeCalls(),
      "needs_reauth",
      "The provider has ended the access token. It was renewed.",
    );
    return true;
  }
  await run.pause(gate.takeCalls(), turn === "busy" ? BUSY_MS : 0);
  return true;
}

/** A little longer than asked, so that those who wait for the same do not all come back at once. */
const withJitter = (milliseconds: number) =>
  milliseconds + Math.random() * Math.min(milliseconds / 10, 60_000);

function report(
  log: Logger,
  { begun }: Work,
  failure: { isFinal: boolean; sentence: string; errorClass: string; code?: string },
  stack: string,
) {
  const { integration_id: integrationId, stream } = begun;
  const { errorClass, sentence, code } = failure;
  const facts = { integrationId, stream, errorClass, code, sentence };
  if (errorClass === "internal") log.error({ ...facts, stack }, "sync failed on our side");
  else
    log.warn(
      facts,
      failure.isFinal ? "sync failed until somebody mends it" : "sync failed, and is tried again",
    );
}
