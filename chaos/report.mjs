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

export function reportLines(run) {
  const { seconds, acquires, did, failed, claims, puts, injected, overlaps, half, server, rows } = run;
  const { stale, writes, leaks, unavailable, samples, wrong, because, kinds } = run;
  const of = (what) => did.get(what) ?? 0;
  const tell = (name, text) => `  ${name.padEnd(14)}${text}`;
  const again = (text) => tell("", text);
  const ended = (why) => claims.filter((claim) => claim.why === why).length;
  const outcome = (how, what) => puts.filter((put) => put.how === how && put.outcome === what).length;
  const [first, second] = split(overlaps, half);
  const [early, late] = split(
    claims.map(({ start }) => ({ at: start })),
    half,
  );
  const [before, after] = split(injected, half);
  const worst = unavailable.reduce((a, b) => (b.milliseconds > (a?.milliseconds ?? 0) ? b : a), undefined);
  return [
    tell("acquires", `${acquires} in ${seconds.toFixed(0)} s, ${(acquires / seconds).toFixed(1)} a second`),
    again(`${early.length} claims while no session was ended by others, ${late.length} afterwards`),
    again(`of ${of("try")} tries and ${of("wait")} waits; ${of("contended")} tries contended`),
    tell("refreshes", `${of("refresh")} by hand`),
    tell("releases", `${of("release")}`),
    tell(
      "claims",
      `${claims.length}: ${ended("released")} released, ${ended("expired")} expired, ${ended("lost")} lost, ${ended("cut short")} killed`,
    ),
    tell("errors", ""),
    ...sorted(failed).map(([what, times]) => again(`${String(times).padStart(6)}  ${what}`)),
    "",
    tell("faults", `${before.length} of the holders' own, then ${after.length} with those of others`),
    ...Object.entries(faultKinds).map(([kind, { does }]) => {
      const times = injected.filter((fault) => fault.kind === kind).length;
      const lacking = kinds.includes(kind) ? "" : ", which this machine doesn't allow";
      return again(`${String(times).padStart(6)}  ${kind.padEnd(18)} ${does}${lacking}`);
    }),
    "",
    tell("overlaps", `${first.length} while no session was ended by others, ${second.length} afterwards`),
    ...overlapLines(second).map(again),
    tell("server", `${samples.length} samples; ${server.checks} times a claim was looked for in one`),
    again(`${server.wrong.length} missing; ${server.excused} after others had ended the session`),
    again(`longest time a lock was there unclaimed: ${rows.longest.toFixed(0)} ms`),
    tell("writes", `${writes.length} accepted, of them ${stale.length} stale`),
    again(`${outcome("late", "refused") + outcome("decided", "refused")} late ones refused`),
    tell(
      "leaked",
      `${leaks.locks.length + leaks.locksAfter.length} locks, ${leaks.sessions.length} sessions`,
    ),
    tell(
      "unavailable",
      worst === undefined
        ? "never"
        : `at most ${worst.milliseconds.toFixed(0)} ms from a fault on a holder to the next claim (${worst.fault.kind}); median ${median(unavailable).toFixed(0)} ms`,
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

function overlapLines(overlaps) {
  const kinds = new Map();
  for (const overlap of overlaps) {
    const name = `${overlap.kind ?? "unexplained"}, the holder ${overlap.warned ? "found out" : "believed to the end of its TTL"}`;
    kinds.set(name, [...(kinds.get(name) ?? []), overlap.milliseconds]);
  }
  return [...kinds].map(
    ([name, times]) =>
      `${String(times.length).padStart(6)}  ${name}: at most ${Math.max(...times).toFixed(1)} ms`,
  );
}

function list(name, sentences) {
  const more = sentences.length - longestList;
  return [
    ...sentences.slice(0, longestList).map((sentence) => `  ${name}  ${sentence}`),
    ...(more > 0 ? [`  ${name}  and ${more} more`] : []),
  ];
}

const split = (things, half) => [things.filter(({ at }) => at < half), things.filter(({ at }) => at >= half)];
const sorted = (counts) => [...counts].sort(([, a], [, b]) => b - a);

function median(cost) {
  const ordered = cost.map(({ milliseconds }) => milliseconds).sort((a, b) => a - b);
  return ordered[Math.floor(ordered.length / 2)] ?? 0;
}
