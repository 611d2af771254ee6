// Hears the gateway, and notices when it is heard no longer: a socket may stay open for minutes with nobody behind it.

// A gateway speaks each second; this silence means that it is gone, or the way to it.
const SILENCE = 5000;
// What comes first holds five minutes, and a slow line takes a while for them; and before it the browser may have to
// ask somebody for another token.
const FIRST = 20000;
// Before the next try, and the one after it, and so on.
const PAUSES = [1000, 2000, 4000, 8000];

// Hands what comes to `hear`; while nothing does, tells `miss` each second for how many seconds, and whether it was
// refused. There is one ticker and at most one source at a time, however often it is lost.
export const listen = (path, hear, miss) => {
  let source;
  let missing = false;
  let refused = false;
  let tries = 0;
  let next = 0;
  let heard = performance.now();
  // Until when this try may be silent.
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
      // Closed by the browser is an answer other than events; a connection that was lost or never came it would mend.
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
