// Charts from the REST API: stacked bars of money over time, with a table of the same data one key away.
import { axisMoney, colours, count, exactMoney, money, exactCount, spanMs } from "./numbers.js";

// Up to so many series are named beside their bars; more get a list.
const DIRECT_UP_TO = 5;
const LABEL_WIDTH = 132;
const LABEL_HEIGHT = 18;
const NARROW = 560;
const OWNERS = ["customer", "team", "user", "key"];
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

// Buckets begin where days do in the zone that they were asked for, which need not be the browser's.
function bucketName(startS, { interval, timeZone }) {
  const moment = new Date(startS * 1000);
  if (interval === "hour") return new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false, timeZone }).format(moment);
  return new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone }).format(moment);
}

function longName(startS, { interval, timeZone }) {
  const options = interval === "hour" ? { dateStyle: "medium", timeStyle: "short" } : { dateStyle: "full" };
  return new Intl.DateTimeFormat(undefined, { ...options, timeZone }).format(new Date(startS * 1000));
}

/** Owners have their colours from the page, the same everywhere; where two beside each other look alike, one gives way. */
function paletteOf(element, data) {
  const known = JSON.parse(element.dataset.colours || "{}")[data.by] ?? {};
  return colours(data.series.map((each) => each.name), data.series.map((each) => known[each.id]));
}

/** What the API answered, as series of plain numbers in the order of the stack. */
function read(answer, asked) {
  const starts = answer.buckets.map((bucket) => bucket.start_s);
  const series = answer.series.map((each) => ({ id: each.id, name: each.name || (each.other ? "Others" : `no ${answer.by ?? "name"}`), other: Boolean(each.other), values: each.values }));
  const timeZone = new URL(asked, location.href).searchParams.get("timezone") ?? undefined;
  return { starts, series, timeZone, interval: answer.interval, metric: answer.metric, by: answer.by };
}

/** Where the last bar that holds anything stands. */
function lastBar(data) {
  for (let at = data.starts.length - 1; at > 0; at -= 1) if (data.series.some((each) => each.values[at] > 0)) return at;
  return 0;
}

function direct(element, data) {
  return data.series.length <= DIRECT_UP_TO && element.clientWidth >= NARROW;
}

/** Room that labels need to the right of the last bar, beyond what the days to come leave free. */
function margin(element, data) {
  if (!direct(element, data)) return 8;
  const free = ((data.starts.length - 1 - lastBar(data)) / data.starts.length) * element.clientWidth * 0.85;
  return free > LABEL_WIDTH + 16 ? 8 : LABEL_WIDTH + 8;
}

/** The distance of two lines above the baseline that hold everything, a number people like. */
function step(data) {
  const most = Math.max(0, ...data.starts.map((_, at) => data.series.reduce((sum, each) => sum + each.values[at], 0)));
  if (!most) return 1;
  const size = 10 ** Math.floor(Math.log10(most / 2));
  return size * [1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10].find((factor) => factor * size >= most / 2);
}

