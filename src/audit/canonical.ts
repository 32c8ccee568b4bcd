/**
 * Canonical JSON by RFC 8785 with one difference: a number is the text that it is written as, not the double nearest to
 * it, so that the 18th digit counts. docs/audit-format.md.
 */
export function canonical(text: string): string {
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.end();
  return value;
}

/** The members of a JSON object, each value in canonical form, by their names. */
export function canonicalMembers(text: string): Map<string, string> {
  const reader = new Reader(text);
  const members = reader.members();
  reader.end();
  return new Map(members.map(({ key, text: member, name }) => [key, member.slice(name.length + 1)]));
}

const MAX_DEPTH = 100;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON has them escaped only
const STRING = /"[^"\\\u0000-\u001f]*(?:\\.[^"\\\u0000-\u001f]*)*"/y;
const SPACE = /[ \t\n\r]*/y;

type Member = { key: string; name: string; text: string };

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): string {
    if (depth > MAX_DEPTH) throw this.#problem("is nested too deeply");
    this.#take(SPACE);
    switch (this.#text[this.#at]) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
      case '"':
        return this.#string();
      case "t":
        return this.#word("true");
      case "f":
        return this.#word("false");
      case "n":
        return this.#word("null");
      default: {
        const number = this.#take(NUMBER);
        if (!number) throw this.#problem("has something that is no value");
        return number;
      }
    }
  }

  end(): void {
    this.#take(SPACE);
    if (this.#at < this.#text.length) throw this.#problem("has something behind its value");
  }

  members(): Member[] {
    this.#take(SPACE);
    this.#word("{");
    return this.#members(0);
  }

  #object(depth: number): string {
    this.#at++;
    let text = "";
    for (const member of this.#members(depth)) text += text === "" ? member.text : `,${member.text}`;
    return `{${text}}`;
  }

  #members(depth: number): Member[] {
    const members: Member[] = [];
    let sorted = true;
    this.#take(SPACE);
    if (this.#text[this.#at] === "}") {
      this.#at++;
      return members;
    }
    for (;;) {
      this.#take(SPACE);
      const name = this.#string();
      const key: string = JSON.parse(name);
      this.#take(SPACE);
      this.#word(":");
      const last = members.at(-1);
      members.push({ key, name, text: `${name}:${this.value(depth + 1)}` });
      // JavaScript orders strings by UTF-16 code units, as RFC 8785 does.
      if (last !== undefined && last.key >= key) sorted = false;
      if (!this.#goesOn("}")) break;
    }
    if (!sorted) {
      members.sort((one, other) => (one.key < other.key ? -1 : 1));
      if (members.some(({ key }, index) => index > 0 && members[index - 1]?.key === key))
        throw this.#problem("has one key twice");
    }
    return members;
  }

  #array(depth: number): string {
    this.#at++;
    this.#take(SPACE);
    if (this.#text[this.#at] === "]") {
      this.#at++;
      return "[]";
    }
    let text = this.value(depth + 1);
    while (this.#goesOn("]")) text += `,${this.value(depth + 1)}`;
    return `[${text}]`;
  }

  #goesOn(end: string): boolean {
    this.#take(SPACE);
    const next = this.#text[this.#at++];
    if (next !== "," && next !== end) throw this.#problem(`lacks "," or "${end}"`);
    return next === ",";
  }

  #string(): string {
    const token = this.#take(STRING);
    if (!token) throw this.#problem("has something that is no text");
    return token.includes("\\") ? JSON.stringify(JSON.parse(token)) : token;
  }

  #word(word: string): string {
    if (!this.#text.startsWith(word, this.#at)) throw this.#problem(`lacks "${word}"`);
    this.#at += word.length;
    return word;
  }

  #take(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const [token = ""] = pattern.exec(this.#text) ?? [];
    this.#at += token.length;
    return token;
  }

  #problem(what: string): Error {
    return new Error(`This JSON ${what}, at character ${this.#at + 1}.`);
  }
}
