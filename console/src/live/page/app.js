// The state of the page, and its stream of events. The page reopens the stream whenever it ends.

import { Table } from '/table.js';
import { Candles } from '/candles.js';
import { Pipeline } from '/pipeline.js';
import { age, count, make, onColours, say, seconds, span } from '/words.js';

const at = (id) => document.getElementById(id);
/** A stream without an event for this long is closed: the server sends the status every second. */
const SILENCE_MS = 8000;
/** Closes of a sparkline before the newest price. */
const CLOSES = 60;
/** The first and the longest pause between two attempts to connect. */
const [RETRY_MS, RETRY_MAX_MS] = [1000, 10000];

/** The newest bar of each symbol, and the state of the server. */
const known = {
  bars: new Map(),
  size: '',
  sizes: [],
  process: 0,
  processes: 1,
  clockOffset: 0,
  status: null,
  complete: false,
};
/** The clock of the server, in milliseconds since 1970 UTC. */
const now = () => Date.now() + known.clockOffset;

const table = new Table(
  known,
  now,
  (symbol) => (location.hash = '#/symbol/' + encodeURIComponent(symbol)),
);
const candles = new Candles(known, () => (location.hash = '#/'));
const pipeline = new Pipeline(at('pipeline'), now);

let source = null;
let lastEventAt = 0;
let retry = RETRY_MS;
let retryAt = 0;
let lostAt = 0;

function connect() {
  source?.close();
  retryAt = 0;
  lastEventAt = Date.now();
  source = new EventSource('/events');
  source.addEventListener('start', on(start));
  source.addEventListener('bars', on(take));
  source.addEventListener(
    'complete',
    on(() => ((known.complete = true), table.changed(true))),
  );
  source.addEventListener('status', on(status));
  source.onerror = lost;
}

const on = (call) => (event) => {
  lastEventAt = Date.now();
  call(JSON.parse(event.data));
};

function start(data) {
  retry = RETRY_MS;
  lostAt = 0;
  Object.assign(known, {
    bars: new Map(),
    size: data.size,
    sizes: data.sizes,
    process: data.process,
    processes: data.processes,
    complete: false,
  });
  known.clockOffset = data.now - Date.now();
  // The state of the data follows with the first status.
  state('starting', 'connected');
  note('');
  table.start();
  candles.start();
}

function take(data) {
  known.clockOffset = data.now - Date.now();
  for (const [
    symbol,
    last,
    vwap,
    volume,
    trades,
    event,
    start,
    acknowledged,
    carried,
    closes,
  ] of data.bars) {
    let bar = known.bars.get(symbol);
    const price = last === null ? NaN : Number(last);
    if (!bar) {
      bar = { symbol, closes: [], tick: 0, tickAt: 0, price: NaN };
      known.bars.set(symbol, bar);
      table.added();
    } else if (price !== bar.price && known.complete) {
      bar.tick = Math.sign(price - bar.price) || bar.tick;
      bar.tickAt = performance.now();
    }
    if (Array.isArray(closes)) bar.closes = closes;
    // A close that arrives twice is added once.
    else if (closes !== undefined && start > bar.start) bar.closes.push(closes);
    if (bar.closes.length > CLOSES) bar.closes.splice(0, bar.closes.length - CLOSES);
    const average = vwap === null ? NaN : Number(vwap);
    Object.assign(bar, {
      last,
      vwap,
      volume,
      trades,
      event,
      start,
      acknowledged,
      price,
      average,
      amount: Number(volume),
      // A price of an older window is not compared with the VWAP of this one.
      away: carried ? NaN : price / average - 1,
    });
    bar.changes = (bar.changes ?? 0) + 1;
  }
  table.changed();
  candles.changed();
}

function status(data) {
  known.clockOffset = data.now - Date.now();
  known.status = data;
  pipeline.take(data);
  showSummary(pipeline.rates, data);
  showState(data);
}

/** Trades this old are called quiet and not live: the market may be closed. */
const QUIET_MS = 300000;

