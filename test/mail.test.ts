import { createHash, createHmac, randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "@jest/globals";
import { runOnce, Logger as WorkerLogger } from "graphile-worker";
import { type Logger, pino } from "pino";
import PostalMime, { type Email } from "postal-mime";
import { SMTPServer } from "smtp-server";
import { deriveOneTimeToken, parseOneTimeToken } from "../src/auth/oneTimeTokens.ts";
import { UserError } from "../src/config.ts";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { withClient, withTransaction } from "../src/db/pools.ts";
import { type MailTransport, makeMailTransport } from "../src/mail/transport.ts";
import { makeTaskList } from "../tasks/index.ts";
import { createTestDatabase, type TestDatabase } from "./support/database.ts";
import { createTenant, type TestTenant } from "./support/tenants.ts";
import { until } from "./support/until.ts";

const FRONTEND = "https://app.example/erp/";
const keyRing = makeKeyRing([{ id: "test", key: randomBytes(32).toString("base64") }]);

let database: TestDatabase;
let folder: string;
let acme: TestTenant;
let transport: MailTransport;
let logged: string;
let log: Logger;
const closers: (() => unknown)[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());
let count = 0;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "erp-mail-"));
  acme = await createTenant(database.owner, `acme${++count}`);
  logged = "";
  const sink = new PassThrough().on("data", (chunk) => {
    logged += chunk;
  });
  log = pino({ level: "info" }, sink);
  transport = mails({});
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  await database.owner.query("truncate graphile_worker._private_jobs, app_private.rate_limits");
  await rm(folder, { recursive: true });
});

function mails(config: { SMTP_URL?: string; MAIL_FROM?: string; FRONTEND_URL?: string }): MailTransport {
  const all = { SMTP_URL: undefined, MAIL_FROM: undefined, FRONTEND_URL: undefined, ...config };
  const made = makeMailTransport(all, { mailDir: join(folder, "mail"), log });
  closers.push(() => made.close());
  return made;
}

type Reply = { at: "MAIL" | "RCPT" | "DATA"; code: number; text?: string };
/** A real server, which answers with `replies` in turn and then accepts; the transport sends through it. */
async function overSmtp(...replies: Reply[]) {
  const received: { email: Email; rcpt: string[] }[] = [];
  const tries: string[] = [];
  const answer = (at: Reply["at"], said = "") => {
    const [reply] = replies;
    if (reply?.at !== at) return null;
    replies.shift();
    const text = (reply.text ?? "no").replace("LINK", said);
    return Object.assign(new Error(text), { responseCode: reply.code });
  };
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ["STARTTLS"],
    onMailFrom: (_from, _session, done) => {
      tries.push("MAIL");
      done(answer("MAIL"));
    },
    onRcptTo: (_to, _session, done) => done(answer("RCPT")),
    onData: (stream, { envelope }, done) => {
      stream.toArray().then(async (chunks) => {
        const email = await PostalMime.parse(Buffer.concat(chunks));
        const refusal = answer("DATA", linkIn(email));
        if (!refusal) received.push({ email, rcpt: envelope.rcptTo.map(({ address }) => address) });
        done(refusal);
      }, done);
    },
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  closers.push(() => new Promise<void>((closed) => server.close(closed)));
  const address = server.server.address();
  const port = typeof address === "object" ? address?.port : undefined;
  transport = mails({
    SMTP_URL: `smtp://127.0.0.1:${port}`,
    MAIL_FROM: "Acme, Inc. <no-reply@acme.example>",
    FRONTEND_URL: FRONTEND,
  });
  return { received, tries };
}

/** As the functions behind the API do, with an admin as the one who asks. */
const issue = (purpose: string, email = acme.users.user.email): Promise<string> =>
  withTransaction(database.owner, async (client) => {
    await client.query("select set_config('app.user_id', $1, true), set_config('app.tenant_id', $2, true)", [
      acme.users.admin.id,
      acme.id,
    ]);
    const { rows } = await client.query("select app_private.issue_token($1, $2, $3, $4) as id", [
      acme.id,
      acme.users.user.id,
      purpose,
      email,
    ]);
    return rows[0].id;
  });

