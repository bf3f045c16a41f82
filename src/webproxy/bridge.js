// The bridge carries frames between the app around this page and the server behind it, and understands nothing in them but
// their heads: type u8, stream u24, length u32. Batches are whole frames. The values above it come from the server.
const api = base + 'api/v1/';
const RESUMABLE = 'tproxy-resume-v1.', LANE = 'tproxy-lane-v1.';
const HEAD = 8, MAX_FRAMES = 4096, OPEN = 1, CLOSE = 3;
const QUEUE_BYTES = 32 << 20, QUEUE_ITEMS = 16384, LANE_BYTES = 8 << 20, LANE_ITEMS = 1024, REMEMBERED = 4096;
const lanes = carrierMode.endsWith('-lanes');

let app = null;               // the app's end: {control(object), frames(ArrayBuffer)}
let token = null;             // of the session, once there is one
let status = null;            // the last that was told
let ended = false;
let carrier = null;           // takes frames: {add(bytes)}
const early = [];             // frames that came before there was a carrier
let hello = true;             // whether HELLO is still to come
let welcomed = false;         // whether the app has WELCOME
let waitingBytes = 0, waitingItems = 0;
const stops = new Set();      // what is to be done at the end: abort a request, close a socket

// ---------------------------------------------------------------- frames

const word = (bytes, at) => (bytes[at] << 24 | bytes[at + 1] << 16 | bytes[at + 2] << 8 | bytes[at + 3]) >>> 0;
const streamOf = bytes => word(bytes, 0) & 0xffffff;

// Calls back with each frame of a batch; throws if they do not fill it.
function eachFrame(bytes, tell) {
  let at = 0;
  while (at < bytes.length) {
    const end = at + HEAD + (at + HEAD <= bytes.length ? word(bytes, at + 4) : 0);
    if (end > bytes.length) throw new Error('a frame that is not whole');
    tell(bytes.subarray(at, end));
    at = end;
  }
}

// Frames that wait to be sent, and are taken as batches. Waiting frames count until they are done with.
class Outbox {
  constructor() { this.items = []; this.bytes = 0; this.wake = null; }

  add(bytes) {
    this.items.push(bytes);
    this.bytes += bytes.length;
    waitingBytes += bytes.length;
    waitingItems += 1;
    const full = lanes && (this.bytes > LANE_BYTES || this.items.length > LANE_ITEMS);
    if (full || waitingBytes > QUEUE_BYTES || waitingItems > QUEUE_ITEMS) throw new Error('too much waits');
    if (this.wake) this.wake();
  }

  // The next batch, at most so many bytes; null if nothing waits.
  take(limit) {
    let size = 0, count = 0;
    while (count < this.items.length && count < MAX_FRAMES && (!count || size + this.items[count].length <= limit))
      size += this.items[count++].length;
    if (!count) return null;
    const batch = new Uint8Array(size);
    let at = 0;
    for (const item of this.items.splice(0, count)) { batch.set(item, at); at += item.length; }
    this.bytes -= size;
    waitingItems -= count;
    return batch;
  }

  // The same, as soon as something waits.
  async next(limit) {
    while (!this.items.length) await new Promise(wake => { this.wake = wake; });
    this.wake = null;
    return this.take(limit);
  }

  drop() { for (const item of this.items.splice(0)) { waitingBytes -= item.length; waitingItems -= 1; } this.bytes = 0; }
}

// A batch that has arrived at the server.
function sent(batch) { waitingBytes -= batch.length; traffic(batch.length, 0); }

// ---------------------------------------------------------------- the app

// Every wait is told, since an app gives the page more time for each; the other states only when they change.
function tell(state) {
  if (ended || (state === status && state !== 'reconnecting')) return;
  status = state;
  app.control({t: 'status', state});
}

// The server has answered: what was lost before is there again.
function again() { if (welcomed && status === 'reconnecting') tell('connected'); }

function traffic(up, down) { if (!ended) app.control({t: 'traffic', up, down}); }

function deliver(batch) {
  if (ended || !batch.byteLength) return;
  traffic(0, batch.byteLength);
  app.frames(batch);
}

// What the app sends; it must never see an exception.
function receive(data) {
  try {
    if (ended) return;
    if (typeof data === 'string') data = JSON.parse(data);
    if (!(data instanceof ArrayBuffer)) { if (data && data.t === 'close') end(); return; }
    if (hello) { hello = false; start(data).catch(fail); return; }
    eachFrame(new Uint8Array(data), frame => carrier ? carrier.add(frame) : keepEarly(frame));
  } catch (error) { fail(); }
}

