"use strict";
// The page is complete without this script but for the map, which it draws.
(() => {
  const byId = (id) => document.getElementById(id);

  // The maps. Coordinates go from 0 to RANGE; the view of a map is its zoom and the point at its middle.
  const RANGE = 10000;
  const MARGIN = 0.06;
  const ZOOM = [1, 60];
  const data = JSON.parse(byId("map-data").textContent);
  const sprites = byId("sprites");
  const tip = byId("tip");
  const choice = byId("class");
  // The row under the pointer is marked in all maps.
  let lit = null;

  const makeMap = (canvas, points) => {
    const view = { zoom: 1, x: 0.5, y: 0.5 };
    const context = canvas.getContext("2d");
    const side = () => canvas.clientWidth;
    // The longer side of a thumbnail: small enough for all rows to be seen, larger when zoomed in.
    const thumb = () => {
      const all = Math.min(44, Math.max(16, side() / Math.sqrt(points.length + 1)));
      return Math.min(96, all * view.zoom ** 0.6);
    };
    const scale = () => side() * (1 - 2 * MARGIN) * view.zoom;
    const place = ([x, y]) => [
      side() / 2 + (x / RANGE - view.x) * scale(), side() / 2 + (y / RANGE - view.y) * scale()];
    const extent = (row) => data.rows[row].size.map((length) => length / data.cell * thumb());
    const isDim = (row) => choice?.value && String(data.rows[row].class) !== choice.value;
    const color = (row) => data.colors[data.rows[row].class] ?? "hsl(0 0% 55%)";

    const drawRow = (row, frame) => {
      const [x, y] = place(points[row]);
      const [width, height] = extent(row);
      if (x < -width || y < -height || x > side() + width || y > side() + height) return;
      const [left, top] = [x - width / 2, y - height / 2];
      const [column, line] = [row % data.columns, Math.floor(row / data.columns)];
      context.fillStyle = color(row);
      context.fillRect(left - frame, top - frame, width + 2 * frame, height + 2 * frame);
      context.drawImage(
        sprites, column * data.cell, line * data.cell, ...data.rows[row].size, left, top, width, height);
    };
    const draw = () => {
      const ratio = devicePixelRatio || 1;
      const pixels = Math.round(side() * ratio);
      if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, side(), side());
      const rows = points.map((_, row) => row);
      // Highlighted rows lie above the others, and the one under the pointer above all.
      for (const dim of [true, false]) {
        context.globalAlpha = dim ? 0.12 : 1;
        rows.filter((row) => Boolean(isDim(row)) === dim).forEach((row) => drawRow(row, 2));
      }
      context.globalAlpha = 1;
      if (lit === null) return;
      drawRow(lit, 5);
      const [x, y] = place(points[lit]);
      const [width, height] = extent(lit).map((length) => length + 12);
      context.strokeStyle = getComputedStyle(root).color;
      context.lineWidth = 2;
      context.strokeRect(x - width / 2, y - height / 2, width, height);
    };
    const rowAt = (event) => {
      const bounds = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
      const hits = (row) => {
        const [left, top] = place(points[row]);
        const [width, height] = extent(row);
        return Math.abs(left - x) <= width / 2 + 2 && Math.abs(top - y) <= height / 2 + 2;
      };
      const rows = points.map((_, row) => row).filter(hits);
      return rows.findLast((row) => !isDim(row)) ?? null;
    };
    // Zooms by a factor around a place of the canvas, which stays where it is.
    const zoom = (factor, x, y) => {
      const before = view.zoom;
      view.zoom = Math.min(ZOOM[1], Math.max(ZOOM[0], before * factor));
      const shift = (at) => (at / side() - 0.5) * (1 / before - 1 / view.zoom) / (1 - 2 * MARGIN);
      move(shift(x), shift(y));
    };
    const move = (dx, dy) => {
      view.x = Math.min(1, Math.max(0, view.x + dx));
      view.y = Math.min(1, Math.max(0, view.y + dy));
      if (view.zoom === 1) view.x = view.y = 0.5;
      draw();
    };
    const reset = () => {
      view.zoom = 1;
      move(0, 0);
    };

    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const bounds = canvas.getBoundingClientRect();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 24 : 1);
      zoom(Math.exp(-pixels / 300), event.clientX - bounds.left, event.clientY - bounds.top);
      point(event);
    }, { passive: false });
    let dragged = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      dragged = [event.clientX, event.clientY];
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, () => { dragged = null; });
    }
    const point = (event) => light(dragged ? null : rowAt(event), event);
    canvas.addEventListener("pointermove", (event) => {
      if (dragged) {
        const [x, y] = dragged;
        dragged = [event.clientX, event.clientY];
        move((x - event.clientX) / scale(), (y - event.clientY) / scale());
      }
      point(event);
    });
    canvas.addEventListener("pointerleave", () => light(null));
    canvas.addEventListener("dblclick", reset);
    canvas.addEventListener("keydown", (event) => {
      const step = 0.1 / view.zoom;
      const actions = {
        "+": () => zoom(1.5, side() / 2, side() / 2), "-": () => zoom(1 / 1.5, side() / 2, side() / 2), "0": reset,
        ArrowLeft: () => move(-step, 0), ArrowRight: () => move(step, 0),
        ArrowUp: () => move(0, -step), ArrowDown: () => move(0, step),
      };
      if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      actions[event.key]();
    });
    new ResizeObserver(draw).observe(canvas);
    return draw;
  };

  const canvases = [...document.querySelectorAll(".map")];
  const draws = canvases.map((canvas, arm) => makeMap(canvas, data.arms[arm]));
  const drawAll = () => draws.forEach((draw) => draw());

  // Marks a row in all maps and says what it is beside the pointer. Text never becomes markup.
  const light = (row, event) => {
    if (row !== lit) {
      lit = row;
      drawAll();
    }
    tip.hidden = row === null;
    if (row === null) return;
    const { path, class: group, box } = data.rows[row];
    const corners = box?.map(Math.round);
    const line = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
    tip.replaceChildren(
      ...(group === null ? [] : [line("b", data.classes[group])]),
      line("span", path), ...(box ? [line("span", `box ${corners[0]}, ${corners[1]} to ${corners[2]}, ${corners[3]}`)] : []));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 16, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 20 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 20}px`;
  };

  if (choice) {
    choice.addEventListener("change", drawAll);
    byId("choice").hidden = false;
  }
  document.addEventListener("recolor", drawAll);
  sprites.decode().then(drawAll, drawAll);
})();
