"use strict";
// A table that can be searched, sorted and filtered, from the rows in #data. Texts are only ever set as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const place = document.getElementById("table");
  const SHOWN = 100;
  let rows = data.rows, shown = SHOWN, sortKey = data.sort || "", up = false;
  const standing = new Map();  // feature → those of its concept that it stands for
  for (const row of data.rows)
    if (row.group !== undefined) standing.set(row.group, [...standing.get(row.group) || [], row]);
  const hasLeader = new Set(data.rows.filter(row => row.group === undefined).map(row => row.id));

  const make = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };
  const percent = share => share === null || share === undefined ? "–" : (100 * share).toFixed(1) + "\u00a0%";
  const words = row => [row.id, row.state, row.about || "", ...(row.text || [])].join(" ").toLowerCase();
  for (const row of data.rows) row.words = words(row);

  const visible = token => token.trim() ? token : token.replaceAll("\n", "⏎").replaceAll(" ", "␣");
  const marked = parts => make("bdi", {className: "text", dir: "auto"},
    parts[0] || "", make("mark", {className: "token", textContent: visible(parts[1] || "")}), parts[2] || "");
  const rateOf = (row, k) => row.rates[k] === null || row.rates[k] === undefined ? -1 : row.rates[k];
  const value = (row, key) => key.startsWith("rate-") ? rateOf(row, +key.slice(5)) : row[key];
  const bars = rates => {
    const most = Math.max(...rates.map(rate => rate || 0)), box = make("span", {className: "bars"});
    rates.forEach((rate, k) => {
      const bar = make("i", {className: "bar-" + k});
      bar.style.width = (most ? 100 * (rate || 0) / most : 0) + "%";
      box.append(bar);
    });
    return box;
  };
  const breakable = name => name.split(/(?<=[._\-/])/).flatMap((part, k) => k ? [make("wbr"), part] : [part]);

  const search = make("input", {type: "search", placeholder: "search texts, ids …", id: "search"});
  search.setAttribute("aria-label", "search the features");
  const states = [...new Set(data.rows.map(row => row.state))].sort();
  const filter = make("select", {id: "filter"}, make("option", {value: "", textContent: data.every || "every status"}),
    ...states.map(state => make("option", {value: state, textContent: state})));
  filter.setAttribute("aria-label", "status");
  const concepts = make("input", {type: "checkbox", checked: true, id: "concepts"});
  const grouped = make("label", {className: "note"}, concepts, " one row a concept");
  grouped.hidden = standing.size === 0;
  const keys = make("p", {className: "keys note"}, ...data.rates.length > 1 ? data.rates.map((name, k) =>
    make("span", {}, make("i", {className: "bar-" + k}), name)) : [], data.rates.length > 1 ? "to scale within a row" : "");
  const counted = make("span", {className: "note", id: "counted"});
  const columns = [["id", "Feature"], ...data.rates.map((name, k) => ["rate-" + k, name]),
    ...data.odds ? [["odds", data.odds]] : [], ["text", data.label || "Span"]];
  const head = make("tr", {}, ...columns.map(([key, label]) => {
    const cell = make("th", {scope: "col"});
    if (key === "text") { cell.textContent = label; return cell; }
    const button = make("button", {type: "button", title: label}, ...breakable(label));
    button.dataset.key = key;
    button.onclick = () => { up = sortKey === key ? !up : key === "id"; sortKey = key; draw(); };
    cell.append(button);
    return cell;
  }));
  const body = make("tbody");
  const more = make("button", {type: "button", className: "more", onclick: () => { shown += 5 * SHOWN; draw(); }});
  place.replaceChildren(make("div", {className: "tools"}, search, filter, grouped, counted), keys,
    make("table", {className: "features stacked wide"}, make("thead", {}, head), body), more);

  const details = row => {
    const box = make("div", {className: "details"});
    const others = (standing.get(row.id) || []).map(other => other.text);
    const parts = [...row.more || [], ...others.length ? [{title: "Of the same concept", texts: others}] : []];
    for (const part of parts) {
      box.append(make("h3", {textContent: part.title}));
      for (const one of part.texts) box.append(one.parts ? shaded(one) : marked(one));
    }
    return box;
  };
  const shaded = one => make("p", {className: "text", dir: "auto"}, ...one.parts.map(([token, heat]) => {
    const span = make("span", {textContent: token});
    if (heat > 0) span.style.backgroundColor = `color-mix(in srgb, var(--token) ${Math.round(100 * heat)}%, transparent)`;
    if (heat >= 1) span.className = "peak";
    return span;
  }));
  const figure = (label, textContent) => {
    const cell = make("td", {className: "number", textContent});
    cell.dataset.label = label;
    return cell;
  };
  const draw = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean), state = filter.value;
    const isShown = row => !concepts.checked || row.group === undefined || !hasLeader.has(row.group);
    rows = data.rows.filter(row => isShown(row) && (!state || row.state === state)
      && wanted.every(word => row.words.includes(word)));
    if (sortKey) rows.sort((a, b) => ((value(a, sortKey) > value(b, sortKey)) - (value(a, sortKey) < value(b, sortKey)))
      * (up ? 1 : -1) || a.id - b.id);
    body.replaceChildren(...rows.slice(0, shown).map(row => {
      const first = make("td", {}, make("span", {className: "id", textContent: row.id}),
        make("span", {className: "state " + row.tone, textContent: row.state}));
      if (row.note) first.append(make("span", {className: "note", textContent: row.note}));
      const last = make("td", {});
      if (row.about) last.append(make("p", {className: "about", textContent: row.about}));
      if (row.text && row.text.some(Boolean)) last.append(marked(row.text));
      if (row.rates.length > 1) last.append(bars(row.rates));
      const n = (standing.get(row.id) || []).length;
      if ((row.more && row.more.length) || n) {
        const said = [row.summary, n ? `${n} more of this concept` : ""].filter(Boolean).join(" · ");
        const opened = make("details", {}, make("summary", {textContent: said || "texts"}));
        opened.ontoggle = () => { if (opened.open && opened.children.length === 1) opened.append(details(row)); };
        last.append(opened);
      }
      const line = make("tr", {id: "feature-" + row.id}, first,
        ...data.rates.map((name, k) => figure(name, percent(row.rates[k]))),
        ...data.odds ? [figure(data.odds, Math.exp(row.odds).toFixed(1) + "\u00a0×")] : [], last);
      return line;
    }));
    counted.textContent = `${rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")}`;
    more.hidden = rows.length <= shown;
    more.textContent = `${(rows.length - shown).toLocaleString("en")} more`;
    for (const button of head.querySelectorAll("button"))
      button.parentElement.setAttribute("aria-sort", button.dataset.key !== sortKey ? "none" : up ? "ascending" : "descending");
  };
  let wait = 0;
  search.oninput = () => { clearTimeout(wait); wait = setTimeout(() => { shown = SHOWN; draw(); }, 80); };
  concepts.onchange = () => { shown = SHOWN; draw(); };
  filter.onchange = () => { shown = SHOWN; draw(); };
  const show = id => {
    const at = data.rows.findIndex(row => row.id === id);
    if (at < 0) return;
    search.value = filter.value = sortKey = "";
    concepts.checked = false;
    data.rows.unshift(...data.rows.splice(at, 1));
    draw();
    body.firstChild.classList.add("chosen");
    const opened = body.querySelector("details");
    if (opened) opened.open = true;
    place.scrollIntoView();
  };

  const drawMap = field => {
    const SIDE = 1000, RADIUS = data.map.length > 3000 ? 3.5 : 6;
    const canvas = make("canvas", {width: SIDE + 40, height: SIDE / 2 + 40}), pen = canvas.getContext("2d");
    const said = make("p", {className: "note", textContent: "\u00a0"});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "map of the target features");
    const known = new Map(data.rows.map(row => [row.id, row]));
    const order = {open: 1, bad: 2, good: 3};
    const toneOf = id => known.has(id) ? known.get(id).tone : "covered";
    const dots = data.map.map(([id, x, y]) => ({id, x: 20 + x, y: 20 + y / 2, tone: toneOf(id)}))
      .sort((a, b) => (order[a.tone] || 0) - (order[b.tone] || 0));
    const paint = () => {
      const style = getComputedStyle(document.documentElement);
      const colours = {covered: "--track-ink", open: "--base", bad: "--bad", good: "--gain"};
      pen.clearRect(0, 0, canvas.width, canvas.height);
      for (const dot of dots) {
        pen.fillStyle = style.getPropertyValue(colours[dot.tone]);
        pen.beginPath();
        pen.arc(dot.x, dot.y, dot.tone === "covered" ? RADIUS * 0.6 : RADIUS, 0, 2 * Math.PI);
        pen.fill();
      }
    };
    const nearest = event => {
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, least = 400;
      for (const dot of dots) {
        const far = (dot.x - x) ** 2 + (dot.y - y) ** 2;
        if (far < least) { least = far; best = dot; }
      }
      return best;
    };
    canvas.onmousemove = event => {
      const dot = nearest(event), row = dot && known.get(dot.id);
      said.textContent = !dot ? "\u00a0" : row ? `${dot.id} · ${row.state} · ${row.about || row.text.slice(0, 2).join("").slice(-80)}`
        : `${dot.id} · covered`;
      canvas.style.cursor = row ? "pointer" : "default";
    };
    canvas.onclick = event => { const dot = nearest(event); if (dot) show(dot.id); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    const names = {covered: "covered", open: "missing, under-represented or open", bad: "not recovered", good: "recovered, or covered besides"};
    const legend = make("ul", {className: "legend"}, ...Object.keys(names).filter(tone => dots.some(dot => dot.tone === tone))
      .map(tone => make("li", {}, make("i", {className: "dot " + tone}), names[tone])));
    field.replaceChildren(canvas, said, legend);
    paint();
  };
  const field = document.getElementById("map");
  if (field && data.map && data.map.length) drawMap(field);
  draw();
})();
