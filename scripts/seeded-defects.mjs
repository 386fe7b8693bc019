// The defects that scripts/mutants.mjs seeds.

/**
 * Each replaces `what`, which stands exactly once in the file, by `by`; `test` is the name with those of its groups.
 *
 * What comes out compiles: a defect that the compiler finds needs no test.
 */
export const mutants = [
  {
    name: "deadline-from-answer",
    says: "belief counts from the answer instead of the sending",
    file: "src/postgres/session.ts",
    what: "receiver?.replied(reply, this.#sentAt);",
    by: "receiver?.replied(reply, now());",
    caughtBy: {
      file: "test/integration/server-ttl-network.test.ts",
      test: "with shared sessions a holder whose network fails delays every packet: belief counts from the sending, not from the answer",
    },
  },
  {
    name: "no-deadline",
    says: "belief never ends by itself",
    file: "src/holding/held-lock.ts",
    what: "return this.#window.left;",
    by: "return this.#window.left === 0 ? 0 : Number.POSITIVE_INFINITY;",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, dedicated sessions, TTL enforced by the client keeps the contract of a Locker a lock that lapses aborts its signal, and is not held",
    },
  },
  {
    name: "token-without-flush",
    says: "a token's commit waits for the disk only where the server's settings say so",
    file: "src/postgres/sql.ts",
    what: "else pg_catalog.set_config('synchronous_commit', 'on', true) is not null end`",
    by: "else true end`",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with dedicated sessions a token is larger after a crash, if commits wait for no disk",
    },
  },
  {
    name: "shared-token-without-flush",
    says: "the same, for a lock on a session that carries many",
    file: "src/postgres/sql.ts",
    what: "{durable} then ",
    by: "{durable.slice(0, 0)}true then ",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with shared sessions a token is larger after a crash, if commits wait for no disk",
    },
  },
  {
    name: "token-without-message",
    says: "a token's transaction writes nothing, so that its commit waits for nothing",
    file: "src/postgres/sql.ts",
    what: "pg_catalog.pg_logical_emit_message(true, 'pg-locker', '')), 1, 8)",
    by: "pg_catalog.pg_current_wal_lsn()), 1, 8)",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with dedicated sessions a token is larger after a crash, if commits wait for no disk",
    },
  },
  {
    name: "token-without-timeline",
    says: "a token is a transaction id alone",
    file: "src/postgres/sql.ts",
    what: "1, 8))::pg_catalog.bit(32)::pg_catalog.int8 operator(pg_catalog.<<) 48)",
    by: "1, 8))::pg_catalog.bit(32)::pg_catalog.int8 operator(pg_catalog.*) 0)",
    caughtBy: {
      file: "test/integration/fencing.test.ts",
      test: "with shared sessions a promoted standby's token is larger than any of the old primary",
    },
  },
  {
    name: "unlock-answer-ignored",
    says: "a release succeeds, and returns its session, whether the lock was held or not",
    file: "src/sessions/dedicated-sessions.ts",
    what: "if (!wasHeld) throw",
    by: "if (wasHeld === undefined) throw",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a release of a lock that is gone says so, and destroys the session",
    },
  },
  {
    name: "session-returned-after-error",
    says: "a session whose try failed goes back to the pool, with a lock that it may have",
    file: "src/sessions/dedicated-sessions.ts",
    what: `      // An error says nothing about whether the lock was granted: session locks survive a failed statement.
      session.destroy(toError(error));`,
    by: "      session.return();",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a lock that was granted by a statement which then failed goes with its session",
    },
  },
  {
    name: "no-pid-check",
    says: "a pooler between is not seen",
    file: "src/sessions/dedicated-sessions.ts",
    what: 'const announced = pooler === "session" ? undefined',
    by: "const announced = pooler !== undefined ? undefined",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a session served by another backend than announced is refused, nothing locked",
    },
  },
  {
    name: "no-de-duplication",
    says: "a session that carries many locks is asked again for one that it has, and the server lets it",
    file: "src/sessions/shared-sessions.ts",
    what: "const first = this.#locks.get(request.id);",
    by: "const first = [this.#locks.get(request.id)].find(() => false);",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, shared sessions, TTL enforced by the client keeps the contract of a Locker a held key is refused, and tryAcquire answers undefined",
    },
  },
  {
    name: "readers-never-shut-out",
    says: "readers whose holding overlaps keep out a writer of another locker for ever",
    file: "src/postgres/sql-shared.ts",
    what: "{awaitedByWriters})) then 'f' else",
    by: "{awaitedByWriters})) then 't' else",
    caughtBy: {
      file: "test/integration/fairness.test.ts",
      test: "with shared sessions readers whose holding overlaps let in a writer that waits elsewhere",
    },
  },
  {
    name: "late-grant-kept",
    says: "what is granted in the server to a waiter that has left stays on its session",
    file: "src/waiting/attempt.ts",
    what: "void undo(grant, this.#around).then(() => this.#answered());",
    by: "this.#answered();",
    caughtBy: {
      file: "test/integration/waiting.test.ts",
      test: "with shared sessions a caller that waits and is aborted leaves nothing behind, at whatever point: a storm of 2,000",
    },
  },
  {
    name: "no-cancel-of-a-wait",
    says: "a waiter that leaves goes on waiting in the server, until the bound",
    file: "src/waiting/attempt.ts",
    what: "    this.cancel?.();\n",
    by: "",
    caughtBy: {
      file: "test/integration/waiting-aborts.test.ts",
      test: "a wait of acquire that is aborted rejects with the caller's reason at once, and ends in the server",
    },
  },
  {
    name: "fault-ends-a-wait",
    says: "a fault of the database ends a wait",
    file: "src/waiting/wait.ts",
    what: "if (ended || !isPassing(error, this.#around.hasConnected)) throw error;",
    by: "if (ended || isPassing(error, this.#around.hasConnected)) throw error;",
    caughtBy: {
      file: "test/integration/connections-taken.test.ts",
      test: "with shared sessions with all connections taken, whoever has one goes on, and nobody else gets in",
    },
  },
  {
    name: "no-reentrancy-check",
    says: "whoever waits for what it holds itself waits for ever",
    file: "src/waiting/admission.ts",
    what: "(around === undefined || Number.isFinite(wanted.wait))",
    by: "true",
    caughtBy: {
      file: "test/integration/contract.test.ts",
      test: "PostgresLocker, dedicated sessions, TTL enforced by the client keeps the contract of a Locker a wait inside withLock for the same key is not waited",
    },
  },
  {
    name: "no-id-collision-check",
    says: "two keys of one id are taken for one key",
    file: "src/holding/lock-registry.ts",
    what: "find((lock) => lock.key !== key)?.key",
    by: "find((lock) => lock.key !== key && lock.id !== id)?.key",
    caughtBy: {
      file: "test/integration/id-collision.test.ts",
      test: "with shared sessions a key whose id another key of the locker has is refused by name",
    },
  },
  {
    name: "ttl-in-a-transaction",
    says: "a lock is taken on a client in a transaction, where the server's TTL does not run",
    file: "src/sessions/dedicated-sessions.ts",
    what: "session.assertOutsideTransaction(doing);",
    by: "if (said.granted === null) session.assertOutsideTransaction(doing);",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "with a session for each lock a pool's client in a transaction is refused, and nothing is held",
    },
  },
  {
    name: "stale-continuation",
    says: "a late answer to a refresh counts, whatever became of the lock meanwhile",
    file: "src/holding/held-lock.ts",
    what: "if (this.#state !== state) throw this.#notHeld();",
    by: 'if (state.is !== "held") throw this.#notHeld();',
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a refresh answered after the lock was released says so, and revives nothing",
    },
  },
  {
    name: "revived-by-refresh",
    says: "a late answer to a refresh makes a lock held again that was closed meanwhile",
    file: "src/holding/held-lock.ts",
    what: "if (this.#state !== state) throw this.#notHeld();",
    by: "this.#state = state;",
    caughtBy: {
      file: "test/integration/mutants-targets.test.ts",
      test: "a refresh answered after the lock was closed says so, and revives nothing",
    },
  },
  {
    name: "shared-unlock-answer-ignored",
    says: "on a session that carries many locks, a release succeeds whether the lock was held or not",
    file: "src/sessions/shared-sessions.ts",
    what: 'if (answer === "1") {',
    by: "if (answer !== undefined) {",
    caughtBy: {
      file: "test/integration/shared-sessions-loss.test.ts",
      test: "locks that are freed behind their holders' backs by pg_advisory_unlock_all are all lost, as the first release says",
    },
  },
  {
    name: "shared-no-pid-check",
    says: "a pooler before a session that carries many locks is not seen",
    file: "src/sessions/shared-session.ts",
    what: "const announced = trustPooler ? undefined",
    by: "const announced = trustPooler !== undefined ? undefined",
    caughtBy: {
      file: "test/integration/shared-sessions-no-session.test.ts",
      test: "without a session to be had all who want one are told of the pooler in the way, and nothing is set or locked",
    },
  },
  {
    name: "released-twice",
    says: "a lock is given back by its holder, and again by its refresh that has no answer: then it is another's",
    file: "src/sessions/shared-lock.ts",
    what: "} else if (others === undefined) {",
    by: '} else if (others === undefined || this.state !== "held") {',
    caughtBy: {
      file: "test/integration/shared-session-races.test.ts",
      test: "a lock that is released while a refresh of it has no answer and is one of several shared ones leaves it to the others",
    },
  },
  {
    name: "session-not-proved-on-recovery",
    says: "a refresh beside what failed in the same statement succeeds without a proof",
    file: "src/sessions/statement-batches.ts",
    what: "isProof(operation) ? !isTaking(operation) : own.has(id)",
    by: "!isProof(operation) && own.has(id)",
    caughtBy: {
      file: "test/integration/shared-session-races.test.ts",
      test: "a refresh in a batch that fails is still a proof, and not after DISCARD ALL",
    },
  },
  {
    name: "commit-without-the-mark",
    says: "a transaction is committed that is not the one that took the lock",
    file: "src/postgres/sql-transaction.ts",
    what: "then 'held'",
    by: "then 'held' when true then 'held'",
    caughtBy: {
      file: "test/integration/transaction-state.test.ts",
      test: "a transaction of the locker's own, with node-postgres commits nothing after another has got the lock meanwhile",
    },
  },
  {
    name: "transaction-takes-its-lock-again",
    says: "two functions are inside at once, on one client",
    file: "src/postgres/sql-transaction.ts",
    what: "case when found.standby or found.mine then null",
    by: "case when found.standby then null",
    caughtBy: {
      file: "test/integration/transaction-state.test.ts",
      test: "a client of the caller's of two calls at once one is inside, and the other is told so",
    },
  },
  {
    name: "commits-what-was-left-open",
    says: "what an earlier user of the pool's client left in a transaction is committed with the function's own",
    file: "src/sessions/own-transactions.ts",
    what: "session.assertOutsideTransaction(doing);",
    by: "",
    caughtBy: {
      file: "test/integration/transaction-state.test.ts",
      test: "a transaction of the locker's own, with node-postgres a pool's client left in a transaction (begin; insert into written values ('left over')) is refused, and destroyed",
    },
  },
  {
    name: "lock-that-has-gone-is-not-looked-for",
    says: "a function that ends the caller's transaction is believed to have been under the lock",
    file: "src/sessions/callers-transaction.ts",
    what: "if (held) return;",
    by: "if (held || !held) return;",
    caughtBy: {
      file: "test/integration/transaction-state.test.ts",
      test: "a client of the caller's is told that the lock has gone with commit; begin in the function",
    },
  },
  {
    name: "wait-outlives-its-caller",
    says: "a transaction goes on waiting in the server when nobody wants its lock any more",
    file: "src/sessions/own-transactions.ts",
    what: "() => cancelStatement(session.client)",
    by: "() => Promise.resolve(cancelStatement).then(() => {})",
    caughtBy: {
      file: "test/integration/transaction-wait.test.ts",
      test: "a wait in a transaction of its own an abort, a bound that passes and a close() end it at once, without a trace",
    },
  },
  {
    name: "refusal-stays-in-the-transaction",
    says: "what was set for a lock that was refused stays in the caller's transaction",
    file: "src/sessions/conversation.ts",
    what: "await this.tell(rollbackToSavepoint);",
    by: 'await this.tell(rollbackToSavepoint && "select 1");',
    caughtBy: {
      file: "test/integration/transaction-ttl.test.ts",
      test: "a client of the caller's a refusal, and a wait that passes, leave its settings as they were",
    },
  },
  {
    name: "transaction-of-a-dead-link-lives",
    says: "a transaction's TTL passes, and its caller is not told",
    file: "src/sessions/transaction-heartbeat.ts",
    what: "if (this.#believes() <= 0) {",
    by: "if (this.#believes() <= Number.NEGATIVE_INFINITY) {",
    caughtBy: {
      file: "test/integration/transaction-ttl.test.ts",
      test: "a link that dies (the client is the caller's: false) while the function is at something else: the call rejects, the server frees the lock later, and nothing is committed",
    },
  },
  {
    name: "transaction-without-a-ttl-in-the-server",
    says: "the server never ends a transaction that nothing is heard of",
    file: "src/postgres/sql-transaction.ts",
    what: "is null then true",
    by: "is null or true then true",
    caughtBy: {
      file: "test/integration/transaction-ttl.test.ts",
      test: "a transaction of the locker's own has the default with ttlEnforcement: server, else only what is asked for",
    },
  },
  {
    name: "witness-by-a-try",
    says: "the witness of a recovery grace is looked for by a try, which somebody else's try refuses as well",
    file: "src/postgres/sql-recovery.ts",
    what: "isWitnessed(text(2))} end as is_old",
    by: "isWitnessed(text(2))} or not pg_catalog.pg_try_advisory_xact_lock(1885826155, $2::text::int4) end as is_old",
    caughtBy: {
      file: "test/integration/recovery-grace.test.ts",
      test: "with shared sessions, on a young server a try for the witness is none: two who ask at once learn nothing",
    },
  },
  {
    name: "crash-not-seen",
    says: "by the recovery grace, a lock table is as old as its postmaster",
    file: "src/postgres/sql-recovery.ts",
    what: "greatest(evidence.started, evidence.reset, evidence.promoted))\n",
    by: "greatest(evidence.started, evidence.promoted))\n",
    caughtBy: {
      file: "test/integration/recovery-grace.test.ts",
      test: "with shared sessions, on a young server a holder is a witness for newcomers as long as it has a session",
    },
  },
  {
    name: "promotion-not-seen",
    says: "by the recovery grace, a standby that was promoted is as old as it has run",
    file: "src/postgres/sql-recovery.ts",
    what: "greatest(evidence.started, evidence.reset, evidence.promoted))\n",
    by: "greatest(evidence.started, evidence.reset))\n",
    caughtBy: {
      file: "test/integration/recovery-grace.test.ts",
      test: "a server that was promoted, and not restarted since looks as old as its last checkpoint, or as it is to who knew it before",
    },
  },
  {
    name: "known-table-forgotten",
    says: "by the recovery grace, whoever is sent to another server takes its word for its age",
    file: "src/sessions/recovery-grace.ts",
    what: "const known = this.#known;\n    const values",
    by: 'const known = this.#known?.table === "" ? this.#known : undefined;\n    const values',
    caughtBy: {
      file: "test/integration/recovery-grace.test.ts",
      test: "contradictory evidence is another server that claims to be old: it counts as young",
    },
  },
  {
    name: "waits-without-recovery-grace",
    says: "a session on which callers wait in the server is not asked how old its lock table is",
    file: "src/sessions/waiting-session.ts",
    what: "await recovery?.refuses(session)",
    by: "await (enforced ? recovery : undefined)?.refuses(session)",
    caughtBy: {
      file: "test/integration/recovery-grace.test.ts",
      test: "a session on which callers wait in the server is asked as well, and is not waited on while the server is young",
    },
  },
];
