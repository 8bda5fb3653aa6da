// Keeps the page up to date and draws its charts. Without it, the page reloads itself and shows the same.
"use strict";

(() => {
  const charts = new Map();
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  // ---------------------------------------------------------------- charts

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const options = (kind, width) => {
    const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
    const digits = kind === "loss" ? 3 : 0;
    const words = (value) => value == null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return {
      width,
      height: 220,
      scales: { x: { time: false }, y: kind === "loss" ? {} : { range: (_, __, most) => [0, (most || 1) * 1.08] } },
      axes: [
        { ...axis, grid: { show: false }, space: 60, size: 32 },
        { ...axis, size: 56, values: (_, marks) => marks.map((mark) => kind === "loss" ? mark.toLocaleString("en", { maximumFractionDigits: 2 }) : short(mark)) },
      ],
      hooks: { setCursor: [(chart) => newest(chart)] },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      series: [
        { label: "round", value: (_, value) => value == null ? "–" : value.toLocaleString("en") },
        { label: kind === "loss" ? "loss" : "tokens", stroke: () => colour("--accent"), width: 2, points: { show: false }, spanGaps: true, value: (_, value) => words(value) },
      ],
    };
  };

  const short = (value) => {
    const power = Math.min(5, Math.max(0, Math.floor(Math.log10(Math.abs(value) || 1) / 3)));
    return `${+(value / 1000 ** power).toPrecision(3)} ${["", "k", "M", "G", "T", "P"][power]}`.trim();
  };

  const columns = (kind, curve) => kind === "loss" ? [curve.loss_rounds, curve.losses] : [curve.rounds, curve.tokens];

  // The legend says the newest point's values, as long as no other is pointed at.
  const newest = (chart) => { if (chart.cursor.idx == null) chart.setLegend({ idx: chart.data[0].length - 1 }); };

  const draw = async () => {
    const places = [...document.querySelectorAll("[data-chart]")];
    if (!places.length || typeof uPlot === "undefined") return;
    const answer = await fetch("/api/v1/curve");
    if (!answer.ok) return;
    const curve = await answer.json();
    for (const place of places) {
      const kind = place.dataset.chart;
      const data = columns(kind, curve);
      if (!data[0].length) continue;
      const known = charts.get(place);
      if (known) {
        known.setData(data);
        newest(known);
        continue;
      }
      const drawn = place.querySelector(".drawn");
      const chart = new uPlot(options(kind, place.clientWidth), data, place);
      charts.set(place, chart);
      newest(chart);
      if (drawn) drawn.remove();
      place.classList.add("drawn-over");
      place.setAttribute("role", "img");
      place.setAttribute("aria-labelledby", `${kind}-title`);
    }
  };

  const fit = () => {
    for (const [place, chart] of charts) {
      const { width, height } = options(place.dataset.chart, place.clientWidth);
      if (width) chart.setSize({ width, height });
    }
  };

  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of charts.values()) chart.redraw(false, true);
  });

  // ---------------------------------------------------------------- what is new

  // The server writes every word: parts of the page are taken from the page as it would be if opened now.
  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (!other || other.isEqualNode(part)) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
      const href = focused && focused.getAttribute("href");
      const label = focused && focused.getAttribute("aria-label");
      part.replaceChildren(...[...other.childNodes].map((node) => document.importNode(node, true)));
      part.querySelectorAll(".scroll").forEach((one, place) => { one.scrollLeft = scrolled[place] || 0; });
      const again = focused && [...part.querySelectorAll("a, [tabindex]")].find((one) =>
        href ? one.getAttribute("href") === href : label && one.getAttribute("aria-label") === label);
      if (again) again.focus({ preventScroll: true });
    }
    for (const figure of document.querySelectorAll(".chart")) {
      const other = fresh.getElementById(figure.id);
      const began = other && other.querySelector("[data-chart]") && !figure.querySelector("[data-chart]");
      if (began) figure.replaceWith(document.importNode(other, true)); // the first points are here
    }
    await draw();
  };

  const lamp = document.getElementById("live");
  const spoken = document.getElementById("spoken");
  let mood = "";
  let busy = false;
  let again = false;

  const news = async (said) => {
    const word = said.split(".")[0];
    if (mood && mood !== word) spoken.textContent = said; // said aloud only when something else begins
    mood = word;
    again = true;
    if (busy) return;
    busy = true;
    while (again && !document.hidden) {
      again = false;
      await refresh().catch(() => {});
      await wait(500);
    }
    busy = false;
  };

  const follow = () => {
    const stream = new EventSource("/events");
    stream.addEventListener("open", () => { lamp.hidden = false; lamp.textContent = "live"; lamp.classList.remove("away"); });
    stream.addEventListener("error", () => { lamp.hidden = false; lamp.textContent = "waiting for the observer"; lamp.classList.add("away"); });
    stream.addEventListener("picture", (event) => news(JSON.parse(event.data).said));
    addEventListener("pagehide", () => stream.close());
    document.addEventListener("visibilitychange", () => { if (!document.hidden && again) news(mood + "."); });
  };

  // ---------------------------------------------------------------- copying a command

  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      spoken.textContent = "Copied.";
      await wait(2000);
      button.textContent = "Copy";
    });
  }

  draw().catch(() => {});
  follow();
})();
