import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { startMetaSimulator } from "../../test/simulators/meta.ts";
import { startSquareSimulator } from "../../test/simulators/square.ts";
import { DEMO_ACCESS_TOKEN, DEMO_LOCATION, DEMO_META, DEMO_META_ACCOUNT } from "./catalogue.ts";

/** Square and Meta behind one address, told apart by their paths: v2 of the one, v25.0 and the like of the other. */
export async function startSimulators(port: number): Promise<{ url: string; close(): Promise<void> }> {
  const square = await startSquareSimulator({
    port: 0,
    accessToken: DEMO_ACCESS_TOKEN,
    locations: [DEMO_LOCATION],
  });
  const meta = await startMetaSimulator({ port: 0, ...DEMO_META, accounts: [DEMO_META_ACCOUNT], live: true });
  const server = createServer((incoming, response) =>
    passOn(incoming, response, /^\/v\d+\.\d\//.test(incoming.url ?? "") ? meta.url : square.url),
  );
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    url: `http://127.0.0.1:${port}`,
    async close() {
      server.closeAllConnections();
      await Promise.all([square.close(), meta.close(), new Promise((resolve) => server.close(resolve))]);
    },
  };
}

function passOn(incoming: IncomingMessage, response: ServerResponse, target: string) {
  const { method, headers, url } = incoming;
  const outgoing = request(`${target}${url}`, { method, headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.on("error", () => response.destroy()).pipe(response);
  });
  outgoing.on("error", () => response.destroy());
  incoming.pipe(outgoing);
}
