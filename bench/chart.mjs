// Draws docs/bench.svg from the results: cycles a second, as ratios to the baseline.
import { writeFileSync } from "node:fs";
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";

const file = new URL("../docs/bench.svg", import.meta.url);
const crowd = (callers) => (callers === 1 ? "1 caller" : `${callers.toLocaleString("en")} callers`);

export function draw({ crowds, postgres, node }) {
  const { document } = parseHTML("<!doctype html><html><body></body></html>");
  const bars = crowds.flatMap(({ callers, rows }) =>
    Object.values(rows).map(({ title, on, byHandRatio, perSecond, connections }) => ({
      crowd: crowd(callers),
      title: on === "Redis" ? `${title} (Redis)` : title,
      byHandRatio,
      label: `${byHandRatio.toFixed(2)} × (${Math.round(perSecond).toLocaleString("en")} a second, ${connections} conn.)`,
      whose: title.startsWith("pg-locker") ? "pg-locker" : on,
    })),
  );
  const order = Object.values(crowds[0].rows).map(({ title, on }) =>
    on === "Redis" ? `${title} (Redis)` : title,
  );
  const most = Math.max(...bars.map(({ byHandRatio }) => byHandRatio));
  const svg = Plot.plot({
    document,
    width: 860,
    height: 620,
    marginLeft: 210,
    marginRight: 90,
    marginBottom: 50,
    style: { background: "white", color: "black", fontFamily: "sans-serif", fontSize: "12px" },
    x: {
      label: "lock cycles a second, those by hand = 1",
      labelAnchor: "center",
      labelOffset: 40,
      domain: [0, most * 1.75],
      grid: true,
    },
    y: { label: null, domain: order },
    fy: { label: null, domain: crowds.map(({ callers }) => crowd(callers)) },
    color: { domain: ["pg-locker", "PostgreSQL", "Redis"], range: ["#1f6feb", "#a0a8b4", "#d9a3a0"] },
    marks: [
      Plot.barX(bars, { x: "byHandRatio", y: "title", fy: "crowd", fill: "whose" }),
      Plot.text(bars, {
        x: "byHandRatio",
        y: "title",
        fy: "crowd",
        text: "label",
        textAnchor: "start",
        dx: 4,
      }),
      Plot.ruleX([1], { strokeDasharray: "3,3" }),
      Plot.ruleX([0]),
    ],
  });
  svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Lock cycles a second, PostgreSQL ${postgres}, Node.js ${node}`);
  writeFileSync(file, `${svg.outerHTML}\n`);
}
