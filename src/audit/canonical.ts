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
  const members = reader.members(0);
  reader.end();
  return new Map(members.map(({ key, value }) => [key, value]));
}

/** What PostgreSQL can nest, and our stack holds. */
const MAX_DEPTH = 1_000;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const [TAB, LINE_FEED, RETURN, SPACE, QUOTE, COMMA, COLON] = [9, 10, 13, 32, 34, 44, 58];
const [OPEN_BRACKET, BACKSLASH, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [91, 92, 93, 123, 125];

/** `name`: the key, as it is written. */
type Member = { key: string; name: string; value: string };

/** Every row that is sealed or verified comes through here: character codes, where expressions took three times as long. */
class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): string {
    if (depth > MAX_DEPTH) throw this.#complaint("is nested too deeply");
    this.#space();
    switch (this.#text.charCodeAt(this.#at)) {
      case OPEN_BRACE: {
        let text = "";
        for (const { name, value } of this.members(depth))
          text += text === "" ? `${name}:${value}` : `,${name}:${value}`;
        return `{${text}}`;
      }
      case OPEN_BRACKET:
        return this.#array(depth);
      case QUOTE:
        return this.#string();
      case 116:
        return this.#word("true");
      case 102:
        return this.#word("false");
      case 110:
        return this.#word("null");
      default:
        return this.#number();
    }
  }

  members(depth: number): Member[] {
    const members: Member[] = [];
    let sorted = true;
    this.#space();
    this.#character(OPEN_BRACE);
    if (this.#ends(CLOSE_BRACE)) return members;
    for (let last = ""; ; ) {
      this.#space();
      const name = this.#string();
      const key: string = name.includes("\\") ? JSON.parse(name) : name.slice(1, -1);
      this.#space();
      this.#character(COLON);
      // JavaScript orders strings by UTF-16 code units, as RFC 8785 does.
      if (members.length > 0 && last >= key) sorted = false;
      last = key;
      members.push({ key, name, value: this.value(depth + 1) });
      if (this.#ends(CLOSE_BRACE)) break;
      this.#character(COMMA);
    }
    if (!sorted) {
      members.sort((one, other) => (one.key < other.key ? -1 : 1));
      if (members.some(({ key }, index) => index > 0 && members[index - 1]?.key === key))
        throw this.#complaint("has one key twice");
    }
    return members;
  }

  end(): void {
    this.#space();
    if (this.#at < this.#text.length) throw this.#complaint("has something behind its value");
  }

  #array(depth: number): string {
    this.#at++;
    if (this.#ends(CLOSE_BRACKET)) return "[]";
    let text = this.value(depth + 1);
    while (!this.#ends(CLOSE_BRACKET)) {
      this.#character(COMMA);
      text += `,${this.value(depth + 1)}`;
    }
    return `[${text}]`;
  }

  #string(): string {
    const start = this.#at;
    if (this.#text.charCodeAt(start) !== QUOTE) throw this.#complaint("has something that is no text");
    for (let end = start + 1; ; end++) {
      end = this.#text.indexOf('"', end);
      if (end < 0) throw this.#complaint("has a text without an end");
      let slashes = 0;
      while (this.#text.charCodeAt(end - 1 - slashes) === BACKSLASH) slashes++;
      if (slashes % 2 === 1) continue;
      this.#at = end + 1;
      const token = this.#text.slice(start, end + 1);
      return token.includes("\\") ? JSON.stringify(JSON.parse(token)) : token;
    }
  }

  #number(): string {
    NUMBER.lastIndex = this.#at;
    const [number] = NUMBER.exec(this.#text) ?? [];
    if (!number) throw this.#complaint("has something that is no value");
    this.#at += number.length;
    return number;
  }

  #word(word: string): string {
    if (!this.#text.startsWith(word, this.#at)) throw this.#complaint(`lacks "${word}"`);
    this.#at += word.length;
    return word;
  }

  #ends(character: number | undefined): boolean {
    this.#space();
    const ends = this.#text.charCodeAt(this.#at) === character;
    if (ends) this.#at++;
    return ends;
  }

  #character(character: number | undefined) {
    if (this.#text.charCodeAt(this.#at) !== character)
      throw this.#complaint(`lacks "${String.fromCharCode(character ?? 0)}"`);
    this.#at++;
  }

  #space() {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== SPACE && code !== LINE_FEED && code !== TAB && code !== RETURN) return;
      this.#at++;
    }
  }

  #complaint(what: string): Error {
    return new Error(`This JSON ${what}, at character ${this.#at + 1}.`);
  }
}
