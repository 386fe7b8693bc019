// The claims of a worker's callers. Whenever a holder reads `held` as true, the journal records it with a time that was read before
// `held`, so the lock was held then or later. `held` is read for all claims at intervals, before each step of a holder, and throughout a
// blocked event loop.
import { LockExpiredError, LockNotHeldError } from "../dist/index.js";

/** Milliseconds between two rounds of reading `held`. */
const pause = 4;

export class Claims {
  #journal;
  #now;
  #live = new Set();
  #count = 0;
  #checking;

  /** @param journal a `Journal` @param now the clock */
  constructor({ journal, now }) {
    this.#journal = journal;
    this.#now = now;
  }

  start() {
    this.#checking = setInterval(() => this.checkAll(), pause);
  }

  /** Writes the last tick and the counts to the journal. */
  stop() {
    clearInterval(this.#checking);
    this.checkAll();
  }

  id() {
    this.#count += 1;
    return this.#count;
  }

  /** Begins a claim on a lock that was requested at the time `asked`. If the lock is over already, the claim is, too, and not in the journal. */
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

  /** Reads `held` for one claim. */
  check(claim) {
    const at = this.#now();
    if (claim.lock.held) {
      if (claim.isOver) this.#journal.wrong(`claimed again: claim ${claim.id} of key ${claim.key}`);
      claim.last = at;
      return true;
    }
    this.#isOver(claim);
    return false;
  }

  /** Reads `held` before the holder decides something, and writes the result to the journal at once. */
  checkAndNote(claim) {
    if (!this.check(claim)) return false;
    this.#journal.note("held", { of: claim.id, at: claim.last });
    return true;
  }

  /** Stops reading `held` for a claim, because its holder is about to release the lock. */
  giveUp(claim) {
    this.check(claim);
    this.#isOver(claim, { byChoice: true });
  }

  /** Records how a claim ended. `error`: what its release rejected with; `undefined` if it was released. */
  end(claim, error) {
    const why = error === undefined ? "released" : this.#why(claim, error);
    if (claim.isNoted) this.#journal.note("end", { of: claim.id, how: why });
    return why;
  }

  checkAll() {
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
    // A holder that stopped relying on its lock by itself must be told by the signal, at the latest when the release fails.
    if (claim.isOver && error instanceof LockNotHeldError && error.reason !== "released" && !signal.aborted)
      this.#journal.wrong(
        `claim ${claim.id} of key ${claim.key} was ${error.reason}, and its signal is silent`,
      );
    return signal.aborted && signal.reason instanceof LockExpiredError ? "expired" : "lost";
  }
}
