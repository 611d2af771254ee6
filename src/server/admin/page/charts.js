// The charts: lines for load and capacity, and a heat map of TTFT. uPlot draws axes and lines.

import { stamp, time, times } from "./times.js";

const HEIGHT = 240;
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const axes = () => {
  const look = { stroke: variable("--soft"), grid: { stroke: variable("--grid"), width: 1 }, ticks: { stroke: variable("--grid") } };
  return (more) => ({ ...look, ...more });
};
// Times in the format of the event list, in every browser.
const hours = { space: 80, values: (_, splits) => splits.map((at) => time(new Date(at * 1000))) };

// A chart as wide as its container; it is rebuilt when the colour scheme changes.
const keep = (place, build) => {
  let chart;
  let data = [[]];
  const draw = () => {
    chart?.destroy();
    chart = new uPlot({ width: Math.max(place.clientWidth, 200), height: HEIGHT, ...build() }, data, place);
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) {
      width = place.clientWidth;
      chart.setSize({ width: Math.max(width, 200), height: HEIGHT });
    }
  }).observe(place);
  return {
    show: (next) => {
      data = next;
      chart.setData(next);
      // Without a pointer over the chart the legend shows the last second.
      if (!(chart.cursor.left >= 0)) chart.setLegend({ idx: next[0].length - 1 });
    },
  };
};

const perSecond = (points, count) => points.map((point) => count(point) / point.seconds);
const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
export const refusedOf = (point) => sum(point.refused);

// Lines: name, colour, dashes, and whether the area below is filled. The dashes differ too, for
// users who cannot tell the colours apart.
const lines = (place, digits, all) => keep(place, () => {
  const axis = axes();
  const line = (label, name, dash, fill) => ({
    label, dash, width: 2, stroke: variable(name), points: { show: false },
    fill: fill ? `rgba(${variable("--heat")}, .15)` : undefined,
    value: (_, value) => (value == null ? "–" : value.toFixed(digits)),
  });
  return {
    series: [
      { label: "Time", value: (_, at) => (at == null ? "–" : stamp(new Date(at * 1000), new Date())) },
      ...all.map((one) => line(...one)),
    ],
    axes: [axis(hours), axis({ size: 52 })],
    scales: { y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.05] } },
  };
});

// Requests per second.
export const waterLevel = (place) => {
  const chart = lines(place, 1, [
    ["Offered", "--offered", [8, 4]],
    ["Admitted", "--admitted", [], true],
    ["Refused", "--refused", [2, 3]],
    ["In time", "--good", [12, 3, 2, 3]],
    ["Left", "--left", [1, 6]],
  ]);
  return (points) => chart.show([
    times(points),
    perSecond(points, (point) => point.offered),
    perSecond(points, (point) => point.admitted),
    perSecond(points, refusedOf),
    perSecond(points, (point) => point.good),
    perSecond(points, (point) => point.gone),
  ]);
};

// Requests in flight, their limit, and waiting requests.
export const room = (place) => {
  const chart = lines(place, 0, [
    ["In flight", "--admitted", [], true],
    ["Limit", "--offered", [8, 4]],
    ["Waiting", "--refused", [2, 3]],
  ]);
  return (points) => chart.show([
    times(points),
    points.map((point) => point.in_flight),
    points.map((point) => point.limit),
    points.map((point) => sum(point.queue)),
  ]);
};

const label = (seconds) => (seconds >= 1 ? `${seconds} s` : `${+(seconds * 1000).toPrecision(3)} ms`);

// Returns the vertical position of a time: row i holds values above bound i−1, up to bound i.
const rowOf = (seconds, bounds) => {
  const above = bounds.findIndex((bound) => seconds <= bound);
  if (above < 0) return bounds.length;
  const low = above > 0 ? bounds[above - 1] : 0;
  return above + (seconds - low) / (bounds[above] - low);
};

// Returns the quantile `share` in seconds; `undefined` without counts.
export const quantile = (share, counts, bounds) => {
  const all = counts.reduce((total, count) => total + count, 0);
  if (all === 0) return undefined;
  let below = 0;
  for (let row = 0; row < counts.length; row += 1) {
    if (below + counts[row] >= share * all) {
      if (row >= bounds.length) return bounds[bounds.length - 1];
      const low = row > 0 ? bounds[row - 1] : 0;
      return low + (bounds[row] - low) * ((share * all - below) / counts[row]);
    }
    below += counts[row];
  }
  return bounds[bounds.length - 1];
};

// Times to first token, one column per second.
export const heatMap = (place) => {
  let points = [];
  let ends = [];
  let bounds = [];
  let promise = 0;
  const paint = (chart) => {
    const { ctx } = chart;
    const most = Math.max(1, ...points.flatMap((point) => point.ttft));
    const heat = variable("--heat");
    const at = (seconds) => chart.valToPos(seconds, "x", true);
    const up = (row) => chart.valToPos(row, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(chart.bbox.left, chart.bbox.top, chart.bbox.width, chart.bbox.height);
    ctx.clip();
    points.forEach((point, index) => {
      const right = at(ends[index]);
      const left = at(ends[index] - point.seconds);
      point.ttft.forEach((count, row) => {
        if (count === 0) return;
        // Logarithmic, so that a few late requests show beside many early ones.
        ctx.fillStyle = `rgba(${heat}, ${0.25 + 0.75 * (Math.log1p(count) / Math.log1p(most))})`;
        ctx.fillRect(left, up(row + 1), Math.max(right - left, 1), up(row) - up(row + 1));
      });
    });
    ctx.setLineDash([6, 4]);
    ctx.lineWidth = 2;
    ctx.strokeStyle = variable("--refused");
    ctx.beginPath();
    ctx.moveTo(chart.bbox.left, up(rowOf(promise, bounds)));
    ctx.lineTo(chart.bbox.left + chart.bbox.width, up(rowOf(promise, bounds)));
    ctx.stroke();
    ctx.restore();
  };
  const chart = keep(place, () => {
    const axis = axes();
    const rows = () => bounds.map((_, index) => index + 1).filter((row) => row % 3 === 0);
    return {
      series: [{}, { show: false }],
      legend: { show: false },
      cursor: { show: false },
      axes: [axis(hours), axis({ size: 62, splits: rows, values: (_, splits) => splits.map((row) => label(bounds[row - 1])) })],
      scales: { y: { range: () => [0, bounds.length + 1] } },
      hooks: { draw: [paint] },
    };
  });
  return (next, scene) => {
    points = next;
    ends = times(next);
    bounds = scene.ttft_buckets;
    promise = scene.ttft_slo_ms / 1000;
    chart.show([ends, next.map(() => null)]);
  };
};
