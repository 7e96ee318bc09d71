(() => {
  const SIDE = 320, EDGE = 8, REACH = 24;
  const data = JSON.parse(document.getElementById("asked-data").textContent);
  const byId = name => document.getElementById("asked-" + name);
  const panels = [...document.querySelectorAll("svg.points")];
  const make = (tag, attributes, parent, space = "http://www.w3.org/2000/svg") => {
    const e = document.createElementNS(space, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return parent.appendChild(e);
  };
  const SHAPES = [
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0", "M-2.7,-2.7h5.4v5.4h-5.4z", "M0,-3.6L3.3,2.4H-3.3z",
    "M0,-3.8L3,0L0,3.8L-3,0z", "M0,3.6L3.3,-2.4H-3.3z", "M-1.2,-3.5h2.4v2.3h2.3v2.4h-2.3v2.3h-2.4v-2.3h-2.3v-2.4h2.3z"
  ];
  const UNKNOWN = { fill: "var(--ref)", shape: "M-3,-2l1,-1l2,2l2,-2l1,1l-2,2l2,2l-1,1l-2,-2l-2,2l-1,-1l2,-2z" };
  const look = i => ({ fill: `var(--s${i % 6})`, shape: SHAPES[(i + Math.floor(i / 6)) % 6] });
  let method = data.methods[0], colour = data.colours[0], chosen = -1;

  const names = c => [...new Set(c.groups)].filter(Boolean).sort();
  const share = (c, v) => Math.min(Math.max((v - c.range[0]) / (c.range[1] - c.range[0] || 1), 0), 1);
  const mixed = s => `color-mix(in oklab, var(--s1) ${(100 * s).toFixed(0)}%, var(--s0))`;
  const lookOf = i => {
    if (!colour) return look(0);
    if (colour.groups) {
      const name = colour.groups[i];
      return name ? look(names(colour).indexOf(name)) : UNKNOWN;
    }
    const v = colour.numbers[i];
    return v === null ? UNKNOWN : { fill: mixed(share(colour, v)), shape: SHAPES[0] };
  };
  const place = (panel, i) => method.places[panel.dataset.network][i].map(v => EDGE + v * (SIDE - 2 * EDGE));
  const value = (c, i) => c.groups ? c.groups[i] || "not known" : c.numbers[i] === null ? "not known" : c.numbers[i];

  function draw() {
    const looks = method.places.a.map((_, i) => lookOf(i));
    for (const panel of panels) {
      panel.replaceChildren();
      looks.forEach((l, i) => {
        const [x, y] = place(panel, i);
        make("path", { d: l.shape, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, style: `fill:${l.fill}` }, panel);
      });
    }
    const legend = byId("legend");
    legend.replaceChildren();
    const html = "http://www.w3.org/1999/xhtml";
    if (colour && colour.groups) {
      for (const name of [...names(colour), ...(colour.groups.includes("") ? [""] : [])]) {
        const item = make("li", {}, legend, html), l = name ? look(names(colour).indexOf(name)) : UNKNOWN;
        make("path", { d: l.shape, style: `fill:${l.fill}` }, make("svg", { viewBox: "-5 -5 10 10" }, item));
        item.append(name || "not known");
      }
    } else if (colour) {
      const item = make("li", {}, legend, html);
      item.append(`${colour.range[0]} `);
      make("span", { class: "ramp", style: `background:linear-gradient(to right in oklab,${mixed(0)},${mixed(1)})` }, item, html);
      item.append(` ${colour.range[1]}`);
    }
    show(chosen, false);
  }

  function show(i, tell = true) {
    chosen = i;
    for (const panel of panels) {
      panel.querySelectorAll("circle").forEach(c => c.remove());
      if (i < 0) continue;
      const [x, y] = place(panel, i);
      make("circle", { cx: x, cy: y, r: 7 }, panel);
    }
    if (i < 0 || !tell) return;
    const told = byId("told");
    told.replaceChildren();
    const rest = data.colours.filter(c => c !== colour && value(c, i) !== "no");
    const say = c => value(c, i) === "yes" ? c.title : `${c.title} ${value(c, i)}`;
    if (colour) {
      const first = document.createElement("b");
      first.textContent = `${colour.title}: ${value(colour, i)}`;
      told.append(first, rest.length ? " · " : "");
    }
    told.append(rest.map(say).join(" · "));
  }

  function nearest(panel, event, reach) {
    const box = panel.getBoundingClientRect(), scale = SIDE / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = -1, least = (reach * Math.max(scale, 1)) ** 2;
    method.places.a.forEach((_, i) => {
      const [px, py] = place(panel, i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) [best, least] = [i, d];
    });
    return best;
  }

  const AXIS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, -1], ArrowDown: [1, 1] };
  function step(panel, [axis, sign]) {
    const order = method.places.a.map((_, i) => i).sort((i, j) => place(panel, i)[axis] - place(panel, j)[axis] || i - j);
    const at = order.indexOf(chosen), n = order.length;
    show(order[at < 0 ? (sign > 0 ? 0 : n - 1) : (at + sign + n) % n]);
  }

  for (const panel of panels) {
    panel.addEventListener("pointermove", e => { if (e.pointerType === "mouse") { const i = nearest(panel, e, REACH / 2); if (i >= 0 && i !== chosen) show(i); } });
    panel.addEventListener("pointerdown", e => { const i = nearest(panel, e, REACH); if (i >= 0) show(i); });
    panel.addEventListener("keydown", e => { if (AXIS[e.key]) { e.preventDefault(); step(panel, AXIS[e.key]); } });
  }
  for (const [name, items, choose] of [["method", data.methods, o => { method = o; }], ["colour", data.colours, o => { colour = o; }]]) {
    const select = byId(name);
    items.forEach((o, i) => select.add(new Option(o.title, i)));
    select.parentElement.hidden = items.length < 2;
    select.addEventListener("change", () => { choose(items[select.value]); draw(); if (chosen >= 0) show(chosen); });
  }
  draw();
  document.getElementById("asked").hidden = false;
  document.getElementById("static-maps").hidden = true;
})();