function option(element, data, writer) {
  const width = step(data);
  const ink = token("--ink"), muted = token("--muted"), line = token("--line"), panel = token("--panel");
  const palette = paletteOf(element, data);
  return {
    animation: false,
    textStyle: { fontFamily: FONT },
    grid: { left: 8, right: margin(element, data), top: 12, bottom: 4, containLabel: true },
    xAxis: {
      type: "category", data: data.starts.map((start) => bucketName(start, data)),
      axisLine: { lineStyle: { color: line } }, axisTick: { show: false },
      axisLabel: { color: muted, fontSize: 11, hideOverlap: true },
    },
    yAxis: {
      type: "value", min: 0, max: 2 * width, interval: width, axisLabel: { color: muted, fontSize: 11, formatter: (value) => writer.axis(value) },
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
        const head = `${longName(data.starts[at], data)}   ${writer.text(total)}`;
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

function swatch(each, colour) {
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of [["class", "swatch"], ["width", 10], ["height", 10], ["aria-hidden", "true"]]) mark.setAttribute(name, value);
  square.setAttribute("class", each.other ? "cat-other" : `cat-${colour}`);
  for (const [name, value] of [["width", 10], ["height", 10], ["rx", 2]]) square.setAttribute(name, value);
  mark.append(square);
  return mark;
}

/** The page with one series alone: an owner becomes its scope, anything else filters the log. */
function alone(each, by) {
  const found = new URL(location.href);
  if (!OWNERS.includes(by)) found.pathname = "/logs";
  found.searchParams.delete("by");
  found.searchParams.set(by, each.id);
  return found.pathname + found.search;
}

function legend(element, data, writer) {
  const list = element.querySelector("[data-legend]");
  if (!list) return;
  const palette = paletteOf(element, data);
  list.replaceChildren(...data.series.map((each, index) => {
    const item = document.createElement("li");
    const name = document.createElement(each.other || !each.id ? "span" : "a");
    if (name.tagName === "A") name.href = alone(each, data.by);
    name.className = "clip";
    name.textContent = each.name;
    name.title = `${each.name}: ${writer.exact(each.values.reduce((sum, value) => sum + value, 0))}`;
    item.append(swatch(each, palette[index]), name);
    return item;
  }));
}

/** Labels stand beside the last bar, each at the height of its part; where two would touch, the upper one gives way. */
function placeLegend(element, kept) {
  const list = element.querySelector("[data-legend]");
  const { data, chart } = kept;
  const beside = direct(element, data);
  element.querySelector("[data-plot]").classList.toggle("direct", beside);
  const items = [...list.children];
  for (const item of items) item.removeAttribute("style");
  if (!beside) return;
  const at = lastBar(data);
  const width = chart.getWidth();
  const slot = chart.convertToPixel({ xAxisIndex: 0 }, Math.min(at + 1, data.starts.length - 1)) - chart.convertToPixel({ xAxisIndex: 0 }, Math.max(0, Math.min(at, data.starts.length - 2)));
  const left = Math.min(chart.convertToPixel({ xAxisIndex: 0 }, at) + Math.min(slot * 0.4, 14) + 8, width - LABEL_WIDTH);
  let below = 0;
  let floor = chart.convertToPixel({ yAxisIndex: 0 }, 0) + LABEL_HEIGHT / 2;
  const tops = data.series.map((each) => {
    const middle = chart.convertToPixel({ yAxisIndex: 0 }, below + each.values[at] / 2) - LABEL_HEIGHT / 2;
    below += each.values[at];
    floor = Math.min(middle, floor - LABEL_HEIGHT);
    return floor;
  });
  // What does not fit above goes down again, from the topmost on.
  tops.reduceRight((ceiling, top, index) => {
    tops[index] = Math.max(top, ceiling);
    return tops[index] + LABEL_HEIGHT;
  }, 0);
  tops.forEach((top, index) => {
    items[index].style.left = `${left}px`;
    items[index].style.top = `${top}px`;
  });
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
    cell(row, "th", bucketName(start, data));
    for (const each of data.series) cell(row, "td", writer.text(each.values[index]), true).title = writer.exact(each.values[index]);
  });
  place.replaceChildren(made);
}

function drillInto(data, index) {
  const start = data.starts[index];
  const width = data.interval === "hour" ? 3600 : 86400;
  const end = data.starts[index + 1] ?? start + width;
  const here = new URL(location.href);
  if (data.interval === "hour") {
    here.pathname = "/logs";
    here.searchParams.delete("by");
  }
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
  element.querySelector("[data-plot]").classList.toggle("direct", direct(element, kept.data));
  kept.chart.resize();
  kept.chart.setOption(option(element, kept.data, kept.writer), true);
  placeLegend(element, kept);
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
    const asked = element.dataset.chart;
    const answer = await fetch(asked, { headers: { accept: "application/json", "cache-control": "max-age=1" } });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error?.message ?? `The API answered ${answer.status}.`);
    kept.data = read(content, asked);
    kept.writer = WRITERS[element.dataset.unit ?? "cost"];
    const empty = kept.data.series.every((each) => each.values.every((value) => !value));
    said.textContent = empty ? "Nothing was spent in this time." : "";
    said.hidden = !empty;
    legend(element, kept.data, kept.writer);
    draw(element);
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
  if (!on) draw(element);
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
      const here = new URL(location.href);
      here.searchParams.set("by", button.dataset.by);
      history.replaceState(history.state, "", here);
      load(element);
    });
  }
}
document.addEventListener("bursar:refresh", () => { for (const element of charts.keys()) load(element); });
document.addEventListener("bursar:theme", () => { for (const element of charts.keys()) draw(element); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const element of charts.keys()) draw(element); });
new ResizeObserver(() => { for (const element of charts.keys()) draw(element); }).observe(document.getElementById("content"));
document.addEventListener("keydown", (event) => {
  if (event.key !== "t" || event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey) return;
  for (const element of charts.keys()) showTable(element, element.querySelector("[data-plot]").hidden === false);
});
