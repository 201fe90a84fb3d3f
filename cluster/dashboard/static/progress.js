// The interactive chart of the page "Progress". Its colours come from the style sheet, so that it follows dark mode.
"use strict";

const KINDS = {
  kept: { symbol: "circle", size: 10, colour: "--accent", opacity: 1 },
  "near-miss": { symbol: "diamond", size: 9, colour: "--accent", opacity: 0.55, hollow: true },
  discarded: { symbol: "circle", size: 6, colour: "--muted", opacity: 0.5 },
  measured: { symbol: "emptyCircle", size: 6, colour: "--muted", opacity: 0.7 },
  crash: { symbol: "triangle", size: 7, colour: "--alarm", opacity: 0.6, atTop: true },
  invalid: { symbol: "rect", size: 7, colour: "--alarm", opacity: 0.9, atTop: true },
};
const [AT, SCORE, WHAT, ID, TITLE, RESEARCHER, BRANCH, HELPS, ERROR] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const LARGE = 2000;
const charts = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function short(text, limit) {
  return text.length > limit ? text.slice(0, limit - 1) + "…" : text;
}

// a little above the scores, so that what has none stands apart from them
function edge(group) {
  const scores = group.points.map((point) => point[SCORE]).filter((score) => score !== null);
  return group.top + 0.06 * (group.top - Math.min(...scores));
}

function words(point) {
  const [number, score, helps] = [point[AT], point[SCORE], point[HELPS]];
  const lines = [short(point[TITLE], 70), `${point[WHAT]} · experiment ${number} · ${point[RESEARCHER]} · ${point[BRANCH].split("/").pop()}`];
  if (score !== null) {
    const error = point[ERROR] === null ? "" : ` ± ${point[ERROR].toFixed(4)} (90%)`;
    lines.push(`val_bpb ${score.toFixed(6)}${error}` + (helps === null ? "" : ` · P(helps) ${helps.toFixed(2)}`));
  }
  return lines.join("\n");
}

function series(group, kind, look) {
  const chosen = group.points.filter((point) => point[WHAT] === kind);
  const top = edge(group);
  return {
    name: kind,
    type: "scatter",
    symbol: look.symbol,
    symbolSize: chosen.length > LARGE ? 3 : look.size,
    large: chosen.length > 4 * LARGE,
    itemStyle: look.hollow
      ? { color: colour("--surface"), borderColor: colour(look.colour), borderWidth: 1.6 }
      : { color: colour(look.colour), opacity: look.opacity },
    data: chosen.map((point) => ({
      value: [point[AT], look.atTop || point[SCORE] === null || point[SCORE] > group.top ? top : point[SCORE]],
      point,
    })),
    z: kind === "kept" ? 5 : 3,
  };
}

// error bars as one line that is interrupted between experiments: of what is kept and of near-misses
function bars(group) {
  const data = [];
  for (const point of group.points) {
    if (point[ERROR] !== null && point[SCORE] !== null && (point[WHAT] === "kept" || point[WHAT] === "near-miss")) {
      data.push([point[AT], point[SCORE] - point[ERROR]], [point[AT], Math.min(edge(group), point[SCORE] + point[ERROR])], [point[AT], null]);
    }
  }
  return { name: "90% of the seeds", type: "line", data, symbol: "none", silent: true, connectNulls: false, tooltip: { show: false },
           lineStyle: { color: colour("--accent"), width: 1, opacity: 0.45 }, itemStyle: { color: colour("--accent") }, z: 2 };
}