/** Shows whether the numbers are of now: the state of the data, not of this connection. */
function showState(data) {
  const { job, feed, outages } = data;
  const which = `Process ${known.process} of ${known.processes}`;
  if (outages.length) {
    state('waiting', `waiting for the ${outages[0].part}`);
    const waits = outages.map((o) => `${o.part}, for ${span(o.seconds)}: ${o.reason}`);
    note(`Waiting: ${waits.join('; ')}. The numbers are from before.`, true);
    return;
  }
  note(known.process > 0 ? `${which} shows only its own symbols; process 0 shows all.` : '');
  const old = job?.newest_trade_ms ? now() - job.newest_trade_ms : 0;
  if (job && !job.ready) state('starting', 'starting');
  else if (feed && feed.kind !== 'finnhub') state(feed.kind, feed.kind);
  else if (old > QUIET_MS) state('quiet', `no trade for ${age(old)}`);
  else state('live', 'live');
}

function lost() {
  lostAt ||= Date.now();
  source?.close();
  source = null;
  // With jitter: many pages may have lost the same process.
  retryAt = Date.now() + retry * (0.75 + Math.random() / 2);
  retry = Math.min(retry * 2, RETRY_MAX_MS);
  showLost();
}

/** Shows that the connection is lost, since when, and when the page connects again. */
function showLost() {
  const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  state('lost', 'disconnected');
  const since = age(Date.now() - lostAt);
  const next = wait ? `in ${wait} s` : 'now …';
  note(`Connection lost ${since} ago; the numbers are from then. Reconnecting ${next}`, true);
  pipeline.stale(true);
}

function state(name, text) {
  at('link').dataset.state = name;
  say(at('link').lastElementChild, text);
  document.body.classList.toggle('stale', name === 'lost');
  if (name !== 'lost') pipeline.stale(false);
}

function note(text, bad = false) {
  at('note').hidden = !text;
  at('note').classList.toggle('bad', bad);
  say(at('note'), text);
}

setInterval(() => {
  if (source && Date.now() - lastEventAt > SILENCE_MS) lost();
  if (lostAt) showLost();
  if (!source && retryAt && Date.now() >= retryAt) connect();
  table.tick();
}, 1000);

const places = {};
/** The summary in the header. */
function showSummary(rates, data) {
  const job = data.job;
  const shown = {
    'trades/s': count(rates.trades),
    'bars/s': count(rates.bars),
    'freshness p99': seconds(job?.freshness_s?.p99),
    epoch: count(job?.epoch_committed),
  };
  for (const [name, text] of Object.entries(shown)) {
    if (!places[name]) {
      places[name] = make('dd');
      at('summary').append(make('div', '', make('dt', '', name), places[name]));
    }
    say(places[name], text);
  }
}

/** Shows the view that the address names. */
function route() {
  const hash = location.hash.slice(1);
  const isPipeline = hash === '/pipeline';
  at('pipeline').hidden = !isPipeline;
  at('symbols').hidden = isPipeline;
  for (const [id, is] of [
    ['tab-symbols', !isPipeline],
    ['tab-pipeline', isPipeline],
  ]) {
    if (is) at(id).setAttribute('aria-current', 'page');
    else at(id).removeAttribute('aria-current');
  }
  let symbol = null;
  try {
    symbol = hash.startsWith('/symbol/') ? decodeURIComponent(hash.slice('/symbol/'.length)) : null;
  } catch {
    // Not an address of this page.
  }
  const title = symbol ?? (isPipeline ? 'Pipeline' : '');
  document.title = title ? `${title} · tapeflow` : 'tapeflow';
  candles.show(isPipeline ? null : symbol);
  table.open(symbol);
  if (!isPipeline) table.resize();
}

addEventListener('hashchange', route);
addEventListener('online', () => !source && connect());
document.addEventListener(
  'visibilitychange',
  () => !document.hidden && (table.changed(true), retryAt && connect()),
);
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
