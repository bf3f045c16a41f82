"""What each kind of app puts around the bridge page, as scripts for a real browser.

`hostOut(text)` is a CDP binding: 'c' + JSON for control, 'b' + base64 for bytes, 'x' + text for a fault.
"""

COMMON = r"""
const b64 = b => { let s=''; const u=new Uint8Array(b); for (let i=0;i<u.length;i+=32768) s+=String.fromCharCode.apply(null,u.subarray(i,i+32768)); return btoa(s); };
const unb64 = t => { const s=atob(t), u=new Uint8Array(s.length); for (let i=0;i<s.length;i++) u[i]=s.charCodeAt(i); return u.buffer; };
const out = hostOut;
"""

# Things the apps take away or forbid before the page's script runs.
LOCK = r"""
for (const name of ['localStorage','sessionStorage','indexedDB','caches','cookieStore','Worker','SharedWorker','RTCPeerConnection',
  'webkitRTCPeerConnection','WebTransport','WebAssembly','BroadcastChannel','open','alert','confirm','prompt','XMLHttpRequest','EventSource'])
  try { Object.defineProperty(window, name, {value: undefined, configurable: false, writable: false}); } catch (e) {}
for (const name of ['sendBeacon','serviceWorker','storage','mediaDevices','geolocation','clipboard'])
  try { Object.defineProperty(Navigator.prototype, name, {value: undefined, configurable: false}); } catch (e) {}
try { Object.defineProperty(Document.prototype, 'cookie', {get: () => '', set: () => {}, configurable: false}); } catch (e) {}
"""

META = r"""
const putMeta = () => { if (!document.head || document.head.querySelector('meta[data-h]')) return false;
  const m=document.createElement('meta'); m.httpEquiv='Content-Security-Policy'; m.dataset.h='1'; m.content=__CSP__; document.head.prepend(m); return true; };
if (!putMeta()) { const o=new MutationObserver(() => { if (putMeta()) o.disconnect(); }); o.observe(document, {childList:true, subtree:true}); }
"""

DESKTOP = r"""
(() => { if (window.top !== window) return;
""" + COMMON + LOCK + META + r"""
let handler = null, failed = false;
const object = Object.freeze(Object.defineProperty({
  postMessage(m) {
    if (typeof m === 'string') out('c' + m);
    else if (m instanceof ArrayBuffer) out('b' + b64(m));
    else { failed = true; out('xpostMessage of ' + Object.prototype.toString.call(m)); }
  }}, 'onmessage', {get: () => handler, set: f => { handler = f; }, enumerable: true}));
Object.defineProperty(window, 'TelegramWebProxy', {value: object, configurable: false, writable: false});
window.hostIn = (kind, text) => {
  if (typeof handler !== 'function') return 'no handler';
  try { handler({data: kind === 'b' ? unb64(text) : text}); return 'ok'; }
  catch (e) { out('xhandler threw ' + e); return 'threw'; }
};
})();
"""

ANDROID = r"""
(() => {
""" + COMMON + r"""
class Bridge extends EventTarget {}
const object = new Bridge(); object.onmessage = null;
object.postMessage = function (m) {
  if (this !== object) { out('xpostMessage without its object'); return; }
  if (typeof m === 'string') out('c' + m);
  else if (m instanceof ArrayBuffer) out('b' + b64(m));
  else out('xpostMessage of ' + Object.prototype.toString.call(m));
};
window.TelegramWebProxy = object;
window.hostIn = (kind, text) => {
  const e = new MessageEvent('message', {data: kind === 'b' ? unb64(text) : text});
  if (typeof object.onmessage === 'function') object.onmessage(e); else return 'no handler';
  return 'ok';
};
})();
"""

# A WebView without binary messages: after init the host swaps both functions for string forms.
ANDROID64 = r"""
(() => {
""" + COMMON + r"""
const object = {onmessage: null, postMessage(m) {
  if (typeof m === 'string') out('c' + m); else out('xbinary message on a WebView without binary messages'); }};
window.TelegramWebProxy = object;
window.hostSwap = () => {
  if (typeof object.onmessage !== 'function') return 'no handler yet';
  const page = object.onmessage, plain = object.postMessage;
  object.onmessage = e => page({data: typeof e.data === 'string' && e.data.startsWith('tproxy-base64:') ? unb64(e.data.slice(14)) : e.data});
  object.postMessage = m => { if (m instanceof ArrayBuffer) out('b' + b64(m)); else plain.call(object, m); };
  return 'ok';
};
window.hostIn = (kind, text) => { object.onmessage({data: kind === 'b' ? 'tproxy-base64:' + text : text}); return 'ok'; };
})();
"""

