// Numbers and tables of a report. Depends on base.js.

/** Digits after the point that tell the pictures of a metric apart. */
function digitsOf(values) {
  const most = Math.max(...values.map(Math.abs), 0);
  return most >= 10 ? 2 : most >= 1 ? 3 : 4;
}

const measured = (values) => values.filter((value) => value !== null);
const arrow = (metric) => (metric.lower === null ? "" : metric.lower ? " ↓" : " ↑");
const direction = (metric) => (metric.lower === null ? "neither way is better" : metric.lower ? "lower is better" : "higher is better");
const tone = (index) => `m${index % 6}`;
const methodLabel = (data, index) => make("span", { class: `key ${tone(index)}` }, make("span", {}, data.methods[index].name));

/** Below zero if a comes before b; what was not measured comes last whichever way. */
function compareValues(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

/**
 * A table whose columns sort. A column has `title`, `hint`, `isText`, `first` (which way it sorts at first, 1 or -1),
 * `value(row)` and `cell(row)`, which makes a td or th. Only `page` rows are shown until `grow` is called.
 */
class SortableTable {
  constructor(place, caption, columns, rows, { page = Infinity } = {}) {
    Object.assign(this, { columns, rows, page, shown: page, order: null });
    this.heads = columns.map((column, index) =>
      make("th", { scope: "col", class: column.isText ? "text" : null, "aria-sort": "none" },
        make("button", { type: "button", title: column.hint, onclick: () => this.sort(index) }, column.title)));
    this.body = make("tbody");
    place.append(make("table", {}, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, ...this.heads)), this.body));
    this.refresh();
  }

  sort(index) {
    const first = this.columns[index].first ?? 1;
    const sign = this.order?.index === index ? -this.order.sign : first;
    this.order = { index, sign };
    this.heads.forEach((head, at) =>
      head.setAttribute("aria-sort", at !== index ? "none" : sign > 0 ? "ascending" : "descending"));
    this.refresh();
  }

  setRows(rows) { Object.assign(this, { rows, shown: this.page }); this.refresh(); }
  grow() { this.shown += this.page; this.refresh(); }

  refresh() {
    const rows = [...this.rows];
    if (this.order) {
      const { value } = this.columns[this.order.index];
      rows.sort((a, b) => compareValues(value(a), value(b), this.order.sign));
    }
    this.body.replaceChildren(...rows.slice(0, this.shown).map((row) => make("tr", {}, ...this.columns.map((column) => column.cell(row)))));
  }
}

