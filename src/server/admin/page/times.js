// Seconds and moments. Nothing here looks at the page, so that it can be tried alone.

// As many as the picture is wide.
const SECONDS = 300;

// What is kept of the seconds when a frame came. Each is sent once, so none is left out, whatever its time says.
export const taken = (points, frame) => (frame.whole ? frame.points : points.concat(frame.points)).slice(-SECONDS);

// When each second ended, for an axis on which time only goes forward: where a clock was set back, what was before
// moves with it.
export const times = (points) => {
  const ends = points.map((point) => point.at_ms / 1000);
  for (let at = ends.length - 2; at >= 0; at -= 1) {
    ends[at] = Math.min(ends[at], ends[at + 1] - points[at + 1].seconds);
  }
  return ends;
};

const two = (number) => String(number).padStart(2, "0");
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
export const time = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;

// Local time, with the date if that is not today's.
export const stamp = (at, now) => (day(at) === day(now) ? time(at) : `${day(at)} ${time(at)}`);

// The zone of all these.
export const zone = (at) => {
  const format = new Intl.DateTimeFormat("en", { timeZoneName: "longOffset" });
  const offset = format.formatToParts(at).find((part) => part.type === "timeZoneName").value;
  return `${format.resolvedOptions().timeZone}, ${offset}`;
};
