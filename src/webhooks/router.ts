import { setTimeout as wait } from "node:timers/promises";
import { type Request, type Response, Router } from "express";
import { makeBounded } from "../auth/bounded.ts";
import { plainAddress } from "../auth/requests.ts";
import { ApiError } from "../graphql/errors.ts";
import { makeBytesInFlight, readBody } from "../http/body.ts";
import { sendError, sendProblem } from "../http/problem.ts";
import type { Sender, WebhookService } from "./service.ts";
import { WEBHOOKS } from "./urls.ts";

const MIB = 1024 * 1024;
const BODIES = { overall: 64 * MIB, each: 16 * MIB };
const TIMEOUT_MS = 5_000;
const TURNS = { concurrency: 8, waiting: 2_000 };
/** A refusal comes so long after the body did, or a whole number of times that: how far it got does not show. */
const REFUSED_AFTER_MS = 100;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const NOBODY = "00000000-0000-0000-0000-000000000000";

/** `/v1/webhooks/<integrationId>`: what providers send, and the question whether the address is ours. */
export function makeWebhooksRouter(webhooks: WebhookService): Router {
  const hold = makeBytesInFlight(BODIES);
  const inTurn = makeBounded(TURNS, "Too many webhooks are being received. Try again in a moment.");

  async function receive(request: Request, response: Response) {
    if ((request.headers["content-encoding"] ?? "identity") !== "identity")
      throw new ApiError(
        "INVALID_INPUT",
        "A webhook is signed as it is sent: Content-Encoding may be identity.",
        {
          status: 415,
        },
      );
    const sender = senderOf(request);
    const held = hold(sender.address ?? "");
    try {
      const body = await readBody(request, {
        hold: held,
        timeoutMs: TIMEOUT_MS,
        maxBytes: MIB,
        advice: "No provider that is known here sends more.",
      });
      const arrived = performance.now();
      const isReceived = await inTurn(() => webhooks.receive(sender, headersOf(request), body));
      if (isReceived) return void response.status(200).end();
      await refuse(response, arrived);
    } finally {
      held.release();
    }
  }

  async function handshake(request: Request, response: Response) {
    const arrived = performance.now();
    const query = new URL(request.url, "http://webhooks").searchParams;
    const answer = await inTurn(() => webhooks.handshake(senderOf(request), query));
    if (answer !== undefined) return void response.type("text/plain").send(answer);
    await refuse(response, arrived);
  }

  const answering =
    (answer: (request: Request, response: Response) => Promise<void>) =>
    (request: Request, response: Response) => {
      answer(request, response).catch((error: unknown) => {
        if (request.socket.destroyed) return;
        sendError(response, error);
      });
    };
  return Router()
    .post(`${WEBHOOKS}/:integrationId`, answering(receive))
    .get(`${WEBHOOKS}/:integrationId`, answering(handshake))
    .all(`${WEBHOOKS}/:integrationId`, (_request, response) => {
      response.set("allow", "GET, POST");
      sendProblem(response, { code: "INVALID_INPUT", message: "Webhooks are POSTed.", extensions: {} }, 405);
    });
}

/** What is no id at all is looked up, too: it would be known by its haste. */
function senderOf(request: Request): Sender {
  const given = String(request.params.integrationId).toLowerCase();
  return { integrationId: UUID.test(given) ? given : NOBODY, address: plainAddress(request.ip) };
}

const headersOf = (request: Request) =>
  new Headers(
    Object.entries(request.headersDistinct).flatMap(([name, values = []]) =>
      values.map((value): [string, string] => [name, value]),
    ),
  );

async function refuse(response: Response, arrived: number) {
  const passed = performance.now() - arrived;
  await wait(Math.ceil((passed + 1) / REFUSED_AFTER_MS) * REFUSED_AFTER_MS - passed);
  sendProblem(response, {
    code: "NOT_FOUND",
    message: "There is no such webhook, or the signature is not its own.",
    extensions: {},
  });
}