function keepEarly(frame) {
  early.push(frame);
  if (early.length > LANE_ITEMS * 4) throw new Error('too much waits');
}

// The object that the app has put into the page. It may be changed after init, so it is asked for its members each time.
function native(nonce) {
  app = {
    control: object => window.TelegramWebProxy.postMessage(JSON.stringify(object)),
    frames: batch => eachFrame(new Uint8Array(batch), frame => {
      const at = frame.byteOffset;
      window.TelegramWebProxy.postMessage(batch.slice(at, at + frame.length));
    }),
  };
  window.TelegramWebProxy.onmessage = event => receive(event.data);
  tell('connecting');
  app.control({t: 'tproxy-android-init', v: 1, nonce});
}

// A page of the app on loopback, which has this one in a frame and sends it a port.
function framed() {
  const listen = event => {
    const {data, ports, source, origin} = event;
    const fits = data && data.t === 'tproxy-init' && data.v === 1 && Object.keys(data).length === 2;
    if (!fits || source !== parent || ports.length !== 1 || !/^http:\/\/127\.0\.0\.1:\d+$/.test(origin)) return;
    removeEventListener('message', listen);
    const port = ports[0];
    app = {control: object => port.postMessage(object), frames: batch => port.postMessage(batch, [batch])};
    port.onmessage = message => receive(message.data);
    tell('connecting');
  };
  addEventListener('message', listen);
}

function fail() {
  if (ended) return;
  tell('failed');
  app.control({t: 'close'});
  end();
}

function end() {
  if (ended) return;
  ended = true;
  for (const stop of stops) stop();
  if (token) request('DELETE', 'session', {}, undefined, {keepalive: true}).catch(() => {});
}

// ---------------------------------------------------------------- requests

const sleep = time => new Promise(done => setTimeout(done, time));

// No body at all where there is none: a string would get a content type.
function request(method, path, headers, body, more) {
  return fetch(api + path, Object.assign({
    method, body, headers: Object.assign({Authorization: 'Bearer ' + (token || bootstrap)}, headers),
    mode: 'same-origin', credentials: 'omit', cache: 'no-store', redirect: 'error', referrerPolicy: 'no-referrer',
  }, more));
}

// One attempt: status, headers and the whole body, or an error of the network.
async function attempt(path, headers, body) {
  const abort = new AbortController(), stop = () => abort.abort(), timer = setTimeout(stop, 90000);
  stops.add(stop);
  try {
    const response = await request('POST', path, headers, body, {signal: abort.signal});
    return {status: response.status, headers: response.headers, body: await response.arrayBuffer()};
  } finally { clearTimeout(timer); stops.delete(stop); }
}

function pauseOf(headers) {
  const text = headers.get('Retry-After') || '';
  const time = /^\d+$/.test(text) ? text * 1000 : Date.parse(text) - Date.now();
  return time >= 0 ? Math.min(time, 30000) : null;
}

// Repeats a request, the same bytes each time, until the server has answered it.
async function post(path, headers, body) {
  if (body) headers = Object.assign({'Content-Type': 'application/octet-stream'}, headers);
  const began = performance.now();
  for (let failures = 0, delay = 250; ; delay = Math.min(delay * 2, 5000)) {
    let pause = null;
    try {
      const answer = await attempt(path, headers, body);
      if (ended) throw new Error('over');
      if (answer.status === 200 || answer.status === 204) { again(); return answer; }
      if (answer.status !== 503 || performance.now() - began > 90000) throw new Error('final');
      pause = pauseOf(answer.headers);
    } catch (error) {
      if (ended || error.message === 'final' || ++failures === 9) throw error;
    }
    tell('reconnecting');
    await sleep(pause === null ? delay * (1 + Math.random() / 4) : pause);
    if (ended) throw new Error('over');
  }
}

// Requests of the whole session or of one lane. `pending` are batches that another carrier could not bring home.
class Requests {
  constructor(lane, number, cursor, pending) {
    this.headers = lane === null ? {} : {'X-Lane-ID': String(lane)};
    this.number = number; this.cursor = cursor; this.pending = pending;
    this.outbox = new Outbox();
    this.over = false;
  }

  add(frame) { this.outbox.add(frame); }

  async up(acknowledged) {
    while (!ended && !this.over) {
      const batch = this.pending.shift() || await this.outbox.next(batchLimit);
      if (this.over) return;
      await post('up', Object.assign({'X-Up-Seq': String(this.number += 1)}, this.headers), batch);
      sent(batch);
      if (acknowledged) { acknowledged(); acknowledged = null; }
    }
  }