/** A mean as a dot and its interval as a bar, on the scale that all methods of the metric share. */
function whisker(interval, low, high) {
  const at = (value) => (high > low ? 4 + (92 * (value - low)) / (high - low) : 50);
  return draw("svg", { class: "whisker", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("line", { class: "rail", x1: 0, x2: 100, y1: 5, y2: 5 }),
    draw("line", { class: "span", x1: at(interval.low), x2: at(interval.high), y1: 5, y2: 5 }),
    draw("ellipse", { class: "dot", cx: at(interval.mean), cy: 5, rx: 3.2, ry: 3.8 }));
}

function setUpSummary(data) {
  const columns = [{
    title: "Method", isText: true, value: (m) => data.methods[m].name,
    cell: (m) => make("th", { scope: "row" }, methodLabel(data, m)),
  }];
  data.metrics.forEach((metric, k) => {
    const known = data.methods.map((method) => method.intervals[k]).filter(Boolean);
    const [low, high] = [Math.min(...known.map((one) => one.low)), Math.max(...known.map((one) => one.high))];
    const digits = digitsOf(known.map((one) => one.mean));
    columns.push({
      title: metric.title + arrow(metric), hint: `${metric.name}: ${direction(metric)}`, first: metric.lower === false ? -1 : 1,
      value: (m) => data.methods[m].intervals[k]?.mean ?? null,
      cell: (m) => {
        const interval = data.methods[m].intervals[k];
        if (!interval) return make("td", { class: "soft" }, "–", make("span", { class: "unseen" }, " not measured"));
        const isBest = data.best[k].includes(m);
        const partial = interval.count < data.names.length ? `${interval.count} of ${data.names.length} pictures` : null;
        return make("td", { class: isBest ? "best" : null },
          make("span", { class: "mean" }, interval.mean.toFixed(digits), isBest ? make("span", { class: "unseen" }, " (best)") : null),
          make("span", { class: "range" }, `${interval.low.toFixed(digits)} – ${interval.high.toFixed(digits)}`),
          partial && make("span", { class: "range" }, partial),
          dress(whisker(interval, low, high), { class: `whisker ${tone(m)}` }, []));
      },
    });
  });
  new SortableTable(find("summary-table"), "Means of every method", columns, data.methods.map((_, m) => m));
  find("summary-note").textContent = "Means over the pictures, and below them 95 % bootstrap intervals. "
    + "↑ higher is better, ↓ lower is better, ★ the best mean, which need not be better by more than chance: "
    + "methods saw the same pictures, so their differences tell, not whether intervals overlap.";
  const missing = Object.entries(data.notMeasured);
  if (missing.length) {
    find("not-measured").append(make("div", { class: "missing" }, make("strong", {}, "Not measured"),
      make("dl", {}, ...missing.flatMap(([name, why]) => [make("dt", {}, name), make("dd", {}, why)]))));
  }
}

/** Differences of each two methods with their tests; open where they are few. */
function setUpDifferences(data) {
  const rows = data.differences;
  if (!rows.length || !data.metrics.length) return;
  const label = ({ first, second }) => `${data.methods[second].name} − ${data.methods[first].name}`;
  const columns = [{ title: "Difference", isText: true, value: label, cell: (row) => make("th", { scope: "row" }, label(row)) }];
  data.metrics.forEach((metric, k) => {
    const digits = digitsOf(measured(rows.map(({ cells }) => cells[k])).map(({ mean }) => mean));
    const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(digits)}`;
    columns.push({
      title: metric.title + arrow(metric), hint: `${metric.name}: ${direction(metric)}`, first: metric.lower === false ? -1 : 1,
      value: ({ cells }) => cells[k]?.mean ?? null,
      cell: ({ cells }) => {
        const one = cells[k];
        if (!one) return make("td", { class: "soft" }, "–", make("span", { class: "unseen" }, " not measured"));
        const p = one.p === null ? null : one.p < 0.001 ? "p < 0.001" : `p ${one.p.toFixed(3)}`;
        return make("td", { class: one.p !== null && one.p < 0.05 ? "is-sure" : null },
          make("span", { class: "mean" }, signed(one.mean)),
          one.count > 1 ? make("span", { class: "range" }, `${signed(one.low)} to ${signed(one.high)}`) : null,
          p && make("span", { class: "range" }, p));
      },
    });
  });
  new SortableTable(find("differences-table"), "Differences between methods", columns, rows);
  find("differences-summary").textContent = `Differences of each two methods (${rows.length})`;
  Object.assign(find("differences"), { hidden: false, open: rows.length <= 6 });
}

function setUpScores(data, viewer) {
  const all = data.methods.flatMap((_, m) => data.names.map((_, i) => ({ m, i })));
  all.sort((a, b) => a.i - b.i || a.m - b.m);
  const columns = [
    {
      title: "Picture", isText: true, value: ({ i }) => data.names[i],
      cell: ({ i, m }) => make("td", { class: "text long" }, viewer.has(i)
        ? make("button", { type: "button", class: "link", title: "Show it", onclick: () => viewer.open(i, { right: `m${m}` }) }, data.names[i])
        : data.names[i]),
    },
    { title: "Method", isText: true, value: ({ m }) => data.methods[m].name, cell: ({ m }) => make("td", { class: "text" }, methodLabel(data, m)) },
    ...data.metrics.map((metric, k) => {
      const digits = digitsOf(data.methods.flatMap((method) => measured(method.scores[k])));
      const value = ({ m, i }) => data.methods[m].scores[k][i];
      return {
        title: metric.title + arrow(metric), hint: `${metric.name}: ${direction(metric)}`, value, first: metric.lower === false ? -1 : 1,
        cell: (row) => make("td", {}, value(row)?.toFixed(digits) ?? "–"),
      };
    }),
  ];
  const table = new SortableTable(find("all-table"), "Scores of every picture", columns, all, { page: 60 });
  const [method, name, more] = [find("filter-method"), find("filter-name"), find("more")];
  method.append(make("option", { value: "" }, "all"), ...data.methods.map((one, m) => make("option", { value: m }, one.name)));
  const count = () => {
    const shown = Math.min(table.shown, table.rows.length);
    find("count").textContent = shown < table.rows.length ? `${shown} of ${table.rows.length} rows` : `${shown} rows`;
    more.hidden = shown >= table.rows.length;
  };
  const filter = () => {
    const part = name.value.trim().toLowerCase();
    table.setRows(all.filter(({ m, i }) => (method.value === "" || m === Number(method.value)) && data.names[i].toLowerCase().includes(part)));
    count();
  };
  method.addEventListener("change", filter);
  name.addEventListener("input", filter);
  more.addEventListener("click", () => { table.grow(); count(); });
  count();
}

/** Facts of any depth, as lists of terms. */
function factsOf(value) {
  if (Array.isArray(value)) return value.every((one) => typeof one !== "object") ? value.join(", ") : make("div", {}, ...value.map(factsOf));
  if (value !== null && typeof value === "object") {
    return make("dl", { class: "facts" }, ...Object.entries(value).flatMap(([name, one]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, factsOf(one))]));
  }
  return value === null ? "–" : value === true ? "yes" : value === false ? "no" : String(value);
}
