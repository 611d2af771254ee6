// Receives the gateway's events and detects silence: a dead connection may stay open for minutes.

// The gateway sends every second; this silence (ms) means that it or the network has failed.
const SILENCE = 5000;
// The first event holds five minutes, which takes a while on a slow connection. The browser may
// also have to ask the user for another token before it.
const FIRST = 20000;
// Pauses in ms before the next tries.
const PAUSES = [1000, 2000, 4000, 8000];

// Passes events to `hear`. Without events it calls `miss` each second with the seconds of silence
// and whether the gateway refused. There is one timer and at most one source at a time.
export const listen = (path, hear, miss) => {
  let source;
  let missing = false;
  let refused = false;
  let tries = 0;
  let next = 0;
  let heard = performance.now();
  // Time until which this try may be silent.
  let until;

  const lose = () => {
    source.close();
    source = undefined;
    missing = true;
    next = performance.now() + PAUSES[Math.min(tries, PAUSES.length - 1)];
    tries += 1;
  };
  const open = () => {
    source = new EventSource(path);
    until = performance.now() + FIRST;
    source.onmessage = (event) => {
      heard = performance.now();
      until = heard + SILENCE;
      [missing, refused, tries] = [false, false, 0];
      hear(event.data);
    };
    source.onerror = () => {
      // CLOSED means an answer other than events; after a lost connection the browser retries.
      refused = source.readyState === EventSource.CLOSED;
      lose();
      tell();
    };
  };
  const tell = () => {
    const silent = performance.now() - heard;
    if (missing || silent > SILENCE) miss(Math.floor(silent / 1000), refused);
  };
  const tick = () => {
    if (source && performance.now() > until) {
      refused = false;
      lose();
    } else if (!source && performance.now() >= next) open();
    tell();
  };
  tick();
  setInterval(tick, 1000);
};
