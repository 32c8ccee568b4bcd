import { randomUUID } from "node:crypto";
import cors from "cors";
import express, { type ErrorRequestHandler, type Express } from "express";
import helmet from "helmet";
import type pg from "pg";
import type { Logger } from "pino";
import { pinoHttp } from "pino-http";
import { postgraphile } from "postgraphile";
import { PgSubscriber } from "postgraphile/adaptors/pg";
import { grafserv } from "postgraphile/grafserv/express/v4";
import type { Connector } from "../tasks/connectors/connector.ts";
import { connectors as allConnectors } from "../tasks/connectors/index.ts";
import { makeDenials, withDenials } from "./audit/denials.ts";
import { auditLag } from "./audit/lag.ts";
import { makePublishedKeys } from "./audit/published.ts";
import { makeAccountService } from "./auth/accounts.ts";
import { makeLastUse } from "./auth/lastUse.ts";
import { authenticate, plainAddress } from "./auth/requests.ts";
import { makeSessionService } from "./auth/sessions.ts";
import type { TokenService } from "./auth/tokens.ts";
import type { Config } from "./config.ts";
import type { KeyRing } from "./crypto/keyRing.ts";
import { makeEventsRouter } from "./events/router.ts";
import { makeEventService } from "./events/service.ts";
import { type ExportLimits, exportLimits } from "./exports/limits.ts";
import { makeExportsRouter } from "./exports/router.ts";
import { makeExportService } from "./exports/service.ts";
import { ApiError } from "./graphql/errors.ts";
import { makePreset } from "./graphql/preset.ts";
import { makeSubscriptions } from "./graphql/subscriptions.ts";
import { isRest, sendError, sendProblem } from "./http/problem.ts";
import { makeIntegrationService } from "./integrations/service.ts";
import { makeNotifications } from "./realtime/notifications.ts";
import { makeSockets, type SocketLimits, type Sockets, socketLimits } from "./realtime/sockets.ts";
import { type UploadLimits, uploadLimits } from "./uploads/limits.ts";
import { makeUploadsRouter } from "./uploads/router.ts";
import { makeUploadService } from "./uploads/service.ts";
import { makeWebhooksRouter } from "./webhooks/router.ts";
import { makeWebhookService } from "./webhooks/service.ts";
import { makeWebhookUrls, WEBHOOKS } from "./webhooks/urls.ts";

export type AppOptions = {
  config: Pick<Config, "NODE_ENV" | "CORS_ORIGINS" | "TRUST_PROXY" | "GRAPHQL_INTROSPECTION">;
  authenticatorPool: pg.Pool;
  tokens: TokenService;
  keyRing: KeyRing;
  /** Where integrations of the environment "simulator" find their provider; undefined where there is none. */
  simulatorUrl: string | undefined;
  /** Calls providers, at public addresses only. */
  fetch: typeof globalThis.fetch;
  /** How others reach us; without it, there are no webhooks. */
  publicUrl?: string | undefined;
  /** Default: all there are. */
  connectors?: readonly Connector[];
  log: Logger;
  /** Rebuild the API when a migration ran. */
  watch?: boolean;
  tenantPredicate?: boolean;
  exportLimits?: Partial<ExportLimits>;
  /** A login that may LISTEN. */
  listenUrl: string;
  socketLimits?: Partial<SocketLimits>;
  uploadLimits?: Partial<UploadLimits>;
  /** Milliseconds that only go forward, for limits kept in memory. */
  clock?: () => number;
};
export type App = {
  express: Express;
  /** Takes the HTTP server's upgrades to websockets, and ends them. */
  sockets: Sockets;
  close(): Promise<void>;
};

