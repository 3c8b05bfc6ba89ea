// The little that the console does by itself: charts, the live stream, and a key for the search.
"use strict";
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Charts: <div data-chart="URL">, whose answer is { series: [{ label, colour, unit? }], data: [[seconds], [values], ...] }.
  const charts = new Map();
  const clockText = (seconds, step) => {
    const text = new Date(seconds * 1e3).toISOString();
    return step >= 86400 ? text.slice(5, 10) : text.slice(11, 16);
  };
  const draw = async (element) => {
    const response = await fetch(element.dataset.chart, { headers: { accept: "application/json" } });
    if (!response.ok) {
      charts.get(element)?.destroy();
      charts.delete(element);
      element.textContent = "no data: " + response.status;
      return;
    }
    const { series, data } = await response.json();
    const known = charts.get(element);
    if (known) { known.setData(data); return; }
    const axis = () => ({ stroke: style("--faint"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line") } });
    const options = {
      width: element.clientWidth || 400, height: 190, legend: { live: true },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
      axes: [{ ...axis(), values: (_, splits, __, ___, step) => splits.map((at) => clockText(at, step)) }, { ...axis(), size: 56 }],
      series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm} UTC" }, ...series.map((one, index) => ({
        label: one.label, stroke: style(one.colour), width: 2, dash: index ? [6, 4] : undefined, points: { show: one.unit !== "", size: 5 }, spanGaps: false,
        value: (_, value) => value == null ? "-" : value + (one.unit || ""),
      }))],
    };
    element.textContent = "";
    charts.set(element, new uPlot(options, data, element));
  };
  const drawAll = () => document.querySelectorAll("[data-chart]").forEach((element) => draw(element).catch(() => {}));
  addEventListener("resize", () => charts.forEach((chart, element) => chart.setSize({ width: element.clientWidth, height: 190 })));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    charts.forEach((chart) => chart.destroy());
    charts.clear();
    drawAll();
  });
  setInterval(() => { if (!document.hidden) drawAll(); }, 15000);

  // The live stream: <table data-live="URL" data-link="URL of the search">.
  const MOST_ROWS = 200;
  const cell = (row, text, kind) => {
    const made = row.insertCell();
    if (kind) made.className = kind;
    made.textContent = text ?? "";
    return made;
  };
  const answer = (one) => one.error ?? (one.status ? "answered " + one.status : one.reason ?? "");
  const colour = (one) => one.verdict === "delivered" ? "good" : one.what === "dead" || one.what === "rejected" || one.verdict === "dead" ? "bad" : one.verdict === "retry" ? "warn" : "";
  const follow = (table) => {
    const body = table.tBodies[0];
    const state = document.getElementById("live-state");
    const button = document.getElementById("live-pause");
    let paused = false;
    let leftOut = 0;
    let seen = 0;
    button?.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Go on" : "Pause";
    });
    const source = new EventSource(table.dataset.live);
    const tell = (text) => { if (state) state.textContent = text; };
    source.onopen = () => tell("watching");
    source.onerror = () => tell("not connected, trying again");
    source.addEventListener("glimpse", (event) => {
      const one = JSON.parse(event.data);
      leftOut += one.left_out;
      seen += 1;
      if (paused) return;
      const row = body.insertRow(0);
      row.className = "fresh";
      cell(row, one.at.slice(11, 23), "time mono");
      const tag = document.createElement("span");
      tag.className = "tag " + colour(one);
      tag.textContent = one.what === "attempt" ? one.verdict : one.what;
      cell(row, "").append(tag);
      cell(row, [one.integrator, one.endpoint].filter(Boolean).join(" / "));
      const link = document.createElement("a");
      link.textContent = one.event_id ?? "";
      link.href = table.dataset.link + encodeURIComponent(one.event_id ?? "") + "&integrator=" + encodeURIComponent(one.integrator ?? "");
      cell(row, "", "mono").append(link);
      cell(row, answer(one));
      cell(row, one.took_ms == null ? "" : one.took_ms + " ms", "number");
      while (body.rows.length > MOST_ROWS) body.deleteRow(-1);
      tell("watching: " + seen + " shown" + (leftOut ? ", " + leftOut + " more left out" : ""));
    });
  };

  // A page whose worker does not answer any more says so: its figures are old.
  const lost = () => {
    if (document.getElementById("lost")) return;
    const note = document.createElement("p");
    note.id = "lost";
    note.className = "note bad";
    note.setAttribute("role", "alert");
    note.textContent = "Not connected since " + new Date().toISOString().slice(11, 19) + " UTC: what is shown is old.";
    document.querySelector("main").prepend(note);
  };
  addEventListener("htmx:sendError", lost);
  addEventListener("htmx:responseError", lost);
  addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) document.getElementById("lost")?.remove(); });

  // What nobody looks at is not asked for again and again.
  addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.detail.requestConfig.triggeringEvent === undefined) event.preventDefault();
  });

  addEventListener("keydown", (event) => {
    const search = document.getElementById("search");
    if (event.key === "/" && search && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName ?? "")) {
      event.preventDefault();
      search.focus();
    }
  });
  addEventListener("DOMContentLoaded", () => {
    drawAll();
    document.querySelectorAll("[data-live]").forEach(follow);
  });
})();
