// What the callers of a worker believe to hold. Whenever a holder asks `held` and hears true, that is in the journal, with a time that
// was read before the asking: it held then or later. All are asked together over and over, before each step, and all through a blocked
// event loop.
import { LockExpiredError, LockNotHeldError } from "../dist/index.js";

/** Milliseconds between two rounds of asking. */
const pause = 4;

export class Beliefs {
  #journal;
  #now;
  #live = new Set();
  #count = 0;
  #asking;

  /** @param journal a `Journal` @param now the clock */
  constructor({ journal, now }) {
    this.#journal = journal;
    this.#now = now;
  }

  start() {
    this.#asking = setInterval(() => this.askAll(), pause);
  }

  /** The last time is in the journal, with what was counted. */
  stop() {
    clearInterval(this.#asking);
    this.askAll();
  }

  id() {
    this.#count += 1;
    return this.#count;
  }

  /** A lock was granted that was asked for at that time. `undefined`: it was over when the news came. */
  begin(lock, { key, asked }) {
    this.#journal.count("acquire");
    const at = this.#now();
    if (!lock.held) {
      this.#journal.count("a grant that was over when the news of it came");
      this.unclaimed(key);
      return { id: this.id(), key, lock, isOver: true, isNoted: false, last: at };
    }
    const claim = { id: this.id(), key, lock, isOver: false, isNoted: true, last: at };
    const { fencingToken: token, mode: how, ttl } = lock;
    this.#journal.note("claim", { how, key, of: claim.id, at, since: asked, token, ttl: Math.ceil(ttl) });
    this.#live.add(claim);
    return claim;
  }

  /** An attempt at a key is over without a claim. Its lock may have been granted all the same. */
  unclaimed(key) {
    this.#journal.note("unclaimed", { key, at: this.#now() });
  }

  /** Asks one. */
  asks(claim) {
    const at = this.#now();
    if (claim.lock.held) {
      if (claim.isOver) this.#journal.wrong(`believed again: claim ${claim.id} of key ${claim.key}`);
      claim.last = at;
      return true;
    }
    this.#isOver(claim);
    return false;
  }

  /** Asks before something is decided, which is in the journal at once. */
  decides(claim) {
    if (!this.asks(claim)) return false;
    this.#journal.note("held", { of: claim.id, at: claim.last });
    return true;
  }

  /** From here on it is asked no more: its holder is about to give it back. */
  leave(claim) {
    this.asks(claim);
    this.#isOver(claim, { byChoice: true });
  }

  /** How a claim ended, by what its release rejected with; `undefined`: it was released. */
  end(claim, error) {
    const why = error === undefined ? "released" : this.#why(claim, error);
    if (claim.isNoted) this.#journal.note("end", { of: claim.id, how: why });
    return why;
  }

  askAll() {
    const at = this.#now();
    for (const claim of this.#live) {
      if (claim.lock.held) claim.last = Math.max(claim.last, at);
      else this.#isOver(claim);
    }
    this.#journal.tick(at);
  }

  #isOver(claim, { byChoice = false } = {}) {
    if (!byChoice) claim.isOver = true;
    if (!this.#live.delete(claim)) return;
    this.#journal.note("over", { of: claim.id, at: claim.last });
  }

  #why(claim, error) {
    const { signal } = claim.lock;
    // Whoever stopped believing by itself is told by the signal, at the latest when the release says so.
    if (claim.isOver && error instanceof LockNotHeldError && error.reason !== "released" && !signal.aborted)
      this.#journal.wrong(
        `claim ${claim.id} of key ${claim.key} was ${error.reason}, and its signal is silent`,
      );
    return signal.aborted && signal.reason instanceof LockExpiredError ? "expired" : "lost";
  }
}