/** The whole HTTP server, in the order in which a request meets it. */
export async function createApp(options: AppOptions): Promise<App> {
  const { config, authenticatorPool, tokens, keyRing, log } = options;
  const development = config.NODE_ENV !== "production";
  const subscriber = options.watch ? new PgSubscriber(authenticatorPool) : undefined;
  const sessions = makeSessionService(authenticatorPool, tokens, keyRing, options.clock);
  const accounts = makeAccountService(authenticatorPool, sessions);
  const lastUse = makeLastUse(authenticatorPool, log);
  const denials = makeDenials(authenticatorPool, log, options.clock);
  const keyEnvironment = development ? "test" : "live";
  const notifications = makeNotifications(options.listenUrl, log);
  const { connectors = allConnectors } = options;
  const webhookUrls = makeWebhookUrls(options.publicUrl, connectors);
  const api = postgraphile(
    makePreset({
      authenticatorPool,
      auth: { sessions, accounts },
      integrations: makeIntegrationService({
        pool: authenticatorPool,
        keyRing,
        simulatorUrl: options.simulatorUrl,
        fetch: options.fetch,
      }),
      subscriptions: makeSubscriptions(authenticatorPool, notifications),
      lastUse,
      denials,
      keyEnvironment,
      webhookUrls,
      log,
      development,
      introspection: config.GRAPHQL_INTROSPECTION ?? development,
      watch: subscriber,
      ...(options.tenantPredicate === undefined ? {} : { tenantPredicate: options.tenantPredicate }),
    }),
  );
  const graphql = api.createServ(grafserv);
  await graphql.ready();

  const app = express();
  app.disable("x-powered-by");
  app.set("trust proxy", config.TRUST_PROXY.length > 0 ? config.TRUST_PROXY : false);
  // A proxy before the last may be named with its port.
  const isTrusted: (address: string, hop: number) => boolean = app.get("trust proxy fn");
  app.set("trust proxy", (address: string, hop: number) => isTrusted(plainAddress(address) ?? address, hop));

  // 1. Name the request and log it.
  app.use(
    pinoHttp({
      logger: log,
      genReqId(_request, response) {
        const id = randomUUID();
        response.setHeader("x-request-id", id);
        return id;
      },
      customLogLevel: (_request, response, error) =>
        error || response.statusCode >= 500 ? "error" : "debug",
      // Headers carry tokens, bodies carry passwords, and the handshake of a webhook has its token in the query: none is logged.
      serializers: {
        req: ({ id, method, url }) => ({ id, method, url: isWebhook(url) ? url.replace(/\?.*/s, "") : url }),
        res: ({ statusCode }) => ({ statusCode }),
      },
    }),
  );
  // 2. Is it alive, and can it serve?
  app.get("/healthz", (_request, response) => void response.json({ status: "ok" }));
  app.get("/readyz", async (_request, response) => {
    const ready = await authenticatorPool.query("select 1").then(
      () => true,
      () => false,
    );
    // A log that waits to be sealed is the operator's concern, and no reason to turn requests away.
    const audit = ready ? await auditLag(authenticatorPool).catch(() => undefined) : undefined;
    response.status(ready ? 200 : 503).json({ status: ready ? "ok" : "database unreachable", audit });
  });
  // 3. What browsers may do. Ruru's own page needs inline scripts.
  const strict = helmet();
  const relaxed = helmet({ contentSecurityPolicy: false });
  app.use((request, response, next) =>
    (development && /^\/(graphiql|ruru-static)/.test(request.path) ? relaxed : strict)(
      request,
      response,
      next,
    ),
  );
  app.use(cors({ origin: config.CORS_ORIGINS, exposedHeaders: ["x-request-id"], maxAge: 600 }));
  // Whoever verifies our tokens elsewhere: the keys, and the ones that will sign soon.
  app.get("/.well-known/jwks.json", (_request, response) => {
    response.set("cache-control", "public, max-age=300").json(tokens.jwks());
  });
  // Whoever verifies our audit logs.
  const auditKeys = makePublishedKeys(authenticatorPool);
  app.get("/.well-known/audit-keys.json", async (_request, response) => {
    response.set("cache-control", "public, max-age=300").json({ keys: await auditKeys() });
  });
  // 4. Providers, who sign what they send.
  const webhooks = { pool: authenticatorPool, keyRing, connectors, urls: webhookUrls, log };
  app.use(makeWebhooksRouter(makeWebhookService(webhooks)));
  // 5. Who asks?
  app.use(authenticate(tokens, keyEnvironment, log));
  // 6. The API.
  app.use(makeEventsRouter(withDenials(denials, "events", makeEventService(authenticatorPool)), lastUse));
  const limits = { ...exportLimits, ...options.exportLimits };
  const exports = withDenials(denials, "exports", makeExportService(authenticatorPool, limits));
  app.use(makeExportsRouter(exports, lastUse, limits));
  const ofUploads = { ...uploadLimits, ...options.uploadLimits };
  const uploads = withDenials(denials, "uploads", makeUploadService(authenticatorPool, ofUploads));
  app.use(makeUploadsRouter(uploads, lastUse, ofUploads));
  await graphql.addTo(app, null, false);
  app.get("/", (_request, response) => void response.redirect(development ? "/graphiql" : "/healthz"));
  // 7. Nothing else is here.
  app.use((request, response) => {
    const message = `There is nothing at ${request.method} ${request.path}. The API is at POST /graphql and POST /v1/events; GET /v1/openapi.json describes all of /v1.`;
    if (isRest(request)) return sendProblem(response, { code: "NOT_FOUND", message, extensions: {} });
    response.status(404).json({ errors: [{ message, extensions: { code: "NOT_FOUND" } }] });
  });
  const fallback: ErrorRequestHandler = (error: unknown, request, response, next) => {
    if (response.headersSent) return next(error);
    const unreadable = "The address has an escape (%..) that is none.";
    if (isRest(request))
      return sendError(
        response,
        error instanceof URIError ? new ApiError("INVALID_INPUT", unreadable) : error,
      );
    if (error instanceof URIError) {
      const errors = [{ message: unreadable, extensions: { code: "INVALID_INPUT" } }];
      return void response.status(400).json({ errors });
    }
    log.error({ err: error, requestId: request.id }, "unexpected error in a request");
    const message = `Something went wrong on our side. It is logged under ${String(request.id)}.`;
    response
      .status(500)
      .json({ errors: [{ message, extensions: { code: "INTERNAL", errorId: request.id } }] });
  };
  app.use(fallback);

  const sockets = makeSockets({
    app,
    serv: graphql,
    tokens,
    keyEnvironment,
    pool: authenticatorPool,
    notifications,
    origins: config.CORS_ORIGINS,
    limits: { ...socketLimits, ...options.socketLimits },
    log,
  });
  return {
    express: app,
    sockets,
    async close() {
      sockets.close();
      await notifications.close();
      await lastUse.close();
      await denials.close();
      await api.release();
      subscriber?.release();
    },
  };
}

const isWebhook = (url: string) => url.startsWith(`${WEBHOOKS}/`);
