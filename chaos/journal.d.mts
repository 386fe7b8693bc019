/** The fields of a record, each with what it is if it isn't given. See journal.mjs. */
export interface Noted {
  readonly how?: string;
  readonly key?: number;
  readonly of?: number;
  readonly at?: number;
  readonly since?: number;
  readonly token?: bigint;
  readonly ttl?: number;
  readonly more?: number;
}

export class Journal {
  constructor(path: string);
  note(what: string, facts: Noted): void;
  count(name: string): void;
  wrong(sentence: string): void;
  tick(at: number): void;
}
