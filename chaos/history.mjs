// Puts the workers' journals and the observer's samples in order while the run goes on, and passes them to the judge: each claim once it has
// ended, in the order in which the claims began, and each sample once all claims that it may show are known. Then it forgets them.
//
//     journals ──▶ claims that have ended ──▶ up to the *horizon*, in order ──▶ judges
//     samples  ──────────────────────────────▶ up to the horizon
//
// The horizon is the earliest time at which an unfinished claim may have begun: the start of a claim that is still held, or of a transaction
// whose commit is still unknown; the last time that a worker has written down; or now.
import { rmSync } from "node:fs";
// biome-ignore lint/correctness/useImportExtensions: the JavaScript is imported, not the declarations beside it
import { JournalReader } from "./journal.mjs";

/** Milliseconds between two ticks of a worker whose event loop is on time. */
const onTime = 50;
/** Milliseconds after which a transaction whose caller got no answer, or was killed, has certainly ended. */
const settling = 3_000;

export class History {
  /** The workers' counts, by name. */
  did = new Map();
  wrong = [];
  #keys;
  #keep;
  #now;
  #judge;
  #committed;
  #lives = [];
  #ended = [];
  #samples = [];
  #unknown = [];
  #asking;

  /**
   * @param keys with the name of each @param keep whether the journals are kept @param now the clock
   * @param judge has `claim(claim, samples)`, `span(span)`, `late(span)` and `sample(sample)`
   * @param committed returns which of the given transactions were committed
   */
  constructor({ keys, keep, now, judge, committed }) {
    this.#keys = keys;
    this.#keep = keep;
    this.#now = now;
    this.#judge = judge;
    this.#committed = committed;
  }

  /** Records that a worker is about to begin. Returns a function to call when it has ended. */
  life({ worker, journal, writer }) {
    const life = {
      worker,
      journal,
      writer,
      reader: new JournalReader(journal),
      seen: this.#now(),
      claims: new Map(),
      spans: new Map(),
      transactions: new Map(),
      hasEnded: false,
    };
    this.#lives.push(life);
    return () => {
      life.hasEnded = true;
    };
  }

  sample(sample) {
    this.#samples.push(sample);
  }