/** The real task list, until no job is due; what failed is due again the next time. */
async function work() {
  await database.owner.query("update graphile_worker._private_jobs set run_at = now()");
  const services = {
    pool: database.worker,
    log,
    keyRing,
    simulatorUrl: undefined,
    fetch,
    mail: transport,
    connectors: [],
    anchorDir: "",
  };
  const taskList = makeTaskList({ ...services, frontendUrl: FRONTEND });
  const logger = new WorkerLogger(() => () => {});
  await runOnce({ pgPool: database.worker, taskList, noHandleSignals: true, preset: { worker: { logger } } });
  // runOnce does not wait until the outcome is in the job's row.
  const locked = "select from graphile_worker._private_jobs where locked_at is not null";
  await until(
    () => database.owner.query(locked),
    ({ rowCount }) => rowCount === 0,
  );
}
const jobs = async () =>
  (await database.owner.query("select attempts, last_error from graphile_worker._private_jobs")).rows;
const files = async () => (await readdir(join(folder, "mail")).catch(() => [])).sort();
const inFolder = async (): Promise<Email[]> => {
  const names = await files();
  return Promise.all(names.map(async (name) => PostalMime.parse(await readFile(join(folder, "mail", name)))));
};
const linkIn = ({ text }: Email) => /https?:\S+#token=\S+/.exec(text ?? "")?.[0] ?? "";
const tokenIn = (email: Email) => linkIn(email).split("#token=")[1] ?? "";
const expiryOf = async (tokenId: string): Promise<Date> => {
  const sql = "select expires_at from app_private.one_time_tokens where id = $1";
  return (await database.owner.query(sql, [tokenId])).rows[0].expires_at;
};

/** Which tables, of all schemas, hold it: as text, as bytes, or inside JSON. */
async function tablesWith(needle: string | Buffer): Promise<string[]> {
  return withClient(database.urls.root, async (client) => {
    const { rows } = await client.query(
      `select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')`,
    );
    const shapes = typeof needle === "string" ? [needle, Buffer.from(needle).toString("hex")] : [];
    if (typeof needle !== "string") shapes.push(needle.toString("hex"), needle.toString("base64"));
    const found: string[] = [];
    for (const { name } of rows) {
      const sql = `select 1 from ${name} t where t::text ilike any ($1) limit 1`;
      const { rowCount } = await client.query(sql, [
        shapes.map((shape) => `%${shape.replaceAll("_", "\\_")}%`),
      ]);
      if (rowCount) found.push(name);
    }
    return found;
  });
}

it.each([
  ["invitation", "accept-invitation", /^Invitation to acme/, /admin@acme\d+\.test invites you/],
  ["email_verification", "confirm-email", /^Confirm your e-mail/, /If you have no account/],
  ["email_change", "confirm-email", /^Confirm your new e-mail/, /If you did not ask/],
  ["password_reset", "reset-password", /^Reset your password/, /If it was not you/],
])(
  "mails the link of one %s, which PostgreSQL knows by its hash only",
  async (purpose, page, subject, says) => {
    const { received } = await overSmtp({ at: "DATA", code: 451, text: "blocked: LINK" });
    const tokenId = await issue(purpose, "nora@acme.test");
    await work();
    // The server quoted the link, and the job keeps what the server said.
    const [failed] = await jobs();
    expect(failed.last_error).toMatch(/451 blocked: https:\/\/app\.example/);
    const { token, hash } = deriveOneTimeToken(keyRing, { tenantId: acme.id, tokenId });
    const secret = Buffer.from(token, "base64url").subarray(32);
    for (const needle of [token, secret.toString("base64url"), secret])
      expect(await tablesWith(needle)).toEqual([]);
    expect(await tablesWith(hash)).toEqual(["app_private.one_time_tokens"]);
    expect(await tablesWith(tokenId)).toContain("graphile_worker._private_jobs");

    await work();
    expect(received).toHaveLength(1);
    const [{ email, rcpt } = { email: undefined, rcpt: [] }] = received;
    if (!email) throw new Error("no mail");
    expect(rcpt).toEqual(["nora@acme.test"]);
    expect(email.from).toMatchObject({ name: "Acme, Inc.", address: "no-reply@acme.example" });
    expect(email.messageId).toBe(`<${tokenId}@acme.example>`);
    expect(email.subject).toMatch(subject);
    expect(email.text).toMatch(says);
    const expiry = (await expiryOf(tokenId)).toISOString();
    expect(email.text).toContain(`${expiry.slice(0, 10)} ${expiry.slice(11, 16)} UTC`);
    expect(linkIn(email)).toBe(`https://app.example/erp/${page}#token=${token}`);
    expect(email.html).toContain(`href="${linkIn(email)}"`);
    expect(await jobs()).toEqual([]);
    expect(logged).not.toContain(token);
  },
);

