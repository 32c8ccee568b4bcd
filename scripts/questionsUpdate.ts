import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { makeKeyRing } from "../src/crypto/keyRing.ts";
import { makePool } from "../src/db/pools.ts";
import { runProgram } from "../src/program.ts";
import { rollUpTenant } from "../src/rollups/rollUp.ts";
import { seedThatDay, signInViewers, tenantIds } from "../test/questions/demo.ts";
import { DOCUMENT, printAnswer, readQuestions, withAnswers } from "../test/questions/document.ts";
import { startApi } from "../test/support/api.ts";
import { silent } from "../test/support/database.ts";
import { makeMigratedDatabase, startTemporaryCluster } from "./support/temporaryCluster.ts";

/** Rewrites the answers in docs/questions.md from the demo data of its day. */
await runProgram(
  async (onStop, say) => {
    const cluster = await startTemporaryCluster();
    onStop(cluster.remove);
    const urls = await makeMigratedDatabase(cluster);
    const pool = (url: string, pipeline = false) =>
      makePool(url, { name: "questions", max: 4, log: silent, pipeline });
    const [owner, authenticator, worker] = [
      pool(urls.owner),
      pool(urls.authenticator, true),
      pool(urls.worker),
    ];
    for (const each of [owner, authenticator, worker]) onStop(() => each.end());
    await seedThatDay(owner, makeKeyRing([{ id: "questions", key: randomBytes(32).toString("base64") }]));
    for (const id of Object.values(tenantIds)) await rollUpTenant(worker, id);

    const api = await startApi({ authenticator });
    onStop(api.close);
    const tokens = await signInViewers(api);
    const document = await readFile(DOCUMENT, "utf8");
    const answers = new Map<number, string>();
    for (const { number, title, tenant, request, answer } of readQuestions(document)) {
      const { data, errors } = await api.query(request, { token: tokens[tenant] });
      if (errors) throw new Error(`Question ${number} fails: ${JSON.stringify(errors)}`);
      const text = printAnswer({ data });
      if (text !== answer) say(`changed  ${number}. ${title}`);
      answers.set(number, text);
    }
    await writeFile(DOCUMENT, withAnswers(document, answers));
    say(`docs/questions.md has the answers to ${answers.size} questions.`);
  },
  { once: true },
);
