"use strict";
// The live page. Everything that comes from the daemon is put in as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const page = { status: null, selected: null, range: 300, history: null, historyAsked: 0, offset: 0, seen: 0, sparks: new Map(), sparksAsked: undefined, owners: new Map(), spoken: 0, spokenKind: "", version: null, paused: false };

  function el(name, options = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(options)) {
      if (key === "text") element.textContent = value;
      else if (key === "class") element.className = value;
      else if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  // Writes only what differs, so that selections and screen readers aren't disturbed.
  function say(element, text) { if (element.textContent !== text) element.textContent = text; }

  const whole = (n) => n === null || n === undefined ? "–" : n < 1e4 ? String(Math.round(n)) : n < 1e6 ? Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, " ") : n < 1e9 ? (n / 1e6).toFixed(1) + " M" : (n / 1e9).toFixed(1) + " G";
  const span = (s) => s === null || s === undefined ? "–" : s < 9.95 ? s.toFixed(1) + " s" : s < 120 ? Math.round(s) + " s" : s < 7200 ? Math.round(s / 60) + " min" : s < 345600 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " d";
  const clock = (ms) => new Date(ms).toISOString().slice(11, 19);
  const date = (ms) => new Date(ms).toISOString().slice(0, 10);
  const bytes = (n) => n === null || n === undefined ? "–" : n < 1e6 ? Math.round(n / 1e3) + " kB" : (n / 1048576).toFixed(0) + " MiB";
  const now = () => Date.now() + page.offset;
  // Returns whether the lag is out of date, because the log ends were read more than 10 s ago or never.
  const stale = (p) => p.lag_seen_ms === null || now() - p.lag_seen_ms > 10000;
  const chosen = () => page.status && page.status.pipelines.find((p) => p.name === page.selected);

  function drawState() {
    const signs = { bad: ["■", "trouble: "], warning: ["▲", "warning: "], passing: ["·", "passing: "], well: ["✓", ""] };
    const list = $("sentences"), sentences = page.status.sentences;
    while (list.children.length > sentences.length) list.lastChild.remove();
    sentences.forEach((sentence, i) => {
      let item = list.children[i];
      if (!item) list.append(item = el("li", {}, el("b", { "aria-hidden": "true" }), el("span", { class: "unseen" }), el("span"), " ", el("a", { text: "runbook" })));
      item.className = sentence.level;
      const [sign, word] = signs[sentence.level] || ["·", ""];
      [sign, word, sentence.text].forEach((text, at) => say(item.children[at], text));
      const link = item.children[3];
      link.hidden = !sentence.runbook;
      if (sentence.runbook) { link.href = `/runbook#${sentence.runbook}`; link.setAttribute("aria-label", `runbook: ${sentence.kind.replaceAll("_", " ")}`); }
    });
    // Announce the first sentence to screen readers at most every ten seconds, and only if its subject has changed.
    const first = sentences[0], kind = first ? `${first.kind}/${first.pipeline}` : "";
    if (first && kind !== page.spokenKind && Date.now() - page.spoken > 10000) {
      page.spoken = Date.now();
      page.spokenKind = kind;
      say($("spoken"), first.text);
    }
    document.title = `${first && first.level === "bad" ? "■ " : first && first.level === "warning" ? "▲ " : ""}tidegate · ${page.status.host}`;
    const others = page.status.instances.length;
    const looked = page.status.instances_seen_ms, old = looked !== null && now() - looked > 10000;
    say($("where"), `${page.status.instance} · ${others + 1} instance${others ? "s" : ""}${old ? ` (others as seen at ${clock(looked)})` : ""} · v${page.status.tidegate}`);
  }

  // Draws the rates of the last minute. Each value is the time and both rates of one second.
  function spark(row, pipeline) {
    const from = now() - 60000, values = (page.sparks.get(pipeline.name) || []).filter(([at]) => at >= from);
    const top = Chart.top(values.map((v) => v[1]), values.map((v) => v[2]), 1);
    const line = (of) => values.filter((v) => v[of] !== null).map((v) => `${((v[0] - from) * 72 / 60000).toFixed(1)},${(19 - Math.min(1, (v[of] || 0) / top) * 18).toFixed(1)}`).join(" ");
    const svg = row.querySelector("svg");
    svg.children[0].setAttribute("points", line(1));
    svg.children[1].setAttribute("points", line(2));
  }

  function drawPipelines() {
    const body = $("pipelines").tBodies[0], labels = ["pipeline", "table", "in/s", "out/s", "last minute", "oldest unwritten", "caught up at", "headroom", "dead", "state"];
    const pipelines = page.status.pipelines;
    while (body.children.length > pipelines.length) body.lastChild.remove();
    pipelines.forEach((p, i) => {
      let row = body.children[i];
      if (!row) {
        row = el("tr", { tabindex: "-1" });
        labels.forEach((label, at) => row.append(el("td", { "data-label": label, class: at === 0 ? "name" : at === 9 ? "state" : at > 1 && at !== 4 ? "n" : "" })));
        const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        svg.setAttribute("class", "spark");
        svg.setAttribute("aria-hidden", "true");
        for (const kind of ["i", "o"]) {
          const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
          line.setAttribute("class", kind);
          svg.append(line);
        }
        row.children[4].append(svg);
        row.children[9].append(el("span"), el("small"));
        body.append(row);
      }
      const empty = p.empty_in_seconds === null ? (!stale(p) && p.lag_records > 0 && p.lag_seconds > 10 ? "not at this rate" : "–") : clock(now() + p.empty_in_seconds * 1000);
      row.dataset.name = p.name;
      const mine = p.name === page.selected;
      row.setAttribute("aria-selected", String(mine));
      row.tabIndex = mine ? 0 : -1;
      [`${mine ? "▾" : "▸"} ${p.name}`, `${p.table} (${p.mode})`, whole(p.into_per_second), whole(p.out_per_second), null,
        p.lag_records && !stale(p) ? span(p.lag_seconds) : "–", empty, stale(p) ? "–" : p.retention_unlimited ? "no limit" : span(p.retention_headroom_seconds), whole(p.dead_letters)].forEach((text, at) => {
        if (text !== null) say(row.children[at], text);
      });
      say(row.children[9].children[0], p.state_words);
      // For a running pipeline, a sentence above says what it waits for. That sentence changes every second, so don't repeat it
      // here.
      const why = (["stopped", "starting"].includes(p.state) && p.reason) || "";
      say(row.children[9].children[1], why);
      row.children[9].title = why;
      row.children[9].dataset.state = p.state;
      spark(row, p);
    });
  }

  function drawFlood(p) {
    const rates = p.into_per_second === null || p.out_per_second === null ? "The rates are unknown at the moment" : `${whole(p.into_per_second)} records per second come into Kafka, ${whole(p.out_per_second)} go into Postgres`;
    const flow = p.flow_limit_per_second ? ` Flow limit ${whole(p.flow_limit_per_second)}/s.` : "";
    const empty = p.empty_in_seconds === null ? "" : ` Caught up at ${clock(now() + p.empty_in_seconds * 1000)}, at these rates.`;
    const kept = p.retention_unlimited ? "Kafka keeps them without a limit." : p.retention_headroom_seconds === null ? "It is unknown when Kafka deletes them." : `Kafka deletes the oldest unwritten in ${span(p.retention_headroom_seconds)}.`;
    const waits = `; ${whole(p.lag_records)} wait${p.lag_records ? `, the oldest for ${span(p.lag_seconds)}` : ""}`;
    const lag = p.lag_seen_ms === null ? "." : stale(p) ? `${waits}, as read at ${clock(p.lag_seen_ms)}.` : `${waits}.`;
    say($("flood-words"), `${rates}${lag}${empty} ${p.lag_seen_ms === null ? "" : kept}${flow}`);
    const h = page.history;
    if (!h || h.pipeline !== p.name) return;
    const marks = page.status.timeline.filter((e) => e.pipeline === p.name && ["rebalance", "outage", "recovered", "fenced", "rewind", "condition", "start", "stop"].includes(e.kind)).map((e) => ({ at: e.at_ms / 1000, kind: e.kind }));
    const above = Chart.draw($("chart-rate"), $("chart-wait"), h, { now: now(), range: page.range, best: p.best_per_second, limit: p.flow_limit_per_second, emptyIn: p.empty_in_seconds, marks });
    say($("above"), above ? `▲ ${above.spikes} spike${above.spikes === 1 ? "" : "s"} above the axis, up to ${whole(above.peak)}/s.` : "");
    if ($("flood-table").closest("details").open) {
      const rows = h.at_ms.map((ms, i) => [clock(ms), whole(h.into[i]), whole(h.out[i]), whole(h.lag[i]), h.wait[i] === null ? "?" : h.wait[i].toFixed(1)]).slice(-60).reverse();
      fill($("flood-table").tBodies[0], rows, [0, 1, 1, 1, 1]);
    }
  }

  function fill(body, rows, numbers) {
    while (body.children.length > rows.length) body.lastChild.remove();
    rows.forEach((cells, i) => {
      let row = body.children[i];
      if (!row) body.append(row = el("tr", {}, ...cells.map((_, at) => el("td", { class: numbers[at] ? "n" : "" }))));
      cells.forEach((text, at) => say(row.children[at], String(text)));
    });
  }

  const signs = { flowing: ["▶", "flowing"], claiming: ["⇄", "being claimed"], waiting: ["◷", "waiting"], full: ["‖", "batch full, the writer is busy"], held: ["◼", "held by flow"], fenced: ["✕", "fenced"], stopped: ["✕", "stopped"], silent: ["?", "its consumer is silent"] };
  let boardShape = "", chips = new Map();
  // Returns the length of the bar below a partition, in percent: 0 for a wait of up to 10 s (above that, a pipeline counts as
  // behind), 100 for an hour or more. The scale is logarithmic, so that one minute (30) and ten minutes (70) differ visibly.
  const lateness = (x) => x.lag_records ? Math.round(Math.min(1, Math.max(0, Math.log10(x.lag_seconds / 10) / Math.log10(360))) * 100) : 0;

  function drawBoard(p) {
    const others = [...new Set(p.partitions.map((x) => x.topic))].length > 1;
    say($("group"), `topic ${p.topics.join(", ")} · ${p.partitions.length} partition${p.partitions.length === 1 ? "" : "s"} · group ${p.group} · ${p.protocol === "cooperative" ? "cooperative-sticky" : p.protocol}`);
    say($("rule"), p.board.rule);
    const name = (x) => others ? `${x.topic}/${x.partition}` : String(x.partition);
    $("nobody").hidden = p.board.nobody.length === 0;
    const unread = p.board.nobody.slice(0, 24).map((i) => p.partitions[i]).map((x) => x.owner ? `${name(x)} (last ${x.owner}, ${span((now() - x.unread_since_ms) / 1000)} ago)` : `${name(x)} (never read)`);
    say($("nobody"), `no consumer reads ${unread.join(", ")}${p.board.nobody.length > 24 ? ` and ${p.board.nobody.length - 24} more` : ""}`);
    $("nobody").className = p.board.columns.some((column) => column.consumers.some((seat) => seat.joining)) ? "soon" : "";
    const shape = JSON.stringify([p.name, p.board.columns]);
    if (shape !== boardShape) {
      boardShape = shape;
      chips = new Map();
      $("board").replaceChildren(...p.board.columns.map((column) => {
        const seats = column.consumers.map((seat) => {
          const where = `${column.instance}/c${seat.consumer}`, many = seat.partitions.length > 64;
          const list = el("ul", { class: many ? "chips cells" : "chips" });
          for (const i of seat.partitions) {
            const x = p.partitions[i];
            if (!x) continue;
            const key = `${p.name}\n${x.topic}\n${x.partition}`, was = page.owners.get(key);
            if (!was) page.owners.set(key, { where });
            else if (was.where !== where) page.owners.set(key, { where, was: was.where, at: Date.now(), fresh: true });
            const chip = el("li", { class: "chip", "data-partition": name(x) });
            if (page.owners.get(key).fresh) { page.owners.get(key).fresh = false; chip.classList.add("moved"); }
            chips.set(i, { chip, key, many });
            list.append(chip);
          }
          const idle = seat.partitions.length === 0, what = seat.joining ? "joining" : idle ? "idle" : seat.partitions.length;
          return el("div", { class: seat.joining ? "seat joining" : idle ? "seat idle" : "seat", "data-seat": where }, el("h4", { text: `c${seat.consumer} · ${what}` }), list);
        });
        const title = el("h3", { text: column.instance + (column.this ? " (this page)" : "") });
        // Make a link only of an HTTP URL.
        if (column.url && /^https?:\/\//.test(column.url)) title.append(" ", el("a", { href: column.url, text: "its page", rel: "noreferrer" }));
        if (column.host && !column.instance.startsWith(column.host)) title.append(` on ${column.host}`);
        return el("div", { class: "instance", "data-instance": column.instance }, title, el("div", { class: "seats" }, ...seats));
      }));
    }
    for (const [i, { chip, key, many }] of chips) {
      const x = p.partitions[i];
      if (!x) continue;
      const [sign, word] = signs[x.sign] || ["?", x.sign], words = x.sign === "waiting" && p.state_words.startsWith("waiting") ? p.state_words : word, moved = page.owners.get(key);
      const recent = moved && moved.was && Date.now() - moved.at < 15000 ? `was ${moved.was}, ${Math.round((Date.now() - moved.at) / 1000)} s ago` : "";
      if (!recent) chip.classList.remove("moved");
      say(chip, many ? name(x) + (x.sign === "flowing" ? "" : sign) : `${name(x)} ${sign}${recent ? " " + recent : ""}`);
      chip.dataset.sign = x.sign;
      chip.style.setProperty("--lag", `${lateness(x)}%`);
      const title = `${x.topic}/${x.partition}: ${words}; ${whole(x.lag_records)} unwritten${x.lag_records ? `, the oldest waits ${span(x.lag_seconds)}` : ""}${recent ? "; " + recent : ""}`;
      if (chip.title !== title) { chip.title = title; chip.setAttribute("aria-label", title); }
    }
    if ($("partitions").closest("details").open) {
      const worst = p.partitions.slice().sort((a, b) => b.lag_records - a.lag_records || a.partition - b.partition).slice(0, 20);
      fill($("partitions").tBodies[0], worst.map((x) => [`${x.topic}/${x.partition}`, x.owner || "–", (signs[x.sign] || [0, x.sign])[1], x.next, x.end, x.lag_records, span(x.lag_seconds), x.epoch]), [0, 0, 0, 1, 1, 1, 1, 1]);
    }
  }

  function drawTime(p) {
    const reads = !["starting", "stopped", "drained"].includes(p.state);
    say($("limit"), reads ? p.limit || "" : `Nothing is read while the pipeline is ${p.state}.`);
    const reader = [["poll", "waiting for Kafka"], ["decode", "decode + encode"], ["held", "held back"]];
    const writer = [["copy", "COPY"], ["commit", "ledger + commit"], ["outage", "waiting for Postgres"]];
    const box = $("time"), rows = !reads ? [] : p.consumers.slice(0, 64).flatMap((c) => [[`c${c.consumer} reader`, reader, c.time], [`c${c.consumer} writer`, writer, c.time]]);
    if (box.children.length !== rows.length) box.replaceChildren(...rows.map(() => el("div", { class: "bars" }, el("span"), el("div", { class: "bar", role: "img" }))));
    rows.forEach(([name, phases, time], i) => {
      const bar = box.children[i].children[1];
      say(box.children[i].children[0], name);
      const sum = phases.reduce((all, [phase]) => all + time[phase], 0), scale = Math.max(1, sum);
      const parts = phases.map(([phase, words]) => [phase, words, time[phase] / scale]);
      if (phases === writer) parts.unshift(["idle", "waiting for a batch", Math.max(0, 1 - sum / scale)]);
      if (bar.children.length !== parts.length) bar.replaceChildren(...parts.map(([phase]) => el("span", { class: phase })));
      parts.forEach(([, words, share], at) => {
        const percent = Math.round(share * 100), part = bar.children[at];
        part.style.width = `${share * 100}%`;
        say(part, percent >= 12 ? `${words} ${percent} %` : percent >= 4 ? String(percent) : "");
        part.title = `${words} ${percent} %`;
      });
      bar.setAttribute("aria-label", parts.map(([, words, share]) => `${words} ${Math.round(share * 100)} %`).join(", "));
    });
  }

  function drawBatches(p) {
    const b = p.batches, all = Object.values(b.by_trigger).reduce((sum, n) => sum + n, 0);
    const closed = Object.entries(b.by_trigger).map(([trigger, n]) => `${trigger} ${Math.round(n / all * 100)} %`).join(", ");
    say($("batches"), all ? `${whole(all)} batch${all === 1 ? "" : "es"}, closed by ${closed} · median ${whole(b.rows_median)} rows, ${bytes(b.bytes_median)} · written in ${b.write_p50_ms} ms p50, ${b.write_p99_ms} ms p99 (last 128 of each consumer)` : "No batch yet.");
    const m = page.status.memory;
    say($("memory"), `Memory of this process: ${bytes(m.resident_bytes)} of ${bytes(m.limit_bytes)}, ${bytes(m.buffered_bytes)} of it in open batches.`);
  }

  function drawDead(p) {
    const box = $("dead");
    if (p.dead.length === 0) { if (box.textContent !== "None since this daemon's start.") box.replaceChildren(el("p", { text: "None since this daemon's start." })); box.dataset.shape = ""; return; }
    const shape = JSON.stringify([p.name, p.dead]);
    if (box.dataset.shape === shape) return;
    box.dataset.shape = shape;
    const head = el("tr", {}, ...["reason", "since the start", "newest", "position in Kafka"].map((text) => el("th", { scope: "col", class: text === "since the start" ? "n" : "", text })));
    const rows = p.dead.map((d) => el("tr", {}, ...[["reason", d.reason], ["since the start", whole(d.count)], ["newest", d.newest.length ? `${date(d.newest[0].at_ms)} ${clock(d.newest[0].at_ms)}` : "–"],
      ["position in Kafka", d.newest.map((x) => `${x.topic}/${x.partition}@${x.offset}${x.column ? ` (${x.column})` : ""}`).join(", ")]].map(([label, text], at) => el("td", { "data-label": label, class: ["reason", "n", "newest", "places"][at], text }))));
    box.replaceChildren(el("table", { class: "cards" }, el("thead", {}, head), el("tbody", {}, ...rows)), el("p", { class: "hint" }, "Since this daemon's start. Their contents may be personal data and are only in the database: ", copyable(`tidegate dead-letters list --config FILE --pipeline ${p.name}`)));
  }

  function copyable(command) {
    const code = el("code", { text: command }), button = el("button", { type: "button", text: "copy" });
    button.addEventListener("click", () => {
      if (navigator.clipboard) navigator.clipboard.writeText(command).then(() => say(button, "copied"), () => say(button, "select it"));
    });
    return el("span", {}, code, " ", button);
  }

  const lastId = (events) => events.reduce((last, e) => Math.max(last, e.id), -1);

  function drawTimeline() {
    const list = $("timeline"), events = page.status.timeline, newest = lastId(events);
    if (list.dataset.newest === `${page.status.instance}/${newest}`) return;
    list.dataset.newest = `${page.status.instance}/${newest}`;
    // Sort the events by time and not by id, because an event that was reported late has a later id.
    list.replaceChildren(...events.slice().sort((a, b) => b.at_ms - a.at_ms || b.id - a.id).map((e) => el("li", { "data-kind": e.kind }, el("time", { datetime: new Date(e.at_ms).toISOString(), text: `${date(e.at_ms)} ${clock(e.at_ms)}` }), `${e.pipeline ? e.pipeline + ": " : ""}${e.text}`)));
    if (!events.length) list.replaceChildren(el("li", { text: "Nothing yet." }));
  }

  function draw() {
    if (!page.status || document.hidden) return;
    $("app").hidden = false;
    const names = page.status.pipelines.map((p) => p.name);
    if (!names.includes(page.selected)) choose(mostTroubled());
    drawState();
    drawPipelines();
    drawTimeline();
    const p = chosen();
    if (!p) return;
    for (const which of document.querySelectorAll(".which")) say(which, p.name);
    drawBoard(p);
    drawTime(p);
    drawBatches(p);
    drawDead(p);
    drawFlood(p);
  }

  // Returns the pipeline with the worst sentence. If several are equally bad, returns the one whose oldest record has waited
  // longest; if there are no problems, the first pipeline.
  function mostTroubled() {
    const levels = ["bad", "warning"], at = (p) => {
      const found = page.status.sentences.filter((s) => s.pipeline === p.name).map((s) => levels.indexOf(s.level)).filter((level) => level >= 0);
      return found.length ? Math.min(...found) : levels.length;
    };
    const [worst] = page.status.pipelines.slice().sort((a, b) => at(a) - at(b) || (at(a) < levels.length ? b.lag_seconds - a.lag_seconds : 0));
    return worst && worst.name;
  }

  function choose(name) {
    if (name === undefined || name === page.selected) return;
    page.selected = name;
    page.history = null;
    boardShape = "";
    ask();
  }

  // Load the history once; frames add new values.
  function ask() {
    const name = page.selected, asked = ++page.historyAsked, from = Math.round(now() - page.range * 1000);
    fetch(`/api/history?pipeline=${encodeURIComponent(name)}&from=${from}`).then((r) => r.ok ? r.json() : null).then((history) => {
      if (!history || asked !== page.historyAsked) return;
      page.history = history;
      draw();
    }).catch(() => {});
  }

  // Load the last minute of every pipeline once. With hundreds of pipelines, load only the first ones.
  function askSparks() {
    for (const { name } of page.status.pipelines.slice(0, 64)) {
      fetch(`/api/history?pipeline=${encodeURIComponent(name)}&from=${Math.round(now() - 60000)}`).then((r) => r.ok ? r.json() : null).then((h) => {
        if (!h) return;
        const past = h.at_ms.map((at, i) => [at, h.into[i], h.out[i]]), last = past.length ? past[past.length - 1][0] : 0;
        page.sparks.set(name, past.concat((page.sparks.get(name) || []).filter(([at]) => at > last)));
        draw();
      }).catch(() => {});
    }
  }

  function remember() {
    const at = Math.floor(now() / 1000) * 1000;
    for (const p of page.status.pipelines) {
      const values = page.sparks.get(p.name) || [];
      if (values.length && values[values.length - 1][0] >= at) continue;
      values.push([at, p.into_per_second, p.out_per_second]);
      page.sparks.set(p.name, values.slice(-60));
    }
    const h = page.history, p = chosen();
    if (!h || !p || h.pipeline !== p.name) return;
    if (h.step_seconds > 1) { if (at - h.at_ms[h.at_ms.length - 1] >= 2 * h.step_seconds * 1000) ask(); return; }
    if (at <= h.at_ms[h.at_ms.length - 1]) return;
    h.at_ms.push(at); h.into.push(p.into_per_second); h.out.push(p.out_per_second); h.lag.push(p.lag_records); h.wait.push(p.lag_seconds); h.headroom.push(p.retention_headroom_seconds);
    if (h.at_ms.length > 1000) for (const column of ["at_ms", "into", "out", "lag", "wait", "headroom"]) h[column].shift();
  }

  function whole_status(status) {
    if (page.version !== null && page.version !== status.tidegate) { location.reload(); return; }
    page.version = status.tidegate;
    const another = page.status && page.status.instance !== status.instance;
    page.status = status;
    page.offset = status.now_ms - Date.now();
    if (another) { page.owners.clear(); page.sparks.clear(); boardShape = ""; if (page.selected) ask(); }
    seen();
    // The stream was interrupted, or is new: load what happened in between from the history.
    if (page.sparksAsked !== stream) { page.sparksAsked = stream; askSparks(); }
  }

  function change(frame) {
    for (const [path, value] of frame.set) {
      let place = page.status;
      for (const step of path.slice(0, -1)) place = place[step];
      place[path[path.length - 1]] = value;
    }
    const known = page.status.timeline, last = lastId(known);
    known.push(...frame.events.filter((e) => e.id > last));
    known.splice(0, Math.max(0, known.length - 500));
    page.offset = frame.now_ms - Date.now();
    seen();
  }

  function seen() {
    page.seen = Date.now();
    document.body.classList.remove("gone");
    remember();
    draw();
  }

  // Uses SSE first, and polls if the stream is cut. If there is no answer, says so and retries.
  let stream = null, poller = 0, cuts = 0;
  function live(state, text) { $("live").dataset.live = state; say($("live"), text); }

  function listen() {
    close();
    if (page.paused || document.hidden) return;
    stream = new EventSource("/api/events");
    stream.addEventListener("status", (e) => { cuts = 0; live("live", "live, 1 s"); whole_status(JSON.parse(e.data)); });
    stream.addEventListener("change", (e) => { if (page.status) { live("live", "live, 1 s"); change(JSON.parse(e.data)); } });
    stream.onerror = () => { cuts += 1; close(); poll(); };
  }

  function poll() {
    clearTimeout(poller);
    if (page.paused || document.hidden) return;
    fetch("/api/status", { cache: "no-store" }).then((r) => { if (!r.ok) throw new Error(); return r.json(); }).then((status) => {
      whole_status(status);
      // A proxy may cut streams. After three cuts, try a stream only once per 15 polls.
      if (cuts < 3 || cuts % 15 === 0) { listen(); return; }
      cuts += 1;
      live("polling", "polling, 2 s");
      poller = setTimeout(poll, 2000);
    }).catch(() => { gone(); cuts = Math.min(cuts, 1); poller = setTimeout(poll, 1000); });
  }

  function gone() {
    document.body.classList.toggle("gone", page.status !== null);
    live("gone", page.seen ? `daemon gone, last seen ${clock(page.seen + page.offset)}` : "no answer");
    if (page.status) {
      page.status.sentences = [{ level: "bad", pipeline: null, kind: "gone", runbook: null, text: `This daemon has not answered since ${clock(page.seen + page.offset)}. The page shows its last state. Kafka keeps the records that aren't written. What to do: docs/runbook.md, TidegateInstanceDown.` }];
      drawState();
    }
    $("app").hidden = false;
  }

  function close() {
    clearTimeout(poller);
    if (stream) { stream.onerror = null; stream.close(); stream = null; }
  }

  // An open stream that sends nothing for 5 s is treated as cut.
  setInterval(() => {
    say($("clock"), `${clock(now())} UTC`);
    if (stream && page.seen && Date.now() - page.seen > 5000 && !document.hidden && !page.paused) { page.seen = Date.now(); cuts += 1; close(); poll(); }
  }, 1000);

  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else { page.seen = Date.now(); listen(); if (page.selected) ask(); } });
  $("pause").addEventListener("click", () => {
    page.paused = !page.paused;
    $("pause").setAttribute("aria-pressed", String(page.paused));
    say($("pause"), page.paused ? "resume" : "pause");
    if (page.paused) { close(); live("paused", "paused"); } else { page.seen = Date.now(); listen(); if (page.selected) ask(); }
  });

  const themes = ["system", "light", "dark"];
  function theme(name) {
    if (name === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
    say($("theme"), `theme: ${name}`);
    try { localStorage.setItem("tidegate-theme", name); } catch { /* no storage: the theme is kept until the page is left */ }
    Chart.forget();
    draw();
  }
  let themed = "system";
  try { themed = localStorage.getItem("tidegate-theme") || "system"; } catch { /* as above */ }
  if (!themes.includes(themed)) themed = "system";
  $("theme").addEventListener("click", () => { themed = themes[(themes.indexOf(themed) + 1) % 3]; theme(themed); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { Chart.forget(); draw(); });
  window.addEventListener("resize", () => draw());

  const table = $("pipelines");
  table.addEventListener("click", (e) => { const row = e.target.closest("tbody tr"); if (row) { choose(row.dataset.name); draw(); } });
  table.addEventListener("keydown", (e) => {
    const row = e.target.closest("tbody tr");
    if (!row) return;
    const to = e.key === "ArrowDown" ? row.nextElementSibling : e.key === "ArrowUp" ? row.previousElementSibling : e.key === "Enter" || e.key === " " ? row : null;
    if (!to) return;
    e.preventDefault();
    choose(to.dataset.name);
    draw();
    to.focus();
  });
  for (const button of document.querySelectorAll("[data-range]")) {
    button.addEventListener("click", () => {
      page.range = Number(button.dataset.range);
      for (const other of document.querySelectorAll("[data-range]")) other.setAttribute("aria-pressed", String(other === button));
      page.history = null;
      ask();
    });
  }
  for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", draw);

  theme(themed);
  $("app").hidden = false;
  listen();
})();