  // Polls until the lane is closed.
  async down() {
    while (!ended) {
      const answer = await post('down', Object.assign({'X-Down-Cursor': String(this.cursor)}, this.headers));
      if (answer.headers.get('X-Lane-Closed')) break;
      if (answer.status === 204) continue;
      if (answer.headers.get('X-Down-Cursor') !== String(this.cursor + 1)) throw new Error('another cursor');
      deliver(answer.body);
      this.cursor += 1;
    }
    this.over = true;
    this.outbox.drop();
  }

  run() { this.up().catch(fail); this.down().catch(fail); }
}

// ---------------------------------------------------------------- lanes

// One carrier for each stream, made by its first frame and forgotten when it is over.
class Lanes {
  constructor(make) { this.make = make; this.open = new Map(); this.gone = new Set(); }

  run() { if (carrierMode === 'https-lanes') this.open.set(0, this.make(0)); }

  add(frame) {
    const id = streamOf(frame);
    let lane = this.open.get(id);
    if (!lane) {
      if (this.gone.has(id) || (id && frame[0] !== OPEN)) return;
      lane = this.make(id, () => this.closed(id));
      if (!lane) return;
      this.open.set(id, lane);
    }
    lane.add(frame);
  }

  closed(id) {
    this.open.delete(id);
    this.gone.add(id);
    if (this.gone.size > REMEMBERED) this.gone.delete(this.gone.values().next().value);
  }
}

function requestLane(id, closed) {
  const lane = new Requests(id, 0, 0, []);
  const poll = () => lane.down().then(closed).catch(fail);
  // A lane is there for polls when its OPEN has arrived; lane 0 is from the start.
  lane.up(id ? poll : null).catch(fail);
  if (!id) poll();
  return lane;
}

function socketLane(id, closed) {
  if (!id) return null;
  let over = false, waiting = [], bytes = 0, socket = null;
  const send = () => { for (const frame of waiting.splice(0)) { socket.send(frame); bytes -= frame.length; traffic(frame.length, 0); } };
  const add = frame => {
    over = over || frame[0] === CLOSE;
    waiting.push(frame);
    bytes += frame.length;
    if (bytes + (socket ? socket.bufferedAmount : 0) > LANE_BYTES || waiting.length > LANE_ITEMS) throw new Error('too much waits');
    if (socket) send();
  };
  openSocket(LANE + token + '.' + id, 30000).then(opened => {
    socket = opened;
    send();
    socket.onmessage = ({data}) => {
      eachFrame(new Uint8Array(data), frame => { over = over || frame[0] === CLOSE; });
      deliver(data);
    };
    // The app hears of a stream's end by CLOSE, also where its socket was lost.
    socket.onclose = () => {
      closed();
      if (!over) deliver(new Uint8Array([CLOSE, id >> 16, id >> 8, id, 0, 0, 0, 0]).buffer);
    };
  }).catch(fail);
  return {add};
}

// ---------------------------------------------------------------- WebSockets

// A socket that has opened, within the time.
function openSocket(protocol, time) {
  return new Promise((opened, failed) => {
    const socket = new WebSocket('wss://' + location.host + api + 'ws', [protocol]), stop = () => socket.close();
    const late = setTimeout(() => { socket.close(); failed(new Error('late')); }, time);
    socket.binaryType = 'arraybuffer';
    stops.add(stop);
    socket.addEventListener('close', () => { clearTimeout(late); stops.delete(stop); failed(new Error('refused')); });
    socket.addEventListener('open', () => { clearTimeout(late); opened(socket); });
  });
}

// Sockets of a session that may be lost: batches are numbered, kept until they are acknowledged, and repeated on the next
// socket, or by requests when sockets do not open here or are lost again and again. A message has the number of its batch
// (0 without one; ASK without one if an answer is wanted), the number of the last batch that arrived here, and the batch.
const ASK = 0xffffffff, IN_FLIGHT = 2 << 20, MESSAGE = 128 << 10;
const OPENING = 4000, QUIET = 20000, SILENT = 15000, BRIEF = 60000;

class Resumable {
  constructor() {
    this.outbox = new Outbox();
    this.number = 0;          // of the last batch that was sent
    this.cursor = 0;          // of the last batch that arrived
    this.kept = [];           // batches that are not acknowledged
    this.keptBytes = 0;
    this.socket = null;
    this.strikes = 0;         // sockets that stalled or were lost soon
    this.requests = null;     // what takes over in the end
  }

  add(frame) {
    if (this.requests) return this.requests.add(frame);
    this.outbox.add(frame);
    this.pump();
  }

