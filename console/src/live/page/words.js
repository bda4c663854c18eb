// Numbers, times and elements. Decimals arrive as exact texts and stay texts on the page, because a
// double cannot hold all of them.

/** A decimal as { whole, fraction }: thousands grouped, at least `least` digits after the point. */
export function parts(exact, least = 0) {
  const [whole, digits = ''] = exact.split('.');
  const grouped = whole.replace('-', '−').replace(/\B(?=(\d{3})+$)/g, ',');
  const fraction = digits.padEnd(least, '0');
  return { whole: grouped, fraction: fraction ? '.' + fraction : '' };
}

/** A decimal as one text; see `parts`. */
export function exact(text, least = 0) {
  if (text === null || text === undefined) return '–';
  const { whole, fraction } = parts(String(text), least);
  return whole + fraction;
}

/** A count with thousands grouped. */
export const count = (n) => (n === null || n === undefined ? '–' : exact(String(Math.round(n))));

/** A ratio in percent with its sign. */
export function percent(share) {
  if (!Number.isFinite(share)) return '–';
  const text = Math.abs(share * 100).toFixed(2);
  return text === '0.00' ? '0.00%' : (share > 0 ? '+' : '−') + text + '%';
}

/** An age in one unit; `ms` in milliseconds. */
export function age(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return s.toFixed(1) + ' s';
  if (s < 60) return Math.floor(s) + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min';
  if (s < 86400) return Math.floor(s / 3600) + ' h';
  return Math.floor(s / 86400) + ' d';
}

/** A duration in seconds, such as a latency. */
export function seconds(s) {
  if (s === null || s === undefined) return '–';
  if (s < 1) return Math.round(s * 1000) + ' ms';
  return s < 100 ? s.toFixed(2) + ' s' : age(s * 1000);
}

/** A long duration in seconds, such as an uptime, in two units. */
export function span(s) {
  const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  return d
    ? `${d} d ${h} h`
    : h
      ? `${h} h ${m} min`
      : m
        ? `${m} min ${Math.floor(s % 60)} s`
        : `${Math.floor(s)} s`;
}

/** Bytes in MiB or GiB. */
export function bytes(n) {
  if (n === null || n === undefined) return '–';
  return n < 2 ** 30 ? (n / 2 ** 20).toFixed(0) + ' MiB' : (n / 2 ** 30).toFixed(2) + ' GiB';
}

/** A time in UTC; milliseconds only if there are any. */
export const utc = (ms) =>
  new Date(ms).toISOString().replace('.000Z', 'Z').replace('T', ' ').replace('Z', '');

/** A date or time as of `utc` without its year, if that is the current one. */
export const short = (text) =>
  text.slice(0, 4) === String(new Date().getUTCFullYear()) ? text.slice(5) : text;

/** An element with a class, a text and children. */
export function make(tag, name = '', ...inner) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...inner);
  return element;
}

/** Sets the text of an element if it differs. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Fits a canvas to the resolution of the screen; returns its context, scaled and cleared. */
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

let kept = {};
/** A colour of the style sheet, for canvases. */
export function colour(name) {
  return (kept[name] ??= getComputedStyle(document.documentElement)
    .getPropertyValue('--' + name)
    .trim());
}
/** Calls `call` when the colour scheme of the browser changes. */
export function onColours(call) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    kept = {};
    call();
  });
}
