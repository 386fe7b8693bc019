// Writes the README's figures, beside those of the alternatives, and docs/bench.md, with every aim and every table, from the results.
import { readFileSync, writeFileSync } from "node:fs";
import { percent, refreshes, tableOf, verdict } from "./report.mjs";

const [begin, end] = ["<!-- written by npm run bench -->", "<!-- until here -->"];

export function publish(results) {
  for (const [file, text] of Object.entries(pagesOf(results)))
    writeFileSync(new URL(`../${file}`, import.meta.url), text);
}

/** The texts of both pages, by their paths. */
export function pagesOf(results) {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const [before, rest = ""] = readme.split(begin);
  const after = rest.split(end)[1];
  if (after === undefined) throw new Error("README.md has no place for what was measured");
  return {
    "README.md": `${before}${begin}\n\n${figuresOf(results)}\n\n${end}${after}`,
    "docs/bench.md": tablesOf(results),
  };
}

/** The figures that matter to a user, beside those of the alternatives in the same run. */
function figuresOf({ rates, handOver, manyLocks, fleet }) {
  const [alone, some, many] = rates.crowds.map(({ rows }) => rows);
  const others = {
    redlock: "redlock",
    verrou: "@verrou/core",
    pgMutexLock: "pg-mutex-lock",
    advisoryLock: "advisory-lock",
  };
  const beside = (rows, figure) =>
    Object.entries(others)
      .flatMap(([name, title]) => (rows[name] === undefined ? [] : [`${title} ${figure(rows[name])}`]))
      .join(" · ");
  const rate = ({ perSecond }) => count(perSecond);
  const perSecond = ({ perSecond, connections }) =>
    `${count(perSecond)} on ${connections === 1 ? "1 connection" : `${connections} connections`}`;
  const { held, connections, statementsPerSecond } = manyLocks;
  const rows = [
    ["acquire and release, one caller, p50", ms(alone.shared.p50Ms), beside(alone, ({ p50Ms }) => ms(p50Ms))],
    ["cycles a second, 64 callers", perSecond(some.shared), beside(some, rate)],
    ["cycles a second, 1,024 callers", perSecond(many.shared), beside(many, rate)],
    [
      "from a release to the next holder, in another process, p50",
      ms(handOver.p50.libraryMs),
      `polling every 100 ms ${ms(handOver.p50.pollingMs)} · \`pg_advisory_lock\` by hand ${ms(handOver.p50.blockedMs)}`,
    ],
    [
      `${count(held)} locks held by one process`,
      `${connections} connections, ${statementsPerSecond.toFixed(1)} statements a second`,
      `a connection for each lock: ${count(held)}`,
    ],
    [
      `${fleet.waiters} lockers, like ${fleet.waiters} processes, wait for one key`,
      `${fleet.roundTripsPerSecond.library.toFixed(0)} statements a second`,
      `polling every 100 ms: ${count(fleet.waiters * 10)}`,
    ],
  ];
  const table = [["", "pg-locker", "alternatives"], ["---", "---:", "---"], ...rows];
  return table.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** The table of aims: a row for each aim, and for some figures without one. */
function aimsOf(results) {
  const {
    rates,
    handOver,
    callersOneKey,
    crowd,
    fleet,
    besideOthers,
    serverCpu,
    processCpu,
    manyLocks,
    hotPath,
  } = results;

  const [alone, some, many] = rates.crowds.map(({ rows }) => rows);
  const { aim } = rates;
  const rate = ({ perSecond, connections }) =>
    `${count(perSecond)} a second on ${connections === 1 ? "1 connection" : `${connections} connections`}`;
  const beside = (row, wanted) =>
    row.redlockRatio === undefined
      ? ["", "redlock was not measured", ""]
      : [least(wanted), row.redlockRatio.toFixed(2), verdict(row.redlockRatio >= wanted)];
  const p50 = (row, wanted) => [
    most(wanted),
    `${row.p50Ratio.toFixed(2)} (${ms(row.p50Ms)})`,
    verdict(row.p50Ratio <= wanted),
  ];
  const byHand = (row, wanted) => [
    least(wanted),
    `${row.byHandRatio.toFixed(2)} (${rate(row)})`,
    verdict(row.byHandRatio >= wanted),
  ];
  const { acquireMs, statementsPerSecond, cpuShare, bytes, connections, aim: manyAim } = manyLocks;
  const perThird = refreshes(connections);
  const { blockedMs, pollingMs, libraryMs, ratio } = handOver.p50;
  const rows = [
    [
      "**Acquire and release**, the p50 of a cycle, relative to the two statements by hand: 1 caller",
      ...p50(alone.shared, aim[1].p50),
    ],
    ["1 caller, dedicated sessions", ...p50(alone.dedicated, aim[1].p50)],
    ["64 callers, dedicated sessions", ...p50(some.dedicated, aim[1].p50)],
    [
      "**Cycles a second**, relative to by hand on 64 connections: 64 callers",
      ...byHand(some.shared, aim[64].byHand),
    ],
    ["1,024 callers", ...byHand(many.shared, aim[1024].byHand)],
    ["relative to `redlock` on one Redis: 64 callers", ...beside(some.shared, aim[64].redlock)],
    ["1,024 callers", ...beside(many.shared, aim[1024].redlock)],
    [
      `**${count(manyLocks.held)} locks held**: the time of an acquire, relative to none held`,
      most(manyAim.heldRatio),
      acquireMs.ratio.toFixed(2),
      verdict(acquireMs.ratio <= manyAim.heldRatio),
    ],
    ["connections", most(manyAim.connections), connections, verdict(connections <= manyAim.connections)],
    [
      "statements a second to refresh them all",
      most(perThird.toFixed(1)),
      statementsPerSecond.toFixed(1),
      verdict(statementsPerSecond <= perThird),
    ],
    [
      "CPU of the process in that time, of one core",
      `< ${manyAim.cpuShare * 100} %`,
      `${(cpuShare * 100).toFixed(1)} %`,
      verdict(cpuShare < manyAim.cpuShare),
    ],
    [
      "memory of one lock in the process",
      `< ${count(manyAim.bytes)} bytes`,
      `${count(bytes)} bytes`,
      verdict(bytes < manyAim.bytes),
    ],
    [
      "**Hand-over** from a release to the next holder in another process, p50",
      `< ${handOver.aim.libraryMs} ms`,
      `${ms(libraryMs)} (${ms(pollingMs)} by polling every 100 ms)`,
      verdict(libraryMs < handOver.aim.libraryMs),
    ],
    [
      "relative to a wait that is blocked in the server",
      most(handOver.aim.ratio),
      `${ratio.toFixed(2)} (${ms(blockedMs)})`,
      verdict(ratio <= handOver.aim.ratio),
    ],
    [
      `${callersOneKey.callers} callers of one process on one key, hand-overs a second, relative to as many blocked in the server`,
      "",
      `${callersOneKey.perSecond.ratio.toFixed(2)} (${count(callersOneKey.perSecond.library)} a second)`,
      "",
    ],
    [
      `**${crowd.waiters} waiters** in ${crowd.processes} processes on one key: statements a second while it is held`,
      `< ${crowd.aim.statementsPerSecond}`,
      crowd.statementsPerSecond.library?.toFixed(1) ?? "not counted",
      verdict(crowd.statementsPerSecond.library < crowd.aim.statementsPerSecond),
    ],
    [
      "from the release until all have had the lock, relative to all blocked in the server",
      "",
      `${crowd.allThroughMs.ratio.toFixed(2)} (${ms(crowd.allThroughMs.library)})`,
      "",
    ],
    ...fleetRows(fleet),
    [
      "**Beside two clients that queue in the server** without a pause: its share",
      `≥ ${percent(besideOthers.aim.share)}`,
      `${percent(besideOthers.share.library)} (${percent(besideOthers.share.blocked)} if it queues as they do)`,
      verdict(besideOthers.share.library >= besideOthers.aim.share),
    ],
    ...serverCpu.crowds.map(({ callers, ratio, libraryUs }) => [
      `Processor time of the server for an acquire and a release, relative to by hand: ${callers} ${callers === 1 ? "caller" : "callers"}`,
      "",
      `${ratio.toFixed(2)} (${libraryUs.toFixed(1)} µs)`,
      "",
    ]),
    ...processCpu.crowds.map(({ callers, ratio, libraryUs }) => [
      `Processor time of this process for both, relative to a sketch of the least possible: ${count(callers)} callers`,
      most(processCpu.aim[callers]),
      `${ratio.toFixed(2)} (${libraryUs.toFixed(1)} µs)`,
      verdict(ratio <= processCpu.aim[callers]),
    ]),
    ...hotPathRows(hotPath),
  ];
  const table = [["", "aim", "measured", ""], ["---", "---:", "---:", "---"], ...rows];
  return table.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function fleetRows({ waiters, aim, ...measured }) {
  const { roundTripsPerSecond, connections, allThroughMs, roundTripsPerHandOver } = measured;
  const { takeOverMs, oldestSnapshotMs, indexBuildMs } = measured;
  const row = (what, value, wanted, text) => [what, most(wanted), text, verdict(value <= wanted)];
  const inMs = (what, value, wanted) => [what, `≤ ${count(wanted)} ms`, ms(value), verdict(value <= wanted)];
  return [
    row(
      `**${waiters} lockers, like ${waiters} processes**, on one key: from the release until all have had the lock, relative to all blocked in the server`,
      allThroughMs.ratio,
      aim.allThroughRatio,
      `${allThroughMs.ratio.toFixed(2)} (${ms(allThroughMs.library)})`,
    ),
    row(
      "round trips for each hand-over",
      roundTripsPerHandOver.library,
      aim.roundTripsPerHandOver,
      roundTripsPerHandOver.library.toFixed(1),
    ),
    row(
      "round trips a second while it is held",
      roundTripsPerSecond.library,
      aim.roundTripsPerSecond,
      roundTripsPerSecond.library.toFixed(1),
    ),
    row("connections in that time", connections.library, aim.connections, String(connections.library)),
    inMs("from the end of the holder's session to the next grant, p50", takeOverMs.library, aim.takeOverMs),
    inMs("oldest snapshot while they wait", oldestSnapshotMs, aim.oldestSnapshotMs),
    inMs("`create index concurrently` beside them", indexBuildMs, aim.indexBuildMs),
  ];
}

function hotPathRows({ aim, acquire, release, bytes, heldLock, waiter }) {
  const entered = (what, { functions, files }, wanted) => [
    what,
    `≤ ${wanted.functions} in ${wanted.files}`,
    `${functions} in ${files}`,
    verdict(functions <= wanted.functions && files <= wanted.files),
  ];
  const kept = (what, value, wanted) => [
    what,
    `≤ ${count(wanted)} bytes`,
    `${count(value)} bytes`,
    verdict(value <= wanted),
  ];
  return [
    entered(
      "**One lock that nobody else wants**: functions that an acquire enters, and their files",
      acquire,
      aim.acquire,
    ),
    entered("functions that a release enters, and their files", release, aim.release),
    kept("garbage of both, with 64 callers", bytes, aim.bytes),
    kept("memory of a lock that is held", heldLock, aim.heldLock),
    kept("memory of a caller that waits", waiter, aim.waiter),
  ];
}

function tablesOf(results) {
  const { packages, platform } = results.rates;
  const peers = Object.entries(packages).map(([name, version]) => `${name} ${version}`);
  const tables = Object.entries(results).map(([name, result]) => tableOf(name, result));
  return `# What was measured

Measured with \`npm run bench\` on ${platform}; for comparison: ${peers.join(", ")}. "By hand" means try-lock and unlock on a connection of a pool of 64 for each lock,
as in the Go package. Each ratio is the median of the ratios of all rounds. [bench.svg](bench.svg) shows the cycles a second.
The numbers are in \`bench/results.json\`. On one machine they differ by a third from run to run: read the ratios.

## Aims

${aimsOf(results)}

Why some aims were missed: with many callers, one acquire and release costs the server 1.5 to 5 µs and this process 3.5 to 12 µs,
depending on the machine. Socket writes come first, then garbage collection, promises, bookkeeping and timers; nothing dominates. A
Node.js process has one core for all of it. \`redlock\` does as much work in the process, but less in its server.

25 of the functions of an acquire, and of a release, send one statement and read its answer: the batch, the deadline, the message exchange.
With many callers, a batch shares them. The others are the steps of one caller: checks, admission, the lock, its TTL, metrics.

The sketch (\`bench/peers/sketch.mjs\`) takes and frees locks in batches and does nothing else: no waiting, no abort, no loss, no check.

## Every table

${tables.join("\n\n")}
`;
}

const count = (number) => Math.round(number).toLocaleString("en");
const ms = (value) => `${value < 1_000 ? value.toPrecision(3) : count(value)} ms`;
const most = (wanted) => `≤ ${wanted}`;
const least = (wanted) => `≥ ${wanted}`;
