/** A table for each measured scenario: a row for each figure, with its aim and whether that was met. */
const tables = {
  handOver: ({ rounds, aim, p50, p99 }) => {
    const met = p50.libraryMs < aim.libraryMs && p50.ratio <= aim.ratio;
    const cells = (m) => [ms(m.pollingMs), ms(m.blockedMs), ms(m.libraryMs), m.ratio.toFixed(2)];
    return {
      title: "from release in one process to acquire in another",
      rounds,
      header: ["", "", "polling, 100 ms", "blocked in the server", "library", "library : blocked", "aim"],
      rows: [
        ["1 waiter", "p50", ...cells(p50), `${aim.libraryMs} ms and ${aim.ratio} ${verdict(met)}`],
        ["1 waiter", "p99", ...cells(p99), ""],
      ],
    };
  },

  callersOneKey: ({ rounds, callers, perSecond: { blocked, library, ratio } }) => ({
    title: "hand-overs a second between callers of one process on one key",
    rounds,
    header: ["callers", "", "blocked in the server", "library", "ratio", "aim"],
    rows: [[String(callers), "", blocked.toFixed(0), library.toFixed(0), ratio.toFixed(2), ""]],
  }),

  crowd: ({ rounds, processes, waiters, aim, statementsPerSecond, allThroughMs, statementsUntilThrough }) => {
    const most = aim.statementsPerSecond;
    const asked = [counted(statementsPerSecond.blocked, 1), counted(statementsPerSecond.library, 1)];
    const all = [counted(statementsUntilThrough.blocked, 0), counted(statementsUntilThrough.library, 0)];
    const met = Number.isFinite(statementsPerSecond.library)
      ? verdict(statementsPerSecond.library < most)
      : "";
    return {
      title: `${waiters} waiters in ${processes} processes on one key`,
      rounds,
      header: ["", "", "blocked in the server", "library", "ratio", "aim"],
      rows: [
        ["while it is held", "statements a second", ...asked, "", `${most} ${met}`],
        [
          "from the release",
          "until all have had it",
          ms(allThroughMs.blocked),
          ms(allThroughMs.library),
          allThroughMs.ratio.toFixed(2),
          "",
        ],
        ["", "statements in that time", ...all, "", ""],
      ],
    };
  },

  fleet: ({ rounds, waiters, aim, ...measured }) => {
    const { roundTripsPerSecond, connections, allThroughMs, roundTripsPerHandOver } = measured;
    const { takeOverMs, oldestSnapshotMs, indexBuildMs } = measured;
    const counts = ({ blocked, library }, wanted) => [
      blocked.toFixed(1),
      library.toFixed(1),
      "",
      `${wanted} ${verdict(library <= wanted)}`,
    ];
    const alone = (value, wanted) => ["", ms(value), "", `${wanted} ms ${verdict(value <= wanted)}`];
    return {
      title: `${waiters} lockers, like ${waiters} processes, on one key`,
      rounds,
      header: ["", "", "blocked in the server", "library", "ratio", "aim"],
      rows: [
        ["while it is held", "round trips a second", ...counts(roundTripsPerSecond, aim.roundTripsPerSecond)],
        ["", "connections", ...counts(connections, aim.connections)],
        ["", "oldest snapshot", ...alone(oldestSnapshotMs, aim.oldestSnapshotMs)],
        ["", "index build", ...alone(indexBuildMs, aim.indexBuildMs)],
        [
          "from the release",
          "until all have had it",
          ms(allThroughMs.blocked),
          ms(allThroughMs.library),
          allThroughMs.ratio.toFixed(2),
          `${aim.allThroughRatio} ${verdict(allThroughMs.ratio <= aim.allThroughRatio)}`,
        ],
        ["", "round trips for each hand-over", ...counts(roundTripsPerHandOver, aim.roundTripsPerHandOver)],
        [
          "from the end of the holder's session",
          "to the next grant, p50",
          ms(takeOverMs.blocked),
          ms(takeOverMs.library),
          "",
          `${aim.takeOverMs} ms ${verdict(takeOverMs.library <= aim.takeOverMs)}`,
        ],
      ],
    };
  },

  besideOthers: ({ rounds, aim, workMs, share }) => ({
    title: `share of one process beside two that queue in the server, with ${workMs} ms of work each`,
    rounds,
    header: ["", "", "blocked in the server", "library", "aim"],
    rows: [["share", "", percent(share.blocked), percent(share.library), leastShare(aim, share)]],
  }),

  serverCpu: ({ rounds, crowds }) => ({
    title: "processor time of the server for an acquire and a release that nobody waits for",
    rounds,
    header: ["callers", "", "by hand", "library", "ratio"],
    rows: crowds.map(({ callers, byHandUs, libraryUs, ratio }) => [
      String(callers),
      "",
      `${byHandUs.toFixed(1)} µs`,
      `${libraryUs.toFixed(1)} µs`,
      ratio.toFixed(2),
    ]),
  }),

  processCpu: ({ rounds, aim, crowds }) => ({
    title: "processor time of this process for an acquire and a release, each with a key of its own",
    rounds,
    header: ["callers", "", "a sketch of the least possible", "library", "ratio", "aim"],
    rows: crowds.map(({ callers, sketchUs, libraryUs, ratio }) => [
      String(callers),
      "",
      `${sketchUs.toFixed(1)} µs`,
      `${libraryUs.toFixed(1)} µs`,
      ratio.toFixed(2),
      `${aim[callers]} ${verdict(ratio <= aim[callers])}`,
    ]),
  }),

  rates: ({ rounds, aim, crowds }) => ({
    title: "acquire and release, each caller on its own key",
    rounds,
    header: [
      "callers",
      "",
      "connections",
      "cycles a second",
      ": by hand",
      ": redlock",
      "p50",
      ": by hand",
      "p99",
      "aim",
    ],
    rows: crowds.flatMap(({ callers, rows }) =>
      Object.entries(rows).map(([name, row]) => [
        String(row.callers),
        row.title,
        String(row.connections),
        row.perSecond.toFixed(0),
        row.byHandRatio.toFixed(2),
        row.redlockRatio?.toFixed(2) ?? "not measured",
        ms(row.p50Ms),
        row.p50Ratio.toFixed(2),
        ms(row.p99Ms),
        name === "shared" ? verdicts(aim[callers], row).join(", ") : "",
      ]),
    ),
  }),

  manyLocks: ({ rounds, aim, held, acquireMs, statementsPerSecond, connections, cpuShare, bytes }) => {
    const row = (what, cell, wanted, met) => [what, "", cell, `${wanted} ${verdict(met)}`];
    return {
      title: `${held} locks held by one process, which refresh themselves`,
      rounds,
      header: ["", "", "library", "aim"],
      rows: [
        row(
          "time of an acquire, relative to none held",
          acquireMs.ratio.toFixed(2),
          aim.heldRatio,
          acquireMs.ratio <= aim.heldRatio,
        ),
        row(
          "statements a second",
          statementsPerSecond.toFixed(1),
          `one for each session and third of 10 s: ${refreshes(connections).toFixed(1)}`,
          statementsPerSecond <= refreshes(connections),
        ),
        row(
          "CPU, of one core",
          `${(cpuShare * 100).toFixed(1)} %`,
          `${aim.cpuShare * 100} %`,
          cpuShare < aim.cpuShare,
        ),
        row("bytes for each lock", bytes.toFixed(0), aim.bytes, bytes < aim.bytes),
        row("connections", String(connections), aim.connections, connections <= aim.connections),
      ],
    };
  },

  hotPath: ({ rounds, aim, acquire, release, bytes, heldLock, waiter }) => {
    const row = (what, unit, value, wanted) => [
      what,
      unit,
      String(value),
      `${wanted} ${verdict(value <= wanted)}`,
    ];
    return {
      title: "one lock that nobody else wants, in the process",
      rounds,
      header: ["", "", "library", "aim"],
      rows: [
        row("acquire", "functions entered", acquire.functions, aim.acquire.functions),
        row("", "files they are in", acquire.files, aim.acquire.files),
        row("release", "functions entered", release.functions, aim.release.functions),
        row("", "files they are in", release.files, aim.release.files),
        row("acquire and release, 64 callers", "bytes of garbage", bytes, aim.bytes),
        row("a lock that is held", "bytes kept", heldLock, aim.heldLock),
        row("a caller that waits", "bytes kept", waiter, aim.waiter),
      ],
    };
  },
};

