import { UserError } from "../config.ts";

export const isPortTaken = (log: string): boolean => /could not bind .*(Address already in use)/.test(log);

/** Backends outlive a killed postmaster for a moment, and PostgreSQL rightly waits for no one. */
export const hasLeftovers = (log: string): boolean =>
  /pre-existing shared memory block .* still in use/.test(log);

/** One sentence for people out of what PostgreSQL or initdb wrote before it gave up. */
export function explain(log: string, dataDir: string, logFile?: string): UserError {
  const lines = log
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  const known = rules.map(([pattern, sentence]) => {
    const line = lines.find((each) => pattern.test(each));
    return line && sentence(dataDir, message(line));
  });
  const worst =
    lines.findLast((line) => /\b(FATAL|PANIC):/.test(line)) ?? lines.findLast((line) => /error:/i.test(line));
  const last = worst ?? lines.at(-1);
  const sentence =
    known.find(Boolean) ??
    `PostgreSQL did not start in DATA_DIR (${dataDir}): ${last ? message(last) : "it wrote no reason"}.`;
  return new UserError(logFile ? `${sentence} More is in ${logFile}.` : sentence);
}

/** Without the time, process and severity, or the program's name, before it. */
const message = (line: string) =>
  line
    .replace(/^.*?\b(FATAL|PANIC|ERROR|LOG|WARNING|HINT|DETAIL):\s+/, "")
    .replace(/^(initdb|postgres|unshare): (error: )?/, "");

type Sentence = (dataDir: string, message: string) => string;
const rules: [RegExp, Sentence][] = [
  [
    /No space left on device|Disk quota exceeded/,
    (dataDir) => `The disk of DATA_DIR (${dataDir}) is full: free some space and start again.`,
  ],
  [
    /error while loading shared libraries/,
    (_, text) => `The PostgreSQL package is incomplete (${text}): run \`npm ci --ignore-scripts=false\`.`,
  ],
  [
    /database files are incompatible with server|initialized by PostgreSQL version/,
    (dataDir, text) =>
      `DATA_DIR (${dataDir}) holds a cluster of another PostgreSQL (${text}): set DATA_DIR=... to another folder.`,
  ],
  [
    /has wrong ownership/,
    (dataDir) =>
      `DATA_DIR (${dataDir}) belongs to another account: start as that account or set DATA_DIR=... to another folder.`,
  ],
  [
    /Read-only file system/,
    (dataDir) => `DATA_DIR (${dataDir}) is on a read-only disk: set DATA_DIR=... to another folder.`,
  ],
  [
    /Permission denied|Operation not permitted/,
    (dataDir, text) =>
      `PostgreSQL may not use its files in DATA_DIR (${dataDir}): ${text}; give the folder to the account that starts this.`,
  ],
  [/Cannot allocate memory/, (_, text) => `PostgreSQL did not get the memory that it needs: ${text}.`],
  [
    /pre-existing shared memory block .* still in use/,
    (dataDir) =>
      `Processes of a PostgreSQL that was killed still work in DATA_DIR (${dataDir}): wait until they end, or end them.`,
  ],
];