  /** Judges everything that can be judged by now. */
  advance() {
    const now = this.#now();
    for (const life of this.#lives) this.#read(life);
    this.#lives = this.#lives.filter((life) => !life.isRead);
    this.#lookUp();
    const horizon = Math.min(
      now,
      ...this.#lives.map(({ seen }) => seen),
      ...this.#lives.flatMap(({ claims, spans, transactions }) =>
        [claims, spans, transactions].flatMap((each) => [...each.values()].map(({ start }) => start)),
      ),
      ...this.#unknown.map(({ claim }) => claim.start),
    );
    const isDue = ({ start }) => start < horizon;
    const due = this.#ended.filter(isDue).sort((a, b) => a.start - b.start);
    this.#ended = this.#ended.filter((each) => !isDue(each));
    for (const each of due) {
      if (each.isSpan) this.#judge.span(each);
      else this.#judge.claim(each, this.#samples);
    }
    const from = this.#samples.findIndex(({ to }) => to >= horizon);
    for (const sample of this.#samples.splice(0, from === -1 ? this.#samples.length : from))
      this.#judge.sample(sample);
    return now - horizon;
  }

  /** Judges the rest, once all workers have ended. */
  async finish() {
    for (;;) {
      this.advance();
      if (this.#lives.length === 0 && this.#unknown.length === 0 && this.#ended.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  #read(life) {
    const isLast = life.hasEnded;
    for (const record of life.reader.read()) this.#take(life, record);
    if (!isLast) return;
    life.isRead = true;
    life.reader.close();
    if (!this.#keep) rmSync(life.journal, { force: true });
    for (const claim of life.claims.values()) this.#ended.push({ ...claim, why: "cut short" });
    for (const span of life.spans.values()) this.#ended.push({ ...span, end: life.seen });
    for (const transaction of life.transactions.values())
      this.#unknown.push({ ...transaction, since: this.#now() });
  }

  #take(life, { what, how, key: place, of, at, since, token, ttl, more, text }) {
    const { worker, claims, spans, transactions } = life;
    const key = this.#keys[place]?.name;
    switch (what) {
      case "tick":
        // The event loop was late by this much, as on a machine that is too busy.
        if (at - life.seen > onTime) this.#judge.late({ worker, start: life.seen + onTime, end: at });
        life.seen = at;
        for (const claim of claims.values()) if (!claim.isOver) claim.end = Math.max(claim.end, at);
        for (const { claim, hasLeft } of transactions.values()) if (!hasLeft) claim.end = at;
        return;
      case "claim": {
        const timeline = Number(token >> 48n);
        const times = { asked: since, start: at, end: at };
        claims.set(of, {
          worker,
          key,
          mode: how,
          ttl,
          token,
          timeline,
          ...times,
          why: undefined,
          refused: [],
        });
        return;
      }
      case "held":
      case "over": {
        const claim = claims.get(of);
        if (claim === undefined) return;
        claim.end = Math.max(claim.end, at);
        claim.isOver ||= what === "over";
        return;
      }
      case "end": {
        const claim = claims.get(of);
        if (claim === undefined) return;
        claims.delete(of);
        claim.why = how;
        this.#ended.push(claim);
        return;
      }
      case "put":
        count(this.did, `write ${how}`);
        if (how === "refused") claims.get(of)?.refused.push({ from: since, to: at });
        return;
      case "pending":
        spans.set(of, { worker, key, start: at, isSpan: true });
        return;
      case "settled":
        this.#ended.push({ ...spans.get(of), end: at });
        spans.delete(of);
        return;
      case "unclaimed":
        this.#ended.push({ worker, key, start: at, end: at, isSpan: true });
        return;
      case "entered": {
        const times = { asked: since, start: at, end: at };
        const claim = {
          worker,
          key,
          mode: "exclusive",
          ttl,
          token: undefined,
          timeline: more,
          ...times,
          refused: [],
        };
        transactions.set(of, {
          id: `${life.writer}-${of}`,
          claim,
          start: at,
          hasLeft: false,
          how: "unknown",
        });
        return;
      }
      case "left": {
        const transaction = transactions.get(of);
        transaction.hasLeft = true;
        transaction.claim.end = at;
        return;
      }
      case "outcome": {
        const transaction = transactions.get(of);
        if (transaction === undefined) return;
        transactions.delete(of);
        this.#unknown.push({ ...transaction, how, since: at });
        return;
      }
      case "count":
        count(this.did, text, more);
        return;
      default:
        this.wrong.push(`worker ${worker}: ${text}`);
    }
  }

  /** Asks the database which of the finished transactions were committed. */
  #lookUp() {
    if (this.#asking !== undefined) return;
    const now = this.#now();
    const due = this.#unknown.filter(({ how, since }) => how !== "unknown" || now - since > settling);
    if (due.length === 0) return;
    this.#asking = this.#committed(due.map(({ id }) => id))
      .then((committed) => {
        for (const transaction of due) this.#judgeTransaction(transaction, committed.has(transaction.id));
        const asked = new Set(due);
        this.#unknown = this.#unknown.filter((each) => !asked.has(each));
      })
      // The question is asked again later.
      .catch(() => {})
      .finally(() => {
        this.#asking = undefined;
      });
  }

  /** Judges a transaction. If it is in the database, it is a claim from the start to the end of its function. */
  #judgeTransaction({ claim, how, since }, isThere) {
    count(this.did, `transaction ${how}${isThere ? ", and there" : ""}`);
    this.#judge.transaction({ claim, how, isThere, settled: since });
    if (isThere || how === "committed") this.#ended.push({ ...claim, why: "committed" });
  }
}

function count(counts, what, more = 1) {
  counts.set(what, (counts.get(what) ?? 0) + more);
}
