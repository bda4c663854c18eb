// What the page knows, and how it hears of it: one stream of events, opened again by itself whenever it ends.

import { Table } from '/table.js';
import { Candles } from '/candles.js';
import { Pipeline } from '/pipeline.js';
import { age, count, make, onColours, say, seconds } from '/words.js';

const at = (id) => document.getElementById(id);
/** Without a word for this long the stream is taken for dead: the status comes each second. */
const SILENCE_MS = 8000;
/** Windows of a sparkline before the newest. */
const CLOSES = 60;
/** Between two attempts, at first and at most. */
const [RETRY_MS, RETRY_MOST_MS] = [1000, 10000];

/** Lines by symbol, and what else was told. */
const known = { lines: new Map(), size: '', sizes: [], process: 0, processes: 1, ahead: 0, status: null, whole: false, ended: '' };
/** The server's clock now. */
const now = () => Date.now() + known.ahead;

const table = new Table(known, now, (symbol) => (location.hash = '#/symbol/' + encodeURIComponent(symbol)));
const candles = new Candles(known, () => (location.hash = '#/'));
const pipeline = new Pipeline(at('pipeline'), now);

let source = null;
let heard = 0;
let retry = RETRY_MS;
let retryAt = 0;
let lostAt = 0;

function connect() {
  source?.close();
  retryAt = 0;
  heard = Date.now();
  source = new EventSource('/events');
  source.addEventListener('begin', on(begin));
  source.addEventListener('lines', on(take));
  source.addEventListener('whole', on(() => ((known.whole = true), table.changed(true))));
  source.addEventListener('status', on(status));
  source.onerror = lost;
}

const on = (call) => (event) => {
  heard = Date.now();
  call(JSON.parse(event.data));
};

function begin(told) {
  retry = RETRY_MS;
  lostAt = 0;
  Object.assign(known, { lines: new Map(), size: told.size, sizes: told.sizes, process: told.process, processes: told.processes, whole: false });
  known.ahead = told.now - Date.now();
  state('live', 'live');
  const part = told.process > 0 ? `Process ${told.process} of ${told.processes}: its own symbols; process 0 shows all.` : '';
  note(part);
  table.begin();
  candles.begin();
}

function take(told) {
  known.ahead = told.now - Date.now();
  for (const [symbol, last, vwap, volume, trades, event, start, acknowledged, closes] of told.lines) {
    let line = known.lines.get(symbol);
    const price = last === null ? NaN : Number(last);
    if (!line) {
      line = { symbol, closes: [], tick: 0, tickAt: 0, price: NaN };
      known.lines.set(symbol, line);
      table.added();
    } else if (price !== line.price && known.whole) {
      line.tick = Math.sign(price - line.price) || line.tick;
      line.tickAt = performance.now();
    }
    if (Array.isArray(closes)) line.closes = closes;
    // What is told twice is taken in once.
    else if (closes !== undefined && start > line.start) line.closes.push(closes);
    if (line.closes.length > CLOSES) line.closes.splice(0, line.closes.length - CLOSES);
    const average = vwap === null ? NaN : Number(vwap);
    Object.assign(line, { last, vwap, volume, trades, event, start, acknowledged, price, average, amount: Number(volume), away: price / average - 1 });
    line.changes = (line.changes ?? 0) + 1;
  }
  table.changed();
  candles.changed();
}

function status(told) {
  known.ahead = told.now - Date.now();
  known.status = told;
  pipeline.take(told);
  glance(pipeline.rates, told);
}

function lost() {
  lostAt ||= Date.now();
  source?.close();
  source = null;
  // Not all at once: many pages may have lost the same process.
  retryAt = Date.now() + retry * (0.75 + Math.random() / 2);
  retry = Math.min(retry * 2, RETRY_MOST_MS);
  told();
}

/** Says that, and for how long, nothing is heard. */
function told() {
  const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  state('lost', 'disconnected');
  note(`No connection for ${age(Date.now() - lostAt)}: the numbers are those of then. Connecting again${wait ? ` in ${wait} s` : ' …'}`, true);
  pipeline.stale(true);
}

function state(name, text) {
  at('link').dataset.state = name;
  say(at('link').lastElementChild, text);
  document.body.classList.toggle('stale', name === 'lost');
  if (name === 'live') pipeline.stale(false);
}

function note(text, bad = false) {
  at('note').hidden = !text;
  at('note').classList.toggle('bad', bad);
  say(at('note'), text);
}

setInterval(() => {
  if (source && Date.now() - heard > SILENCE_MS) lost();
  if (lostAt) told();
  if (!source && retryAt && Date.now() >= retryAt) connect();
  table.tick();
}, 1000);

const places = {};
/** The few numbers in the bar. */
function glance(rates, told) {
  const job = told.job;
  const shown = {
    'trades/s': count(rates.trades),
    'rows/s': count(rates.rows),
    'fresh p99': seconds(job?.freshness_s?.p99),
    epoch: count(job?.epoch_committed),
  };
  for (const [name, text] of Object.entries(shown)) {
    if (!places[name]) {
      places[name] = make('dd');
      at('glance').append(make('div', '', make('dt', '', name), places[name]));
    }
    say(places[name], text);
  }
}

/** Shows what the address names. */
function route() {
  const hash = location.hash.slice(1);
  const pipes = hash === '/pipeline';
  at('pipeline').hidden = !pipes;
  at('symbols').hidden = pipes;
  for (const [id, is] of [['tab-symbols', !pipes], ['tab-pipeline', pipes]]) {
    if (is) at(id).setAttribute('aria-current', 'page');
    else at(id).removeAttribute('aria-current');
  }
  let symbol = null;
  try {
    symbol = hash.startsWith('/symbol/') ? decodeURIComponent(hash.slice('/symbol/'.length)) : null;
  } catch {
    // No address of ours.
  }
  document.title = symbol ? `${symbol} · tapeflow` : pipes ? 'Pipeline · tapeflow' : 'tapeflow';
  candles.show(pipes ? null : symbol);
  table.open(symbol);
  if (!pipes) table.resize();
}

addEventListener('hashchange', route);
addEventListener('online', () => !source && connect());
document.addEventListener('visibilitychange', () => !document.hidden && (table.changed(true), retryAt && connect()));
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/' && event.target !== at('filter')) {
    event.preventDefault();
    location.hash = location.hash === '#/pipeline' ? '#/' : location.hash;
    at('filter').focus();
  } else if (event.key === 'Escape' && event.target !== at('filter') && !at('detail').hidden) {
    location.hash = '#/';
    at('rows').focus();
  }
});
onColours(() => (table.changed(true), candles.draw(), pipeline.draw()));
route();
connect();
