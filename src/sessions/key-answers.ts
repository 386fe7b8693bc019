import { connectBeside } from "../postgres/beside.ts";
import { canConnectBeside, type Pool } from "../postgres/driver.ts";
import { type KeyedLock, keyMessages } from "../postgres/key-message.ts";
import { hearNotifications } from "../postgres/notifications.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  isReplyChannel,
  listenForQuestions,
  notify,
  questionChannel,
  stopListening,
} from "../postgres/sql-answers.ts";
import { unrefed } from "../runtime/clock.ts";

/** A session that carries locks. */
interface Carrier {
  readonly session: Session;
  /** Its backend. */
  readonly pid: number;
  /** The locks that it has, or is about to have. */
  readonly locks: () => Iterable<KeyedLock>;
}

//   nobody ──a session has been open for `patience`──▶ listening ──it leaves, or has gone──▶ nobody
//                                                          └──the server can't──▶ mute
type State =
  | { readonly is: "nobody"; readonly timer?: NodeJS.Timeout | undefined }
  | {
      readonly is: "listening";
      readonly carrier: Carrier;
      readonly asked: Promise<unknown>;
      readonly end: () => void;
    }
  | { readonly is: "mute" };

/** Milliseconds that a session is open before anybody listens on it: most are gone by then. */
const patience = 1_000;
/** Milliseconds to connect for an answer, and for the answer itself. */
const answerTime = 2_000;
/** The most questions that are kept while another is being answered. An asker that gets no answer shows lock ids. */
const mostQuestions = 8;

/**
 * Tells the keys of the locks on a locker's shared sessions to whoever asks, such as `pg-locker ls`: PostgreSQL itself knows only their
 * ids. It costs an acquire nothing: one of the sessions listens for questions, with a statement of its own once it has been open for a
 * second. An answer goes over a new connection beside the pool, because PostgreSQL writes notifications one at a time, and a session with
 * locks must wait for nobody.
 *
 * PostgreSQL up to 18 wakes every listening session at every notification in its database, on whatever channel: about 12 µs of server
 * time for each locker (measured). That is why only one session of a locker listens, and why this can be turned off.
 */
export class KeyAnswers {
  readonly #pool: Pool;
  readonly #namespace: number;
  readonly #carriers = new Set<Carrier>();
  readonly #questions = new Set<string>();
  #state: State = { is: "nobody" };
  #isAnswering = false;

  constructor({ pool, namespace }: { pool: Pool; namespace: number }) {
    this.#pool = pool;
    this.#namespace = namespace;
    if (!canConnectBeside(pool)) this.#state = { is: "mute" };
  }

  /** Called when a session has been opened. It is forgotten when it has gone. */
  join(carrier: Carrier): void {
    this.#carriers.add(carrier);
    carrier.session.onGone(() => this.#forget(carrier.session));
    this.#wait();
  }

  /**
   * Called before a session goes back to its pool; afterwards it no longer listens.
   *
   * @throws {DatabaseError} it may still listen; then it must not go back
   */
  async leave(session: Session): Promise<void> {
    const state = this.#state;
    this.#forget(session);
    if (state.is !== "listening" || state.carrier.session !== session) return;
    await state.asked;
    await session.command("Returning a session", stopListening, statementDeadline);
  }

  #forget(session: Session): void {
    for (const carrier of this.#carriers) if (carrier.session === session) this.#carriers.delete(carrier);
    const state = this.#state;
    if (state.is === "listening" && state.carrier.session === session) {
      state.end();
      this.#state = { is: "nobody" };
      this.#wait();
    } else if (state.is === "nobody" && this.#carriers.size === 0) {
      clearTimeout(state.timer);
      this.#state = { is: "nobody" };
    }
  }

  #wait(): void {
    if (this.#state.is !== "nobody" || this.#state.timer !== undefined || this.#carriers.size === 0) return;
    this.#state = { is: "nobody", timer: unrefed(setTimeout(() => this.#listen(), patience)) };
  }

  #listen(): void {
    const [carrier] = this.#carriers;
    this.#state = { is: "nobody" };
    if (carrier === undefined) return;
    const { session } = carrier;
    const end = hearNotifications(session.client, questionChannel, (asked) => this.#hear(asked));
    const asked = session.command("Listening", listenForQuestions, statementDeadline).catch(() => {
      // Another session takes the place of one that has gone. Other servers that speak the protocol may have no notifications.
      if (session.goneBecause !== undefined) return;
      end();
      if (this.#state.is === "listening" && this.#state.carrier === carrier) this.#state = { is: "mute" };
    });
    this.#state = { is: "listening", carrier, asked, end };
  }

  /** @param question the channel for the answer, or what somebody else has sent */
  #hear(question: string): void {
    if (!isReplyChannel(question) || this.#questions.size >= mostQuestions) return;
    this.#questions.add(question);
    if (!this.#isAnswering) void this.#answer();
  }

  /** Answers the questions. Never rejects: an asker that gets no answer in time goes without. */
  async #answer(): Promise<void> {
    this.#isAnswering = true;
    try {
      const own = await connectBeside(
        this.#pool,
        { doing: "Telling keys", milliseconds: answerTime },
        (client) => client.unref?.(),
      );
      try {
        for (const channel of this.#questions) {
          this.#questions.delete(channel);
          const payloads = [...this.#carriers].flatMap(({ pid, locks }) =>
            keyMessages(pid, { namespace: this.#namespace, locks: locks() }),
          );
          await own.session.run("Telling keys", notify, [channel, JSON.stringify(payloads)], answerTime);
        }
      } finally {
        await own.end();
      }
    } catch {
      this.#questions.clear();
    } finally {
      this.#isAnswering = false;
    }
    if (this.#questions.size > 0) void this.#answer();
  }
}