function options(group) {
  const [ink, muted, rule] = [colour("--ink"), colour("--muted"), colour("--rule")];
  const kinds = Object.entries(KINDS).filter(([kind]) => group.points.some((point) => point[WHAT] === kind));
  const axis = { axisLine: { lineStyle: { color: rule } }, axisLabel: { color: muted }, splitLine: { lineStyle: { color: rule } },
                 nameTextStyle: { color: muted } };
  const narrow = window.innerWidth < 640;
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: ink },
    grid: { left: 8, right: 16, top: 56, bottom: 56, containLabel: true },
    legend: { top: 4, left: 0, itemWidth: 12, itemHeight: 10, itemGap: 16, type: narrow ? "scroll" : "plain", textStyle: { color: ink }, inactiveColor: muted, pageTextStyle: { color: muted }, pageIconColor: ink, pageIconInactiveColor: rule },
    tooltip: { trigger: "item", renderMode: "richText", confine: true, backgroundColor: colour("--surface"), borderColor: rule,
               textStyle: { color: ink, fontSize: 12, lineHeight: 18 },
               formatter: (about) => (about.data && about.data.point ? words(about.data.point) : `expected ${about.value[1].toFixed(4)}`) },
    xAxis: { type: "value", name: "experiment", nameLocation: "middle", nameGap: 24, min: 0, minInterval: 1, max: Math.max(1, group.total - 1),
             ...axis, splitLine: { show: false } },
    yAxis: { type: "value", scale: true, name: "val_bpb", max: group.top === null ? undefined : edge(group),
             ...axis, axisLabel: { color: muted, showMaxLabel: false, formatter: (value) => value.toFixed(4) } },
    dataZoom: [{ type: "inside" }, { type: "slider", height: 14, bottom: 6, borderColor: rule, fillerColor: "transparent",
                 handleStyle: { color: muted }, moveHandleSize: 0, showDetail: false, brushSelect: false,
                 dataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
                 selectedDataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } } }],
    series: [
      ...kinds.map(([kind, look]) => series(group, kind, look)),
      { name: "head, expected", type: "line", step: "end", data: stepsOf(group), showSymbol: false,
        lineStyle: { color: colour("--accent"), width: 2 }, itemStyle: { color: colour("--accent") }, symbol: "none", z: 4 },
      bars(group),
    ],
  };
}

function stepsOf(group) {
  return group.steps.length ? [...group.steps, [Math.max(1, group.total - 1), group.steps[group.steps.length - 1][1]]] : [];
}

function draw(element, group) {
  element.hidden = false;
  const known = charts.get(element);
  const chart = known ? known.chart : echarts.init(element, null, { renderer: "canvas" });
  if (!known) {
    chart.on("click", (about) => {
      if (about.data && about.data.point) {
        window.location.assign("/experiments/" + encodeURIComponent(about.data.point[ID]));
      }
    });
  }
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `Scores of ${group.points.length} experiments of ${group.name}; the keeps follow in words.`);
  for (const note of document.querySelectorAll(".thinned")) {
    if (note.dataset.group === group.name) {
      note.hidden = group.points.length === group.total;
      note.textContent = `${group.points.length.toLocaleString("en")} of ${group.total.toLocaleString("en")} experiments: keeps, heads and near-misses, and one in ${group.every} of the others.`;
    }
  }
  const zoom = known ? chart.getOption().dataZoom.map(({ start, end }) => ({ start, end })) : [];
  const wanted = options(group);
  wanted.dataZoom.forEach((part, at) => Object.assign(part, zoom[at] || {}));
  chart.setOption(wanted, { notMerge: true });
  charts.set(element, { chart, group });
}

async function load() {
  const found = await fetch(document.getElementById("charts").dataset.points, { credentials: "same-origin" });
  if (!found.ok) {
    return;
  }
  const { groups } = await found.json();
  for (const element of document.querySelectorAll(".chart")) {
    const group = groups.find((one) => one.name === element.dataset.group);
    if (group && group.points.length) {
      draw(element, group);
    }
  }
}

function redraw() {
  for (const [element, { group }] of charts) {
    draw(element, group);
  }
}

load();
document.getElementById("charts").addEventListener("sse:journal", load);
window.addEventListener("resize", () => charts.forEach(({ chart }) => chart.resize()));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