IOS = r"""
(() => { if (window.top !== window) return;
""" + COMMON + LOCK + META + r"""
const object = Object.seal({onmessage: null, postMessage(m) {
  if (typeof m === 'string') { if (m.length > 4096) out('xcontrol too long'); else out('c' + m); }
  else if (m instanceof ArrayBuffer) { if (m.byteLength > 2097152) out('xmessage too long'); else out('b' + b64(m)); }
  else throw new TypeError('string or ArrayBuffer'); }});
Object.defineProperty(window, 'TelegramWebProxy', {value: object, configurable: false, writable: false});
window.hostIn = (kind, text) => {
  if (typeof object.onmessage !== 'function') return 'no handler';
  try { object.onmessage({data: kind === 'b' ? unb64(text) : text}); return 'ok'; }
  catch (e) { out('xhandler threw ' + e); return 'threw'; }
};
})();
"""

# The page that Desktop's browser fallback serves on loopback.
PARENT = r"""<!doctype html><meta charset="utf-8"><title>parent</title><script>
""" + COMMON.replace("const out = hostOut;", "const out = x => hostOut(x);") + r"""
let port = null, seen = [];
window.hostStart = url => {
  const f = document.createElement('iframe');
  f.setAttribute('sandbox', 'allow-scripts allow-same-origin'); f.referrerPolicy = 'no-referrer';
  f.onload = () => {
    const c = new MessageChannel(); port = c.port1;
    port.onmessage = m => { if (m.data instanceof ArrayBuffer) out('b' + b64(m.data)); else out('c' + JSON.stringify(m.data)); };
    f.contentWindow.postMessage({t:'tproxy-init', v:1}, new URL(url).origin, [c.port2]);
  };
  f.src = url; document.body.append(f);
  return 'ok';
};
window.hostIn = (kind, text) => { if (kind === 'b') { const b = unb64(text); port.postMessage(b, [b]); } else port.postMessage(JSON.parse(text)); return 'ok'; };
</script><body>"""


# Stands in for the browser's WebSocket: one that never opens, or one that is lost after a few messages.
SOCKETS = r"""
(() => { const Whole = window.WebSocket; let left = __LOST__;
window.WebSocket = class extends EventTarget {
  static get OPEN() { return 1; }
  constructor(url, protocols) {
    super();
    if (__REFUSED__) { setTimeout(() => this.end('error'), 5); return; }
    const socket = this.socket = new Whole(url, protocols), loses = left-- > 0;
    let messages = 0;
    socket.binaryType = 'arraybuffer';
    for (const kind of ['open', 'message', 'close', 'error']) socket.addEventListener(kind, e => {
      if (kind === 'message' && loses && ++messages > 4) { socket.close(); return; }
      const copy = kind === 'message' ? new MessageEvent(kind, {data: e.data}) : new Event(kind);
      this.dispatchEvent(copy);
      if (this['on' + kind]) this['on' + kind](copy);
    });
  }
  end(kind) { this.dispatchEvent(new Event(kind)); this.dispatchEvent(new Event('close')); }
  send(data) { if (this.readyState === 1) this.socket.send(data); }
  close() { if (this.socket) this.socket.close(); }
  get readyState() { return this.socket ? this.socket.readyState : 3; }
  get bufferedAmount() { return this.socket.bufferedAmount; }
}; })();
"""


def sockets(how):
    """The script that spoils WebSockets: refused, lost once, or lost again and again; whole ones need none."""
    if how == "whole":
        return ""
    lost = {"refused": "0", "lost": "1", "lost-again": "9"}[how]
    return SOCKETS.replace("__LOST__", lost).replace("__REFUSED__", "true" if how == "refused" else "false")


# Stands in for the browser's fetch: the first requests are lost on the way.
REQUESTS = r"""
(() => { const whole = window.fetch.bind(window); let left = __LOST__;
window.fetch = (...asked) => left-- > 0 ? Promise.reject(new TypeError('lost')) : whole(...asked); })();
"""


def requests(lost):
    """The script that loses so many requests."""
    return REQUESTS.replace("__LOST__", str(lost)) if lost else ""


def script(role, host):
    text = {"desktop": DESKTOP, "android": ANDROID, "android64": ANDROID64, "ios": IOS}[role]
    if role == "desktop":
        csp = ("default-src 'none'; connect-src https://%s wss://%s; script-src 'unsafe-inline'; base-uri 'none'; "
               "form-action 'none'; frame-src 'none'; worker-src 'none'" % (host, host))
    else:
        csp = ("default-src 'none'; connect-src https://%s wss://%s; script-src 'unsafe-inline'; img-src 'none'; style-src 'none'; "
               "worker-src 'none'; object-src 'none'; frame-src 'none'" % (host, host))
    return text.replace("__CSP__", '"%s"' % csp)
