// Verifies an exported audit log against an anchor. Written from docs/audit-format.md alone; uses nothing of this project.
//   node independentVerifier.mjs EXPORT.ndjson ANCHOR_FOLDER [--partial]
// Prints one line for each thing that is wrong, then a summary; exits with 1 if anything is.
import { createHash, createPublicKey, verify } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const [exportFile, anchorFolder, mode] = process.argv.slice(2);
const problems = [];
const problem = (text) => problems.push(text);
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest();

// --- JSON whose numbers keep their text ---
class Num {
  constructor(text) {
    this.text = text;
  }
}
function parse(text) {
  let at = 0;
  const fail = () => {
    throw new SyntaxError(`no JSON at ${at}`);
  };
  const blank = () => {
    while (at < text.length && " \t\r\n".includes(text[at])) at++;
  };
  const word = (expected, value) => {
    if (!text.startsWith(expected, at)) fail();
    at += expected.length;
    return value;
  };
  const string = () => {
    const start = at;
    if (text[at] !== '"') fail();
    for (at++; text[at] !== '"'; at++) {
      if (at >= text.length) fail();
      if (text[at] === "\\") at++;
    }
    at++;
    return JSON.parse(text.slice(start, at));
  };
  const value = () => {
    blank();
    const c = text[at];
    if (c === "{") {
      const members = new Map();
      at++;
      blank();
      if (text[at] === "}") return word("}", members);
      for (;;) {
        blank();
        const name = string();
        if (members.has(name)) fail();
        blank();
        word(":");
        members.set(name, value());
        blank();
        if (text[at] === "}") return word("}", members);
        word(",");
      }
    }
    if (c === "[") {
      const items = [];
      at++;
      blank();
      if (text[at] === "]") return word("]", items);
      for (;;) {
        items.push(value());
        blank();
        if (text[at] === "]") return word("]", items);
        word(",");
      }
    }
    if (c === '"') return string();
    if (c === "t") return word("true", true);
    if (c === "f") return word("false", false);
    if (c === "n") return word("null", null);
    const [number] =
      /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/.exec(text.slice(at, at + 200_000)) ?? fail();
    at += number.length;
    return new Num(number);
  };
  const result = value();
  blank();
  if (at !== text.length) fail();
  return result;
}
function canonical(value) {
  if (value instanceof Num) return value.text;
  if (value instanceof Map)
    return `{${[...value.keys()]
      .sort()
      .map((name) => `${JSON.stringify(name)}:${canonical(value.get(name))}`)
      .join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  return JSON.stringify(value);
}
const without = (map, name) => new Map([...map].filter(([key]) => key !== name));
const only = (map, names) => new Map(names.map((name) => [name, map.get(name)]));
const plain = (map) =>
  Object.fromEntries([...map].map(([k, v]) => [k, v instanceof Num ? Number(v.text) : v]));

// --- The anchor ---
const keyLines = [];
const seals = new Map();
for (const name of readdirSync(anchorFolder)
  .filter((file) => /^\d{4}-\d{2}\.ndjson$/.test(file))
  .sort())
  for (const line of readFileSync(join(anchorFolder, name), "utf8").split("\n")) {
    let parsed;
    try {
      parsed = parse(line);
    } catch {
      continue;
    }
    const { type, tenantId, number } = plain(parsed);
    if (type === "key") keyLines.push(parsed);
    if (type !== "seal") continue;
    if (!seals.has(tenantId)) seals.set(tenantId, new Map());
    const ofTenant = seals.get(tenantId);
    if (!ofTenant.has(number)) ofTenant.set(number, new Map());
    ofTenant.get(number).set(canonical(parsed), parsed);
  }

// --- Which keys count ---
const rawKey = (key) => Buffer.from(key.get("publicKey"), "base64");
const signedBy = (key, text, signature) =>
  verify(
    null,
    Buffer.from(text, "utf8"),
    // An Ed25519 key in the form of RFC 8410.
    createPublicKey({
      key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), rawKey(key)]),
      format: "der",
      type: "spki",
    }),
    Buffer.from(signature ?? "", "base64"),
  );
const genuine = keyLines.filter(
  (key) => sha256(rawKey(key)).subarray(0, 12).toString("base64url") === key.get("keyId"),
);
const counting = new Map();
if (genuine[0]) counting.set(genuine[0].get("keyId"), genuine[0]);
for (let before = 0; before < counting.size; ) {
  before = counting.size;
  for (const key of genuine) {
    const by = counting.get(key.get("endorsedBy"));
    const text = canonical(only(key, ["type", "version", "keyId", "publicKey", "createdAt"]));
    if (by && signedBy(by, text, key.get("endorsement"))) counting.set(key.get("keyId"), key);
  }
}

// --- The rows ---
const MEMBERS =
  "action actorId actorKind actorName changes clusterId createdAt id impersonatorId impersonatorName ipAddress requestId resource resourceId sessionId tenantId transactionId userAgent".split(
    " ",
  );
const rows = [];
readFileSync(exportFile, "utf8")
  .split("\n")
  .forEach((line, index) => {
    if (line.trim() === "") return;
    try {
      rows.push({ line: index + 1, row: parse(line) });
    } catch (error) {
      problem(`edited: line ${index + 1} is no JSON (${error.message})`);
    }
  });
const tenantId = rows[0]?.row.get("tenantId");
if (!tenantId) problem("cut: the export has no rows");

// --- The chain of seals ---
const entries = new Map();
let link = Buffer.alloc(32);
let previous = "0".repeat(64);
let next = 1;
const ofTenant = seals.get(tenantId) ?? new Map();
const lastNumber = Math.max(0, ...ofTenant.keys());
for (let number = 1; number <= lastNumber; number++) {
  const candidates = [...(ofTenant.get(number)?.values() ?? [])];
  if (candidates.length === 0) {
    problem(`cut: seal ${number} is missing from the anchor`);
    continue;
  }
  if (candidates.length > 1)
    problem(`recomputed: the anchor has ${candidates.length} seals of number ${number}`);
  const isSigned = (seal) => {
    const key = counting.get(seal.get("keyId"));
    return key && signedBy(key, canonical(without(seal, "signature")), seal.get("signature"));
  };
  const seal = candidates.find(isSigned);
  if (!seal) {
    problem(`forged: seal ${number} is not signed by a key that counts`);
    continue;
  }
  const { firstSequence, rowCount, chain, previousSeal, rows: packed, sealedAt } = plain(seal);
  const bytes = Buffer.from(packed, "base64");
  if (previousSeal !== previous || firstSequence !== next || bytes.length !== 48 * rowCount)
    problem(`unchained: seal ${number} does not follow the one before`);
  for (let index = 0; index < rowCount; index++) {
    const entry = bytes.subarray(48 * index, 48 * (index + 1));
    link = sha256(link, entry.subarray(16));
    const hex = entry.toString("hex", 0, 16);
    const id = [0, 8, 12, 16, 20].map((from, place) => hex.slice(from, [8, 12, 16, 20, 32][place])).join("-");
    entries.set(id, [
      ...(entries.get(id) ?? []),
      { sequence: firstSequence + index, hash: entry.subarray(16), sealedAt },
    ]);
  }
  if (link.toString("hex") !== chain) problem(`unchained: the rows of seal ${number} do not make its chain`);
  link = Buffer.from(chain, "hex");
  previous = sha256(canonical(without(seal, "signature"))).toString("hex");
  next = firstSequence + rowCount;
}

// --- Row by row ---
const seen = new Set();
const purges = [];
let place = 0;
let verified = 0;
for (const { line, row } of rows) {
  const id = row.get("id");
  const sealed = only(row, MEMBERS);
  const hash = [...sealed.values()].includes(undefined) ? Buffer.alloc(32) : sha256(canonical(sealed));
  const open = (entries.get(id) ?? []).filter((one) => !seen.has(one));
  const entry = open.find((one) => one.hash.equals(hash)) ?? open[0];
  if (!entry) {
    problem(`inserted: line ${line}, row ${id} of ${row.get("createdAt")}`);
    continue;
  }
  seen.add(entry);
  if (row.get("sequence")?.text !== String(entry.sequence) || entry.sequence < place)
    problem(`reordered: line ${line}, row ${id} is number ${entry.sequence}`);
  place = Math.max(place, entry.sequence);
  if (!entry.hash.equals(hash)) {
    problem(`edited: line ${line}, row ${entry.sequence} (${id}) of ${row.get("createdAt")}`);
    continue;
  }
  verified++;
  if (row.get("action") !== "audit_log.purged" || row.get("resource") !== "audit_log") continue;
  const through = Number(row.get("changes").get("throughSequence"));
  const keptSince = Date.parse(row.get("changes").get("keptSince"));
  const latest = Math.min(Date.parse(row.get("createdAt")), Date.parse(entry.sealedAt)) - 90 * 86_400_000;
  if (keptSince <= latest) purges.push({ through, keptSince });
}
let purged = 0;
if (mode !== "--partial") {
  const missing = [...entries].flatMap(([id, all]) =>
    all.filter((one) => !seen.has(one)).map((one) => ({ id, ...one })),
  );
  const last = [...seen].reduce((most, { sequence }) => Math.max(most, sequence), 0);
  for (const { id, sequence, sealedAt } of missing) {
    if (purges.some(({ through, keptSince }) => sequence <= through && Date.parse(sealedAt) < keptSince))
      purged++;
    else problem(`${sequence > last ? "cut" : "deleted"}: row ${sequence} (${id}), sealed at ${sealedAt}`);
  }
}

for (const text of problems) console.log(text);
console.log(
  `${problems.length === 0 ? "intact" : "NOT INTACT"}: ${verified} rows of tenant ${tenantId} verified in ${lastNumber} seals, ${purged} gone by retention`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