  // Opens a socket, or has requests take over. Never fails.
  async open() {
    try { this.socket = await openSocket(RESUMABLE + token, OPENING); } catch (error) { if (!ended) this.fallBack(); }
    if (this.socket) this.use(this.socket);
  }

  run() { if (this.requests) this.requests.run(); }

  use(socket) {
    this.opened = this.heard = performance.now();
    this.asked = true;        // whether an answer is due, beside those to batches
    this.late = 0;
    this.message(ASK, null);
    this.kept.forEach((batch, at) => this.message(this.number - this.kept.length + 1 + at, batch));
    socket.onmessage = ({data}) => { try { this.read(data); } catch (error) { fail(); } };
    const timer = setInterval(() => this.check(), 2500);
    socket.onclose = () => { clearInterval(timer); if (this.socket === socket) this.lost(performance.now() - this.opened < BRIEF); };
    this.pump();
  }

  message(number, batch) {
    const message = new Uint8Array(HEAD + (batch ? batch.length : 0)), view = new DataView(message.buffer);
    view.setUint32(0, number);
    view.setUint32(4, this.cursor);
    if (batch) message.set(batch, HEAD);
    // One that is closing takes nothing; what it should have taken is kept for the next.
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  read(data) {
    const view = new DataView(data), number = view.getUint32(0), acknowledged = view.getUint32(4);
    this.heard = performance.now();
    this.asked = false;
    this.late = 0;
    again();
    while (this.kept.length && this.number - this.kept.length < acknowledged) {
      const batch = this.kept.shift();
      this.keptBytes -= batch.length;
      sent(batch);
    }
    if (number > this.cursor + 1) throw new Error('a batch is missing');
    if (number === this.cursor + 1) {
      this.cursor = number;
      deliver(data.slice(HEAD));
    }
    if (!this.pump() && number) this.message(0, null);
  }

  // Sends what waits and may be sent; says whether that was anything.
  pump() {
    let any = false, batch;
    while (this.socket && this.keptBytes < IN_FLIGHT && (batch = this.outbox.take(MESSAGE))) {
      if (!this.kept.length) this.heard = performance.now();
      this.kept.push(batch);
      this.keptBytes += batch.length;
      this.message(this.number += 1, batch);
      any = true;
    }
    return any;
  }

  // A quiet socket is asked for an answer; one that owes one for long has stalled. It is seen late twice in a row, because
  // a hidden page's timers may run before the messages that have come meanwhile.
  check() {
    const silence = performance.now() - this.heard;
    if (this.asked || this.kept.length) {
      this.late = silence > SILENT ? this.late + 1 : 0;
      if (this.late >= 2) { const socket = this.socket; this.lost(true); socket.close(); }
    } else if (silence > QUIET) {
      this.asked = true;
      this.heard = performance.now();
      this.message(ASK, null);
    }
  }

  lost(strike) {
    this.socket = null;
    if (ended) return;
    tell('reconnecting');
    this.strikes = strike ? this.strikes + 1 : 0;
    if (this.strikes < 2) this.open(); else this.fallBack();
  }

  // Requests go on with the same numbers.
  fallBack() {
    this.requests = new Requests(null, this.number - this.kept.length, this.cursor, this.kept);
    for (const item of this.outbox.items.splice(0)) this.requests.outbox.items.push(item);
    if (welcomed) this.requests.run();
  }
}

// ---------------------------------------------------------------- the session

// HELLO of the app creates it; its answer goes to the app when the carrier is there.
async function start(body) {
  const answer = await post('session', {}, body);
  if (answer.status !== 200 || answer.headers.get('X-Carrier-Mode') !== carrierMode) throw new Error('another server');
  token = answer.headers.get('X-Session-Token');
  const ready = await carriers[carrierMode]();
  if (ended) return;
  app.frames(answer.body);
  welcomed = true;
  tell('connected');
  ready.run();
  carrier = ready;
  for (const frame of early.splice(0)) carrier.add(frame);
}

const carriers = {
  'https': () => new Requests(null, 0, 0, []),
  'https-lanes': () => new Lanes(requestLane),
  'websocket': async () => { const sockets = new Resumable(); await sockets.open(); return sockets; },
  'websocket-lanes': () => new Lanes(socketLane),
};

const nonce = /^#android=([A-Za-z0-9_-]{43})$/.exec(location.hash);
history.replaceState(null, '', location.pathname);
addEventListener('pagehide', end);
if (nonce && window.TelegramWebProxy && typeof window.TelegramWebProxy.postMessage === 'function') native(nonce[1]);
else framed();
