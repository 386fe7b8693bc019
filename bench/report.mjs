/** One table for each scenario that was measured: a row for each figure, with its aim and whether that was met. */
const tables = {
  uncontended: ({ rounds, aim, scenarios }) => ({
    title: "acquire + release, uncontended",
    rounds,
    header: ["callers", "", "by hand", "library", "ratio", "aim"],
    rows: scenarios.flatMap(({ callers, p50, p99 }) => {
      const cells = (m) => [ms(m.byHandMs), ms(m.libraryMs), m.ratio.toFixed(2)];
      return [
        [String(callers), "p50", ...cells(p50), `${aim} ${verdict(p50.ratio <= aim)}`],
        [String(callers), "p99", ...cells(p99), ""],
      ];
    }),
  }),

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
    title: "callers of one process on one key, hand-overs a second",
    rounds,
    header: ["callers", "", "blocked in the server", "library", "ratio", "aim"],
    rows: [[String(callers), "", blocked.toFixed(0), library.toFixed(0), ratio.toFixed(2), ""]],
  }),

  crowd: ({ rounds, processes, waiters, aim, statementsPerSecond, allThroughMs, statementsUntilThrough }) => {
    const most = aim.statementsPerSecond;
    const asked = [counted(statementsPerSecond.blocked, 1), counted(statementsPerSecond.library, 1)];
    const all = [counted(statementsUntilThrough.blocked, 0), counted(statementsUntilThrough.library, 0)];
    const met = Number.isNaN(statementsPerSecond.library) ? "" : verdict(statementsPerSecond.library < most);
    return {
      title: `${waiters} waiters in ${processes} processes on one key`,
      rounds,
      header: ["", "", "blocked in the server", "library", "ratio", "aim"],
      rows: [
        ["while it is held", "statements a second", ...asked, "", `${most} ${met}`],
        [
          "from the release",
          "until all are through",
          ms(allThroughMs.blocked),
          ms(allThroughMs.library),
          allThroughMs.ratio.toFixed(2),
          "",
        ],
        ["", "statements meanwhile", ...all, "", ""],
      ],
    };
  },

  manyLocks: ({ rounds, aim, held, rates, crowd }) => {
    const rate = ({ perSecond, rateRatio }) => `${perSecond.toFixed(0)} (${rateRatio.toFixed(2)})`;
    const cost = (what, cell, wanted, met) => [what, "", "", "", cell, `${wanted} ${verdict(met)}`];
    return {
      title: "many callers, many locks",
      rounds,
      header: ["", "", "by hand", "dedicated", "shared", "aim"],
      rows: [
        ...rates.map(({ callers, byHand, dedicated, shared }) => {
          const wanted = aim[callers];
          const last = wanted === undefined ? "" : `${wanted} ${verdict(shared.rateRatio >= wanted)}`;
          return [`${callers} callers`, "cycles a second", rate(byHand), rate(dedicated), rate(shared), last];
        }),
        [
          "1 caller",
          "p50",
          ms(rates[0].byHand.p50Ms),
          `${rates[0].dedicated.p50Ratio.toFixed(2)}`,
          `${rates[0].shared.p50Ratio.toFixed(2)}`,
          `${aim.alone} ${verdict(rates[0].shared.p50Ratio <= aim.alone)}`,
        ],
        cost(
          `acquire beside ${held} held`,
          crowd.acquireMs.ratio.toFixed(2),
          aim.heldRatio,
          crowd.acquireMs.ratio <= aim.heldRatio,
        ),
        cost(
          `statements a second, ${held} held`,
          crowd.statementsPerSecond.toFixed(1),
          `${crowd.connections} a third of 10 s`,
          crowd.statementsPerSecond <= crowd.connections / 2.8 + 0.5,
        ),
        cost(
          "of a core",
          `${(crowd.cpuShare * 100).toFixed(1)} %`,
          `${aim.cpuShare * 100} %`,
          crowd.cpuShare < aim.cpuShare,
        ),
        cost("bytes a lock", crowd.bytes.toFixed(0), aim.bytes, crowd.bytes < aim.bytes),
        cost("connections", String(crowd.connections), aim.connections, crowd.connections <= aim.connections),
      ],
    };
  },
};

export function report(name, results) {
  const { title, rounds, header, rows } = tables[name](results);
  console.log(`\n${title} · PostgreSQL ${results.postgres} · Node.js ${results.node}`);
  console.log(`medians of ${rounds} interleaved rounds\n`);
  const rule = header.map((_, column) => (column < 2 ? "---" : "---:"));
  const lines = [header, rule, ...rows];
  const widths = header.map((_, column) => Math.max(...lines.map((cells) => cells[column].length)));
  for (const cells of lines) {
    const padded = cells.map((cell, column) =>
      column < 2 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]),
    );
    console.log(`| ${padded.join(" | ")} |`);
  }
}

/** As JSON, with four decimals. */
export function asJson(results) {
  const rounded = JSON.stringify(results, (_, v) => (typeof v === "number" ? Number(v.toFixed(4)) : v), 2);
  return `${rounded}\n`;
}

function ms(value) {
  return `${value.toFixed(3)} ms`;
}

function counted(value, decimals) {
  return Number.isNaN(value) ? "not counted" : value.toFixed(decimals);
}

function verdict(met) {
  return met ? "met" : "missed";
}
