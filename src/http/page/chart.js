"use strict";
// Two charts. The first has the rates into Kafka and into Postgres on one axis; the area between them is the change of the
// backlog. The second shows how long the oldest unwritten record has waited. Its axis is logarithmic, so that both one second and
// days of retention are visible. Its red line is the wait after which Kafka deletes a record; the line is always visible.
const Chart = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const signs = { rebalance: "⇄", outage: "✕", recovered: "✓", fenced: "⎇", rewind: "↶", condition: "!", start: "▸", stop: "■" };
  let rate = null, wait = null, marks = [], above = [], high = 10, width = 0, deletes = null;
  const heights = { rate: 230, wait: 170 };
  const power = (seconds) => seconds === null || seconds === undefined ? null : Math.log10(Math.max(1, seconds));
  const waits_at = [[1, "1 s"], [10, "10 s"], [60, "1 min"], [600, "10 min"], [3600, "1 h"], [36000, "10 h"], [259200, "3 d"], [2592000, "30 d"], [31536000, "1 y"]];

  // Returns the top of the rates' axis. A short spike, for example while a backlog is caught up, would flatten the rest. So if
  // the highest rate is far above the 95th percentile of the rates that aren't 0, the axis ends above that percentile, and the
  // spike is cut and marked.
  function top(into, out, least) {
    const rates = into.map((v, i) => Math.max(v || 0, out[i] || 0)).filter((v) => v > 0).sort((a, b) => a - b);
    if (!rates.length) return least * 1.15;
    const most = rates[rates.length - 1], usual = rates[Math.ceil(rates.length * 0.95) - 1];
    return Math.max(least, rates.length >= 20 && most > 2.5 * usual ? usual * 1.6 : most * 1.15);
  }

  // Returns the spikes. Consecutive values above the top are one spike, of which the highest value counts.
  function spikes(at, into, out, most) {
    const found = [];
    let within = null;
    at.forEach((t, i) => {
      const rate = Math.max(into[i] || 0, out[i] || 0);
      if (rate <= most) { within = null; return; }
      if (!within) found.push(within = { at: t, rate });
      else if (rate > within.rate) Object.assign(within, { at: t, rate });
    });
    return found;
  }

  function drawSpikes(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillStyle = css("--ink");
    ctx.textAlign = "left";
    let free = bbox.left;
    for (const spike of above) {
      const text = `▲ ${short(spike.rate)}/s`, wide = ctx.measureText(text).width;
      const x = Math.max(free, Math.min(u.valToPos(spike.at, "x", true) + 4 * devicePixelRatio, bbox.left + bbox.width - wide));
      if (x + wide > bbox.left + bbox.width) break;
      // Leave room for the row of the events' signs.
      ctx.fillText(text, x, bbox.top + 26 * devicePixelRatio);
      free = x + wide + 6 * devicePixelRatio;
    }
    ctx.restore();
  }

  // Returns a hatched fill, which is visible without colour too.
  function hatch(context, colour) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.strokeStyle = colour;
    pen.lineWidth = 1.6;
    pen.beginPath();
    for (const x of [-4, 0, 4, 8]) { pen.moveTo(x, 8); pen.lineTo(x + 8, 0); }
    pen.stroke();
    return context.createPattern(tile, "repeat");
  }

  function clock(seconds, withSeconds) {
    return new Date(seconds * 1000).toISOString().slice(11, withSeconds ? 19 : 16);
  }

  function span(seconds) {
    return seconds < 120 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : seconds < 345600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
  }

  // Label the red line.
  function drawDeletes(u) {
    if (deletes === null) return;
    const { ctx, bbox } = u, y = u.valToPos(power(deletes), "y", true);
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillStyle = css("--bad");
    ctx.textAlign = "left";
    ctx.fillText(`Kafka deletes what waits ${span(deletes)}`, bbox.left + 6 * devicePixelRatio, y + 14 * devicePixelRatio);
    ctx.restore();
  }

  function axes(unit) {
    const line = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const times = (u, at) => at.map((t) => clock(t, u.scales.x.max - u.scales.x.min < 1200));
    return [{ ...line, values: times, space: 80 }, { ...line, size: 64, values: (u, at) => at.map((v) => short(v) + unit) }];
  }

  function short(v) {
    const a = Math.abs(v);
    return a >= 1e6 ? +(v / 1e6).toFixed(1) + " M" : a >= 1e4 ? +(v / 1e3).toFixed(1) + " k" : String(+v.toFixed(1));
  }

  function drawMarks(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const { at, kind } of marks) {
      if (at < u.scales.x.min || at > u.scales.x.max) continue;
      const x = u.valToPos(at, "x", true);
      ctx.strokeStyle = ctx.fillStyle = css(kind === "outage" || kind === "stop" ? "--bad" : "--soft");
      ctx.globalAlpha = 0.5;
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top + 14 * devicePixelRatio); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      ctx.globalAlpha = 1;
      ctx.fillText(signs[kind] || "·", x, bbox.top + 11 * devicePixelRatio);
    }
    ctx.restore();
  }

  function build(rateElement, waitElement) {
    width = rateElement.clientWidth;
    const cursor = { sync: { key: "flood" }, drag: { setScale: false } };
    const plain = { points: { show: false }, spanGaps: false };
    const stepped = uPlot.paths.stepped({ align: -1 });
    const first = document.createElement("canvas").getContext("2d");
    const up = () => [0, high];
    const [time, seconds] = axes("");
    rate = new uPlot({
      width, height: heights.rate, cursor, legend: { show: false }, scales: { x: { time: true }, y: { range: up } }, axes: axes("/s"),
      series: [{},
        { ...plain, stroke: css("--in"), width: 2, paths: stepped },
        { ...plain, stroke: css("--out"), width: 3, paths: stepped },
        { ...plain, stroke: css("--soft"), width: 1, dash: [8, 6] },
        { ...plain, stroke: css("--soft"), width: 1, dash: [2, 4] }],
      bands: [{ series: [1, 2], fill: hatch(first, css("--grow")) }, { series: [2, 1], fill: css("--out") + "44" }],
      hooks: { draw: [drawMarks, drawSpikes] },
    }, [[], [], [], [], []], rateElement);
    wait = new uPlot({
      width, height: heights.wait, cursor, legend: { show: false }, scales: { x: { time: true }, y: { range: (u, low, high) => [0, Math.max(2, (high || 0) + 0.3)] } },
      axes: [time, { ...seconds, splits: (u) => waits_at.map(([at]) => power(at)).filter((at) => at <= u.scales.y.max), filter: (u, at) => at, values: (u, at) => at.map((_, i) => waits_at[i][1]) }],
      series: [{},
        { ...plain, stroke: css("--grow"), width: 2, fill: css("--grow") + "22" },
        { ...plain, stroke: css("--grow"), width: 2, dash: [2, 5] },
        { ...plain, stroke: css("--bad"), width: 3 }],
      hooks: { draw: [drawMarks, drawDeletes] },
    }, [[], [], [], []], waitElement);
  }

  // `history`: columns as /api/history returns them. Returns how many spikes are cut and the highest of them, or null if none is.
  function draw(rateElement, waitElement, history, view) {
    if (typeof uPlot === "undefined" || rateElement.clientWidth === 0) return null;
    if (!rate) build(rateElement, waitElement);
    if (rateElement.clientWidth !== width) {
      width = rateElement.clientWidth;
      rate.setSize({ width, height: heights.rate });
      wait.setSize({ width, height: heights.wait });
    }
    // For a daemon that started recently, the chart shows only the time since its start, but at least a minute.
    const now = view.now / 1000, began = history.at_ms.length ? history.at_ms[0] / 1000 : now, from = Math.max(now - view.range, Math.min(began, now - 60));
    const at = [], into = [], out = [], waits = [], gone = [];
    history.at_ms.forEach((ms, i) => {
      if (ms / 1000 < from) return;
      // A gap in time is a gap in the line.
      if (at.length && ms / 1000 - at[at.length - 1] > history.step_seconds * 3.5) {
        at.push(at[at.length - 1] + history.step_seconds);
        for (const column of [into, out, waits, gone]) column.push(null);
      }
      at.push(ms / 1000);
      into.push(history.into[i]);
      out.push(history.out[i]);
      waits.push(history.wait[i]);
      gone.push(history.headroom[i] === null ? null : history.wait[i] + history.headroom[i]);
    });
    const ahead = view.emptyIn === null ? 0 : Math.min(view.emptyIn, view.range / 2);
    marks = view.marks;
    const flat = (value) => at.map(() => value || null);
    high = top(into, out, 10);
    above = spikes(at, into, out, high);
    // Show the best rate and the limit unless that would flatten the rates.
    for (const line of [view.best, view.limit]) if (!above.length && line && line < 2 * high) high = Math.max(high, line * 1.15);
    rate.batch(() => {
      rate.setData([at, into, out, flat(view.best), flat(view.limit)], false);
      rate.setScale("x", { min: from, max: now + ahead });
    });
    deletes = gone.reduce((last, v) => v === null ? last : v, null);
    const forecast = at.map(() => null), times = at.slice();
    if (ahead > 0 && at.length) {
      const last = waits[waits.length - 1] || 0;
      forecast[forecast.length - 1] = last;
      // On a logarithmic axis, a linear decrease is a curve.
      for (let step = 1; step <= 20; step += 1) {
        times.push(now + ahead * step / 20);
        waits.push(null); gone.push(null);
        forecast.push(last * (1 - ahead * step / 20 / view.emptyIn));
      }
    }
    wait.batch(() => {
      wait.setData([times, waits.map(power), forecast.map(power), gone.map(power)], false);
      wait.setScale("x", { min: from, max: now + ahead });
    });
    return above.length ? { spikes: above.length, peak: Math.max(...above.map((spike) => spike.rate)) } : null;
  }

  // Colours are read when a chart is built, so a change of the theme rebuilds the charts.
  function forget() {
    for (const chart of [rate, wait]) if (chart) chart.destroy();
    rate = wait = null;
  }
  return { draw, forget, top };
})();
