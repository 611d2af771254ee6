// Seconds and times. Nothing here uses the page, so that it can be tested alone.

// Seconds that the charts show.
const SECONDS = 300;

// Returns the seconds to keep. Each second is sent once, so all are kept, whatever their times.
export const taken = (points, frame) => (frame.whole ? frame.points : points.concat(frame.points)).slice(-SECONDS);

// Returns the end of each second for an axis on which time only increases: if a clock was set back,
// the earlier seconds are shifted.
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

// The time zone of all these.
export const zone = (at) => {
  const format = new Intl.DateTimeFormat("en", { timeZoneName: "longOffset" });
  const offset = format.formatToParts(at).find((part) => part.type === "timeZoneName").value;
  return `${format.resolvedOptions().timeZone}, ${offset}`;
};
