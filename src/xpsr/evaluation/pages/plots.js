// Distributions, and the pictures that stand out. Depends on base.js and tables.js.

function quantile(sorted, part) {
  const at = part * (sorted.length - 1);
  const [low, high] = [Math.floor(at), Math.ceil(at)];
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Some five round numbers between two. */
function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

const tip = {
  show(text, box) {
    const place = find("tip");
    place.textContent = text;
    place.hidden = false;
    place.style.left = `${clamp(box.left + box.width / 2 - place.offsetWidth / 2, 8, innerWidth - place.offsetWidth - 8)}px`;
    place.style.top = `${box.top > 50 ? box.top - place.offsetHeight - 8 : box.bottom + 8}px`;
  },
  hide() { find("tip").hidden = true; },
};

function plotOf(data, k, viewer) {
  const metric = data.metrics[k];
  const values = measured(data.methods.flatMap((method) => method.scores[k]));
  if (!values.length) return null;
  const digits = digitsOf(values);
  const [width, rowHeight, left, right] = [600, 58, 8, 8];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const at = (value) => left + 6 + ((width - left - right - 12) * (value - low)) / (high - low);
  const height = data.methods.length * rowHeight + 26;
  const scale = ticks(low, high);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${metric.title}: dots of every picture` });
  for (const tick of scale.found) {
    svg.append(draw("line", { class: "grid", x1: at(tick), x2: at(tick), y1: 0, y2: height - 24 }),
      draw("text", { x: clamp(at(tick), 14, width - 14), y: height - 6, "text-anchor": "middle" }, tick.toFixed(scale.digits)));
  }
  data.methods.forEach((method, m) => svg.append(rowOf(data, k, m, { y: m * rowHeight, width, rowHeight, at, digits, viewer })));
  return make("div", { class: "plot" }, make("h3", {}, metric.title, make("span", {}, direction(metric))), svg);
}

function rowOf(data, k, m, { y, width, rowHeight, at, digits, viewer }) {
  const points = data.names.map((name, i) => ({ name, i, value: data.methods[m].scores[k][i] }))
    .filter(({ value }) => value !== null).sort((a, b) => a.value - b.value);
  const middle = y + 38;
  const values = points.map(({ value }) => value);
  const row = draw("g", { class: `row ${tone(m)}`, tabindex: points.length ? 0 : null, role: "img" },
    draw("rect", { class: "hit", x: 1, y: y + 1, width: width - 2, height: rowHeight - 2, rx: 6 }),
    draw("text", { class: "name", x: 8, y: y + 17 }, data.methods[m].name));
  if (!points.length) return row;
  const [q1, q2, q3] = [0.25, 0.5, 0.75].map((part) => quantile(values, part));
  row.setAttribute("aria-label", `${data.methods[m].name}: median ${q2.toFixed(digits)}, from ${values[0].toFixed(digits)} to ${values.at(-1).toFixed(digits)}. Arrow keys step through the pictures.`);
  row.append(draw("rect", { class: "box", x: at(q1), y: middle - 12, width: Math.max(at(q3) - at(q1), 1), height: 24, rx: 4 }));
  // dots keep clear of each other a little: the order of names, not chance, shifts them
  const dots = points.map(({ i, value }) => draw("circle", { cx: at(value), cy: middle + (((i * 7) % 11) - 5) * 1.5, r: points.length > 200 ? 3 : 4.5 }));
  row.append(draw("g", { class: dots.length > 200 ? "many" : null }, ...dots),
    draw("line", { class: "median", x1: at(q2), x2: at(q2), y1: middle - 13, y2: middle + 13 }));
  let current = -1;
  const light = (index) => {
    dots[current]?.classList.remove("on");
    current = index;
    if (index < 0) return tip.hide();
    dots[index].classList.add("on");
    tip.show(`${points[index].name}: ${points[index].value.toFixed(digits)}`, dots[index].getBoundingClientRect());
  };
  const open = () => current >= 0 && viewer.has(points[current].i) && viewer.open(points[current].i, { right: `m${m}` });
  dots.forEach((dot, index) => {
    dot.addEventListener("pointerenter", () => light(index));
    dot.addEventListener("pointerleave", () => light(-1));
    dot.addEventListener("click", open);
  });
  row.addEventListener("keydown", (event) => {
    const last = dots.length - 1;
    const next = { ArrowRight: current + 1, ArrowLeft: current < 0 ? last : current - 1, Home: 0, End: last }[event.key];
    if (event.key === "Enter") open();
    else if (next === undefined) return;
    else light(clamp(next, 0, last));
    event.preventDefault();
  });
  row.addEventListener("blur", () => light(-1));
  return row;
}

function setUpPlots(data, viewer) {
  find("plots").append(...data.metrics.map((_, k) => plotOf(data, k, viewer)).filter(Boolean));
}

function setUpCases(data, viewer) {
  if (!data.metrics.length) return;
  const chooser = (label, options, chosen) => {
    const select = make("select", {}, ...options.map((name, at) => make("option", { value: at, selected: at === chosen }, name)));
    select.addEventListener("change", refresh);
    find("cases-bar").append(make("label", {}, label, select));
    return select;
  };
  const names = data.methods.map((method) => method.name);
  const metricSelect = chooser("Metric", data.metrics.map((metric) => metric.title), 0);
  const first = chooser("Method", names, 0);
  const second = names.length > 1 ? chooser("against", names, 1) : null;

  function refresh() {
    const k = Number(metricSelect.value);
    const metric = data.metrics[k];
    const [a, b] = [Number(first.value), second ? Number(second.value) : null];
    const digits = digitsOf(data.methods.flatMap((method) => measured(method.scores[k])));
    const of = (m) => data.names.map((_, i) => ({ i, m, value: data.methods[m].scores[k][i] })).filter(({ value }) => value !== null);
    const sign = metric.lower ? -1 : 1;
    const list = (title, rows, text, other) => make("div", {}, make("h3", {}, title),
      rows.length
        ? make("ol", {}, ...rows.slice(0, 3).map((row) => make("li", {}, caseButton(row.i, text(row), { left: other === undefined ? null : `m${other}`, right: `m${row.m}` }))))
        : make("p", { class: "small soft" }, "none"));
    const single = ({ value }) => value.toFixed(digits);
    const both = (row) => `${row.value.toFixed(digits)} | ${row.against.toFixed(digits)}`;
    const [worst, best] = metric.lower === null ? ["Lowest", "Highest"] : ["Worst", "Best"];
    const groups = [];
    for (const [m, other] of b === null || a === b ? [[a, null]] : [[a, b], [b, a]]) {
      const rows = of(m).sort((x, y) => sign * (x.value - y.value));
      if (other !== null) {
        const gaps = rows.map((row) => ({ ...row, against: data.methods[other].scores[k][row.i] })).filter((row) => row.against !== null)
          .map((row) => ({ ...row, gap: sign * (row.value - row.against) })).filter((row) => row.gap > 0).sort((x, y) => y.gap - x.gap);
        groups.push(list(`${names[m]} ${metric.lower === null ? "furthest above" : "most ahead of"} ${names[other]}`, gaps, both, other));
      }
      groups.push(list(`${worst} of ${names[m]}`, rows, single), list(`${best} of ${names[m]}`, [...rows].reverse(), single));
    }
    find("cases").replaceChildren(...groups);
  }

  function caseButton(i, text, sides) {
    const picture = viewer.picture(i);
    return make("button", { type: "button", class: "case", disabled: !picture, title: picture ? "Show it" : "Its picture is not in this page", onclick: () => viewer.open(i, sides) },
      picture ? make("img", { src: picture.thumbnail, alt: "" }) : make("span", { class: "none" }),
      make("span", {}, data.names[i]), make("span", { class: "small soft" }, text));
  }

  refresh();
}
