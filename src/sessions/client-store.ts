import type { SessionClient } from "../contract/clients.ts";
import type { ClientLocks } from "./client-locks.ts";
import { type Grant, type LockRequest, type LockStore, type TryListener, tell } from "./grant.ts";

/** The store for locks on a caller's client. A wait begins in the server at once, because the caller may have a transaction open. */
export class ClientStore implements LockStore<Grant> {
  readonly bringsPlace = true;
  readonly skipsLine = true;
  readonly #locks: ClientLocks;
  readonly #client: SessionClient;

  constructor(locks: ClientLocks, client: SessionClient) {
    this.#locks = locks;
    this.#client = client;
  }

  tryLock(request: LockRequest, listener: TryListener<Grant>): void {
    tell(listener, this.#locks.tryLock(this.#client, request));
  }

  hasPlaceToWait(): boolean {
    return true;
  }

  waitLock(request: LockRequest, bound: number, listener: TryListener<Grant>): void {
    tell(listener, this.#locks.waitLock(this.#client, request, bound));
  }
}
