// Charts from the REST API: stacked bars of money over time, with a table of the same data one key away.
import { axisMoney, colours, count, exactMoney, money, exactCount, spanMs } from "./numbers.js";

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const charts = new Map();

function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const WRITERS = {
  cost: { axis: axisMoney, text: money, exact: exactMoney },
  tokens: { axis: count, text: count, exact: exactCount },
  requests: { axis: count, text: count, exact: exactCount },
  latency: { axis: spanMs, text: spanMs, exact: spanMs },
};

function bucketName(startS, interval) {
  const moment = new Date(startS * 1000);
  if (interval === "hour") return new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false }).format(moment);
  return new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" }).format(moment);
}

function longName(startS, interval) {
  const options = interval === "hour" ? { dateStyle: "medium", timeStyle: "short" } : { dateStyle: "full" };
  return new Intl.DateTimeFormat(undefined, options).format(new Date(startS * 1000));
}

/** What the API answered, as series of plain numbers in the order of the stack. */
function read(answer) {
  const starts = answer.buckets.map((bucket) => bucket.start_s);
  const series = answer.series.map((each) => ({ id: each.id, name: each.name || (each.other ? "Others" : "none"), other: Boolean(each.other), values: each.values }));
  return { starts, series, interval: answer.interval, metric: answer.metric };
}

function option(data, writer) {
  const ink = token("--ink"), muted = token("--muted"), line = token("--line"), panel = token("--panel");
  const palette = colours(data.series.map((each) => each.name));
  return {
    animation: false,
    textStyle: { fontFamily: FONT },
    grid: { left: 8, right: 8, top: 12, bottom: 4, containLabel: true },
    xAxis: {
      type: "category", data: data.starts.map((start) => bucketName(start, data.interval)),
      axisLine: { lineStyle: { color: line } }, axisTick: { show: false },
      axisLabel: { color: muted, fontSize: 11, hideOverlap: true },
    },
    yAxis: {
      type: "value", splitNumber: 2, axisLabel: { color: muted, fontSize: 11, formatter: (value) => writer.axis(value) },
      splitLine: { lineStyle: { color: line } }, axisLine: { show: false },
    },
    tooltip: {
      trigger: "axis", renderMode: "richText", axisPointer: { type: "shadow", shadowStyle: { color: ink, opacity: 0.05 } },
      backgroundColor: panel, borderColor: line, borderWidth: 1, padding: [8, 10], textStyle: { color: ink, fontSize: 12, fontFamily: FONT },
      confine: true,
      formatter: (points) => {
        const at = points[0]?.dataIndex ?? 0;
        const shown = points.filter((point) => point.value > 0).sort((a, b) => b.value - a.value);
        const total = shown.reduce((sum, point) => sum + point.value, 0);
        const lines = shown.slice(0, 12).map((point) => `${writer.text(point.value)}  ${point.seriesName.slice(0, 40)}`);
        const head = `${longName(data.starts[at], data.interval)}   ${writer.text(total)}`;
        return [head, ...(shown.length > 1 || shown[0]?.seriesName !== "" ? lines : [])].join("\n");
      },
    },
    series: data.series.map((each, index) => ({
      name: each.name, type: "bar", stack: "all", barMaxWidth: 28, barCategoryGap: "28%",
      itemStyle: { color: token(each.other ? "--cat-other" : `--cat-${palette[index]}`) },
      emphasis: { disabled: true }, data: each.values, cursor: "pointer",
    })),
  };
}

function legend(element, data) {
  const list = element.querySelector("[data-legend]");
  if (!list) return;
  const palette = colours(data.series.map((each) => each.name));
  list.replaceChildren(...data.series.map((each, index) => {
    const item = document.createElement("li");
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    mark.setAttribute("class", "swatch");
    mark.setAttribute("width", "10");
    mark.setAttribute("height", "10");
    mark.setAttribute("aria-hidden", "true");
    const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    square.setAttribute("class", each.other ? "cat-other" : `cat-${palette[index]}`);
    for (const [name, value] of [["width", 10], ["height", 10], ["rx", 2]]) square.setAttribute(name, value);
    mark.append(square);
    const name = document.createElement("span");
    name.className = "clip";
    name.textContent = each.name;
    name.title = each.name;
    item.append(mark, name);
    return item;
  }).reverse());
}

