// The report of a run, as lines of text.
import { faultKinds, ownFaults } from "./plan.mjs";

const longestList = 20;

export function planLines({ faults }) {
  return faults.map(({ at, kind, worker, lasts, amount }) => {
    const whom = worker === undefined ? "the server" : `worker ${worker}`;
    const how = amount === undefined ? "" : `, ${amount.toFixed(0)} ms`;
    return `${at.toFixed(0).padStart(9)} ms  ${whom.padEnd(11)} ${kind}${how}${lasts > 0 ? ` for ${lasts.toFixed(0)} ms` : ""}`;
  });
}

export function progressLine({ seconds, did, wrong, behind }) {
  const acquires = did.get("acquire") ?? 0;
  return `${(seconds / 60).toFixed(0).padStart(5)} min  ${acquires} acquires, ${wrong} wrong; judged up to ${(behind / 1_000).toFixed(1)} s ago`;
}

export function reportLines(run) {
  const { seconds, load, acquires, did, injected, court, half, leaks, samples, wrong, because, kinds } = run;
  const { rows, writes, unavailable } = court;
  const of = (what) => did.get(what) ?? 0;
  const tell = (name, text) => `  ${name.padEnd(14)}${text}`;
  const again = (text) => tell("", text);
  const ended = (why) => court.claims.reduce((sum, counts) => sum + (counts.get(why) ?? 0), 0);
  const claims = court.claims.map((counts) => [...counts.values()].reduce((sum, times) => sum + times, 0));
  const [before, after] = split(injected, half);
  const failed = [...did].filter(([what]) => what.startsWith("failed: "));
  const { worst, median } = unavailable;
  return [
    tell("acquires", `${acquires} in ${seconds.toFixed(0)} s, ${(acquires / seconds).toFixed(1)} a second`),
    again(`on a machine with a load of ${load.toFixed(1)} on average`),
    again(`of ${of("try")} tries and ${of("wait")} waits; ${of("contended")} tries contended`),
    again(
      `${of("acquireAll")} acquireAll, ${of("withLock")} withLock, ${of("withTransaction")} withTransaction`,
    ),
    tell("refreshes", `${of("refresh")} by hand`),
    tell("claims", `${claims[0]} while no session was ended from outside, ${claims[1]} afterwards`),
    again(
      `${ended("released")} released, ${ended("committed")} committed, ${ended("expired")} expired, ${ended("lost")} lost, ${ended("cut short")} killed`,
    ),
    again(`${court.readers} of them by readers; ${court.keptOverStall} held across a stall of more than 5 s`),
    tell("errors", ""),
    ...failed
      .sort(([, a], [, b]) => b - a)
      .map(([what, times]) => again(`${String(times).padStart(7)}  ${what.slice("failed: ".length)}`)),
    "",
    tell("faults", `${before.length} of the holders' own kinds, then ${after.length} of all kinds`),
    ...Object.entries(faultKinds).map(([kind, { does }]) => {
      const times = injected.filter((fault) => fault.kind === kind).length;
      const lacking = kinds.includes(kind) ? "" : ", which this machine doesn't allow";
      return again(`${String(times).padStart(7)}  ${kind.padEnd(18)} ${does}${lacking}`);
    }),
    again(`${String(of("left open")).padStart(7)}  transactions left open on clients of the pool`),
    "",
    tell(
      "overlaps",
      `${court.overlaps[0]} while no session was ended from outside, ${court.overlaps[1]} afterwards`,
    ),
    ...[...court.explained].map(([name, { times, longest }]) =>
      again(`${String(times).padStart(7)}  ${name}: at most ${longest.toFixed(1)} ms`),
    ),
    tell("server", `${samples} samples; a claim was looked up in one ${court.checks} times`),
    again(`${court.missing} missing; ${court.excused} after the session had been ended from outside`),
    again(
      `longest time a lock was there unclaimed: ${rows.longest.milliseconds.toFixed(0)} ms; at most ${(100 * rows.longest.ofAllowed).toFixed(0)} % of what its key allows`,
    ),
    tell("writes", `${writes.accepted} accepted, of them ${writes.wrong.length} stale`),
    again(`${of("write refused") + of("write late, refused")} late ones refused`),
    tell(
      "transactions",
      `${of("transaction committed, and there")} committed, ${of("transaction committed")} of them gone with an old primary`,
    ),
    again(
      `${of("transaction not committed")} not committed; of ${of("transaction unknown") + of("transaction unknown, and there")} without an answer, ${of("transaction unknown, and there")} were`,
    ),
    tell(
      "leaked",
      `${leaks.locks.length + leaks.locksAfter.length} locks, ${leaks.sessions.length} sessions`,
    ),
    tell(
      "unavailable",
      worst === undefined
        ? "never"
        : `a hot key for at most ${worst.milliseconds.toFixed(0)} ms from a fault on its holder to the next claim (${worst.fault.kind}); median ${median} ms`,
    ),
    "",
    ...list("WRONG", wrong),
    ...list("VOID", because),
    because.length > 0
      ? `void: this run proves nothing${wrong.length > 0 ? `, and ${wrong.length} wrong` : ""}`
      : wrong.length > 0
        ? `${wrong.length} wrong`
        : `${acquires} acquires, ${injected.length} faults of ${kinds.length} kinds (${kinds.filter((kind) => kind in ownFaults).length} of them the holders' own), nothing wrong`,
  ];
}

export function list(name, sentences) {
  const more = sentences.length - longestList;
  return [
    ...sentences.slice(0, longestList).map((sentence) => `  ${name}  ${sentence}`),
    ...(more > 0 ? [`  ${name}  and ${more} more`] : []),
  ];
}

const split = (things, half) => [things.filter(({ at }) => at < half), things.filter(({ at }) => at >= half)];