it("makes tokens as the protocol says, the same ones from one key, and reads no others", async () => {
  const [tenantId, tokenId] = [randomUUID(), randomUUID()];
  const place = Buffer.from(`${tenantId}${tokenId}`.replaceAll("-", ""), "hex");
  const [key] = keyRing.derive("one-time-token");
  if (!key) throw new Error("no key");
  const bytes = Buffer.concat([
    place,
    createHmac("sha256", key).update("one-time-token").update(place).digest(),
  ]);
  const hash = createHash("sha256").update(bytes).digest();
  const token = bytes.toString("base64url");
  expect(deriveOneTimeToken(keyRing, { tenantId, tokenId })).toEqual({ token, hash });
  expect(parseOneTimeToken(token)).toEqual({ tenantId, tokenId, hash });
  const last = Buffer.from(bytes.subarray(0, 63)).toString("base64url");
  for (const other of [
    "",
    last,
    `${token}A`,
    `${token}=`,
    ` ${token}`,
    `${token.slice(0, -1)}~`,
    bytes.toString("base64"),
  ])
    expect(parseOneTimeToken(other)).toBeUndefined();
});

it("sends the same token again when the job runs twice", async () => {
  const tokenId = await issue("password_reset");
  await work();
  await database.owner.query("select graphile_worker.add_job('send_mail', $1)", [
    { tenantId: acme.id, tokenId },
  ]);
  await work();
  const [first, second, ...others] = await inFolder();
  expect(others).toEqual([]);
  expect(first && tokenIn(first)).toMatch(/^[\w-]{86}$/);
  expect(second && tokenIn(second)).toBe(first && tokenIn(first));
  expect(second?.messageId).toBe(first?.messageId);
});

it.each([
  ["used", "update app_private.one_time_tokens set used_at = now() where id = $1"],
  ["expired", "update app_private.one_time_tokens set expires_at = now() where id = $1"],
  ["replaced", "delete from app_private.one_time_tokens where id = $1"],
])("sends nothing for a token that was %s meanwhile", async (_case, statement) => {
  await issue("invitation", "other@acme.test");
  const tokenId = await issue("password_reset");
  await database.owner.query(statement, [tokenId]);
  await work();
  const sent = await inFolder();
  expect(sent.map(({ to }) => to?.[0]?.address)).toEqual(["other@acme.test"]);
  expect(await jobs()).toEqual([]);
});

it.each<[string, Reply, string]>([
  ["the recipient is refused for now", { at: "RCPT", code: 450 }, "RCPT TO"],
  ["the message is refused for now", { at: "DATA", code: 452 }, "DATA"],
  ["our sender is refused, which a person can mend", { at: "MAIL", code: 550 }, "MAIL FROM"],
  ["the server wants a login first", { at: "RCPT", code: 530 }, "RCPT TO"],
])("tries again when %s", async (_case, reply, command) => {
  const { received, tries } = await overSmtp(reply);
  await issue("password_reset");
  await work();
  expect(received).toEqual([]);
  const [job] = await jobs();
  expect(job).toMatchObject({ attempts: 1 });
  expect(job.last_error).toContain(`${command}: `);
  await work();
  expect(received).toHaveLength(1);
  expect(tries).toHaveLength(2);
  expect(await jobs()).toEqual([]);
});

it("tries again when no server answers, and tells nobody the password of SMTP_URL", async () => {
  const free = createServer().listen(0, "127.0.0.1");
  await once(free, "listening");
  const address = free.address();
  await new Promise((closed) => free.close(closed));
  const port = typeof address === "object" ? address?.port : undefined;
  transport = mails({
    SMTP_URL: `smtp://u:hunter2@127.0.0.1:${port}`,
    MAIL_FROM: "a@b.example",
    FRONTEND_URL: FRONTEND,
  });
  await issue("password_reset");
  await work();
  const [job] = await jobs();
  expect(job).toMatchObject({ attempts: 1, last_error: expect.stringContaining("ECONNREFUSED") });
  expect(job.last_error + logged).not.toContain("hunter2");
});

it.each<[string, Reply]>([
  ["recipient", { at: "RCPT", code: 550 }],
  ["recipient's domain", { at: "RCPT", code: 521 }],
  ["message", { at: "DATA", code: 554, text: "spam: LINK" }],
])("gives up at once, and says so once, when the %s is refused for good", async (_case, reply) => {
  const { received, tries } = await overSmtp(reply);
  const tokenId = await issue("password_reset");
  await work();
  await work();
  expect(await jobs()).toEqual([]);
  expect(received).toEqual([]);
  expect(tries).toHaveLength(1);
  const lines = logged.trim().split("\n");
  expect(lines).toHaveLength(1);
  expect(JSON.parse(logged)).toMatchObject({ level: 50, mail: tokenId });
  expect(logged).toContain(String(reply.code));
  expect(logged).not.toContain(deriveOneTimeToken(keyRing, { tenantId: acme.id, tokenId }).token);
});