function table(element, data, writer) {
  const place = element.querySelector("[data-chart-table]");
  if (!place) return;
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  const cell = (row, tag, text, right) => {
    const each = document.createElement(tag);
    each.textContent = text;
    if (tag === "th") each.scope = row === head ? "col" : "row";
    if (right) each.className = "right";
    row.append(each);
    return each;
  };
  cell(head, "th", data.interval === "hour" ? "Hour" : "Day");
  for (const each of data.series) cell(head, "th", each.name, true);
  const body = made.createTBody();
  data.starts.forEach((start, index) => {
    const row = body.insertRow();
    cell(row, "th", bucketName(start, data.interval));
    for (const each of data.series) cell(row, "td", writer.text(each.values[index]), true).title = writer.exact(each.values[index]);
  });
  place.replaceChildren(made);
}

function drillInto(data, index) {
  const start = data.starts[index];
  const width = data.interval === "hour" ? 3600 : 86400;
  const end = data.starts[index + 1] ?? start + width;
  const here = new URL(location.href);
  if (data.interval === "hour") here.pathname = "/logs";
  here.searchParams.delete("range");
  here.searchParams.set("from", start);
  here.searchParams.set("to", end);
  location.assign(here);
}

function draw(element) {
  const kept = charts.get(element);
  if (!kept?.data) return;
  const place = element.querySelector("[data-canvas]");
  kept.chart ??= window.echarts.init(place, null, { renderer: "svg" });
  kept.chart.setOption(option(kept.data, kept.writer), true);
  kept.chart.off("click");
  kept.chart.getZr().off("click");
  kept.chart.getZr().on("click", (event) => {
    const at = [event.offsetX, event.offsetY];
    if (kept.chart.containPixel("grid", at)) drillInto(kept.data, kept.chart.convertFromPixel({ seriesIndex: 0 }, at)[0]);
  });
}

async function load(element) {
  const kept = charts.get(element) ?? {};
  charts.set(element, kept);
  const said = element.querySelector("[data-said]");
  try {
    const answer = await fetch(element.dataset.chart, { headers: { accept: "application/json" } });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error?.message ?? `The API answered ${answer.status}.`);
    kept.data = read(content);
    kept.writer = WRITERS[element.dataset.unit ?? "cost"];
    const empty = kept.data.series.every((each) => each.values.every((value) => !value));
    said.textContent = empty ? "Nothing was spent in this time." : "";
    said.hidden = !empty;
    draw(element);
    legend(element, kept.data);
    table(element, kept.data, kept.writer);
  } catch (error) {
    said.hidden = false;
    said.textContent = error.message;
  }
}

function showTable(element, on) {
  element.querySelector("[data-chart-table]").hidden = !on;
  element.querySelector("[data-plot]").hidden = on;
  element.querySelector("[data-as-table]").setAttribute("aria-pressed", String(on));
  if (!on) charts.get(element)?.chart?.resize();
}

for (const element of document.querySelectorAll("[data-chart]")) {
  load(element);
  element.querySelector("[data-as-table]")?.addEventListener("click", (event) => {
    showTable(element, event.currentTarget.getAttribute("aria-pressed") !== "true");
  });
  for (const button of element.querySelectorAll("[data-by]")) {
    button.addEventListener("click", () => {
      for (const other of element.querySelectorAll("[data-by]")) other.setAttribute("aria-pressed", String(other === button));
      const asked = new URL(element.dataset.chart, location.href);
      asked.searchParams.set("by", button.dataset.by);
      element.dataset.chart = asked.pathname + asked.search;
      load(element);
    });
  }
}
document.addEventListener("bursar:refresh", () => { for (const element of charts.keys()) load(element); });
document.addEventListener("bursar:theme", () => { for (const element of charts.keys()) draw(element); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const element of charts.keys()) draw(element); });
new ResizeObserver(() => { for (const kept of charts.values()) kept.chart?.resize(); }).observe(document.getElementById("content"));
document.addEventListener("keydown", (event) => {
  if (event.key !== "t" || event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey) return;
  for (const element of charts.keys()) showTable(element, element.querySelector("[data-plot]").hidden === false);
});