/** The results of a scenario as a Markdown table that is also readable as plain text. */
export function tableOf(name, results) {
  const { title, rounds, header, rows } = tables[name](results);
  const rule = header.map((_, column) => (column < 2 ? "---" : "---:"));
  const lines = [header, rule, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((cells) => cells[column].length)));
  const padded = lines.map((cells) =>
    cells.map((cell, column) => (column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))),
  );
  return [
    `**${title}** · PostgreSQL ${results.postgres} · Node.js ${results.node} · medians of ${rounds} interleaved rounds`,
    "",
    ...padded.map((cells) => `| ${cells.join(" | ")} |`),
  ].join("\n");
}

/** How many statements a second may refresh the locks of `manyLocks`: one for each connection and 28 % of their TTL of 10 s. */
export function refreshes(connections) {
  return connections / (0.28 * 10);
}

/** Writes results as JSON, with four decimals. */
export function asJson(results) {
  const rounded = JSON.stringify(results, (_, v) => (typeof v === "number" ? Number(v.toFixed(4)) : v), 2);
  return `${rounded}\n`;
}

function verdicts({ p50, byHand, redlock }, { p50Ratio, byHandRatio, redlockRatio }) {
  return [
    ...(p50 === undefined ? [] : [`p50 ${p50} ${verdict(p50Ratio <= p50)}`]),
    ...(byHand === undefined ? [] : [`by hand ${byHand} ${verdict(byHandRatio >= byHand)}`]),
    ...(redlock === undefined || redlockRatio === undefined
      ? []
      : [`redlock ${redlock} ${verdict(redlockRatio >= redlock)}`]),
  ];
}

function ms(value) {
  return `${value.toFixed(3)} ms`;
}

export function percent(value) {
  return `${(value * 100).toFixed(0)} %`;
}

function leastShare(aim, share) {
  return `${percent(aim.share)} ${verdict(share.library >= aim.share)}`;
}

function counted(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals) : "not counted";
}

/** @param met whether the aim was met */
export function verdict(met) {
  return met ? "met" : "missed";
}