it("sends to one person, whatever the address looks like", async () => {
  const { received } = await overSmtp();
  await issue("email_change", "victim,eve@acme.test");
  await work();
  expect(received.map(({ rcpt }) => rcpt)).toEqual([['"victim,eve"@acme.test']]);
});

it("lets names bring neither headers nor tags nor anything that mail programs make a link of", async () => {
  const tell = (name: string) =>
    database.owner.query("update users set first_name = $3 where tenant_id = $1 and id = any ($2)", [
      acme.id,
      [acme.users.user.id, acme.users.admin.id],
      name,
    ]);
  await tell(`Eve\r\nBcc: victim@x.example ${"long ".repeat(30)}`);
  await database.owner.query("update tenants set name = $2 where id = $1", [
    acme.id,
    'A & <a href="//evil.example/x">B</a>\r\nX-Evil: 1',
  ]);
  await issue("invitation");
  await work();
  await tell("ftp://www.evil.example/now \u202egro。live");
  await issue("email_verification");
  await work();
  const [first, second] = await inFolder();
  for (const mail of [first, second]) {
    expect(mail?.headers.map(({ key }) => key)).not.toContain("x-evil");
    expect(mail?.bcc).toBeUndefined();
    expect(mail?.to).toHaveLength(1);
    expect(mail?.subject).toContain('A & <a href=" evil. example/x">B</a> X-Evil: 1');
    expect(mail?.html).toContain("A &amp; &lt;a href=&quot; evil. example/x&quot;&gt;B&lt;/a&gt; X-Evil: 1");
    expect(mail?.html?.match(/<a /g)).toHaveLength(1);
    expect(mail?.text?.replace(linkIn(mail), "")).not.toMatch(/\/\/|\b(?:evil|www)\.\w|。\S/);
  }
  expect(first?.text?.match(/^Hello .*$/m)?.[0].length).toBeLessThan(90);
  expect(second?.text).toMatch(/^Hello ftp www\. evil\. example\/now gro。 live,$/m);
});

it.each([
  ["password_changed", /^Your password for/, true],
  ["email_change_requested", /^Another e-mail address for/, false],
  ["email_changed", /^Your e-mail address for/, false],
] as const)("tells %s to the address that it is for", async (notice, subject, offersReset) => {
  const email = "old@acme.test";
  await database.owner.query("select app_private.send_notice($1, $2, $3, $4)", [
    acme.id,
    acme.users.user.id,
    notice,
    email,
  ]);
  await work();
  const [mail, ...others] = await inFolder();
  expect(others).toEqual([]);
  expect(mail?.to).toEqual([{ name: "", address: email }]);
  expect(mail?.subject).toMatch(subject);
  expect(mail?.text).toContain(acme.slug);
  expect(mail && linkIn(mail)).toBe("");
  expect(/reset your password/.test(mail?.text ?? "")).toBe(offersReset);
  expect(mail?.messageId).toMatch(/^<notice-\d+@localhost>$/);
});

it("writes whole files for their owner alone when there is no SMTP_URL, and logs the path and no token", async () => {
  await mkdir(join(folder, "mail"));
  await chmod(join(folder, "mail"), 0o755);
  await issue("invitation");
  await work();
  const [name, ...others] = await files();
  expect(others).toEqual([]);
  expect(name).toMatch(/^\d{4}-\d\d-\d\dT[\d-]+\.\d{3}Z-invitation-[0-9a-f]{6}\.eml$/);
  const path = join(folder, "mail", name ?? "");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await stat(join(folder, "mail"))).mode & 0o777).toBe(0o700);
  const [mail] = await inFolder();
  expect(mail?.from?.address).toBe("no-reply@localhost");
  expect(JSON.parse(logged)).toMatchObject({ level: 30, file: path });
  expect(logged).not.toContain(mail && tokenIn(mail));
  expect(logged).not.toContain("token=");
});

it("refuses to start with SMTP_URL alone, without repeating it", () => {
  const SMTP_URL = "smtps://user:hunter2@mail.example";
  const [MAIL_FROM, FRONTEND_URL] = ["a@b.example", FRONTEND];
  for (const config of [{ SMTP_URL }, { SMTP_URL, MAIL_FROM }, { SMTP_URL, FRONTEND_URL }]) {
    expect(() => mails(config)).toThrow(UserError);
    expect(() => mails(config)).not.toThrow(/hunter2/);
  }
  mails({ SMTP_URL, MAIL_FROM, FRONTEND_URL });
});
