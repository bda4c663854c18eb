// Candles of one symbol: price, the VWAP of each window, volume, and a crosshair that shows exact
// values.

import { colour, count, exact, make, percent, say, sharp, short, utc } from '/words.js';

const at = (id) => document.getElementById(id);
/** Bars requested, and the fewest and the most that are visible. */
const [REQUESTED, LEAST, MOST] = [480, 20, 480];
/** The initial width of a window in pixels. */
const FIRST = 7;
/** How often the open chart requests the newest bars, and how often all: a late trade may change
 * any of them. */
const [EVERY_MS, ALL_EVERY_MS, NEWEST] = [1000, 30000, 8];
/** Rows of the table below the chart. */
const ROWS = 12;
/** Least pixels for prices on the right, and pixels for times at the bottom. */
const [RIGHT, BELOW] = [74, 20];

/** The fields of a bar in the readout and in the table: key, title, text. */
const FIELDS = [
  ['open', 'Open', (bar) => exact(bar.open, 2)],
  ['high', 'High', (bar) => exact(bar.high, 2)],
  ['low', 'Low', (bar) => exact(bar.low, 2)],
  ['close', 'Close', (bar) => exact(bar.close, 2)],
  ['vwap', 'VWAP', (bar) => exact(bar.vwap, 2)],
  ['volume', 'Volume', (bar) => exact(bar.volume)],
  ['trades', 'Trades', (bar) => count(bar.trades)],
  ['notional', 'Notional', (bar) => exact(bar.notional)],
  ['revision', 'Revision', (bar) => count(bar.revision)],
  ['epoch', 'Epoch', (bar) => count(bar.epoch)],
  ['final', 'Final', (bar) => (bar.final ? 'yes' : 'not yet')],
];

/** Columns of the newest bars from the least to the most important: the first are left out where
 * there is no room. The chosen window above the chart has all of them. */
const SPARE = ['epoch', 'revision', 'notional', 'final', 'trades', 'open', 'high', 'low'];

export class Candles {
  constructor(known, onClose) {
    Object.assign(this, {
      known,
      symbol: null,
      size: '',
      bars: [],
      sight: 0,
      cursor: null,
      error: '',
    });
    at('close').addEventListener('click', onClose);
    const canvas = at('chart');
    canvas.addEventListener('pointermove', (event) => this.point(event));
    canvas.addEventListener('pointerdown', (event) => this.point(event));
    canvas.addEventListener(
      'pointerleave',
      (event) => event.pointerType === 'mouse' && this.read(null),
    );
    canvas.addEventListener(
      'wheel',
      (event) => (event.preventDefault(), this.zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15)),
      { passive: false },
    );
    canvas.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    new ResizeObserver(() => this.fit()).observe(at('windows').parentElement);
    this.places = {};
    this.places.time = make('dd');
    at('readout').append(make('div', 'time', make('dt', '', 'Window, UTC'), this.places.time));
    for (const [key, title] of FIELDS) {
      this.places[key] = make('dd');
      this.places[key].dataset.field = key;
      at('readout').append(make('div', key, make('dt', '', title), this.places[key]));
    }
    at('windows').tHead.append(
      make(
        'tr',
        '',
        make('th', '', 'Start'),
        ...FIELDS.map(([key, title]) => make('th', key, title)),
      ),
    );
    for (const cell of at('windows').tHead.querySelectorAll('th')) cell.scope = 'col';
    setInterval(() => this.ask(), EVERY_MS);
  }

  /** A new stream has started: the sizes may have changed. */
  start() {
    if (!this.known.sizes.includes(this.size)) this.size = this.known.size;
    at('sizes').replaceChildren(
      ...this.known.sizes.map((size) => {
        const button = make('button', '', size);
        button.type = 'button';
        button.setAttribute('aria-pressed', String(size === this.size));
        button.addEventListener('click', () => this.pick(size));
        return button;
      }),
    );
    this.askedAll = 0;
    this.ask();
  }

  pick(size) {
    this.size = size;
    for (const button of at('sizes').children)
      button.setAttribute('aria-pressed', String(button.textContent === size));
    this.empty();
  }

  /** Opens a symbol; null closes. */
  show(symbol) {
    at('detail').hidden = symbol === null;
    document.body.classList.toggle('with-detail', symbol !== null);
    if (symbol === this.symbol) return;
    this.symbol = symbol;
    say(at('name'), symbol ?? '');
    this.empty();
  }

  empty() {
    Object.assign(this, { axis: RIGHT, bars: [], cursor: null, error: '', askedAll: 0 });
    this.request = (this.request ?? 0) + 1;
    this.busy = false;
    this.tell();
    this.ask();
  }

  /** Bars have changed: the next request is due if those of this symbol have. */
  changed() {
    if (this.symbol === null) return;
    const newest = this.known.bars.get(this.symbol);
    if (newest && newest.changes !== this.seen) [this.seen, this.due] = [newest.changes, true];
  }

  async ask() {
    if (this.symbol === null || this.busy || !this.size || document.hidden) return;
    const all = !this.bars.length || Date.now() - (this.askedAll ?? 0) >= ALL_EVERY_MS;
    if (!all && !this.due) return;
    const request = (this.request ??= 0);
    [this.busy, this.due] = [true, false];
    try {
      const query = new URLSearchParams({
        symbol: this.symbol,
        size: this.size,
        limit: all ? REQUESTED : NEWEST,
      });
      const answer = await fetch('/bars?' + query, { signal: AbortSignal.timeout(12000) });
      const data = await answer.json();
      if (request !== this.request) return;
      this.error = answer.ok ? '' : data.error;
      if (answer.ok) this.merge(data.bars, all);
      else if (answer.status === 404 && all) this.bars = [];
      if (all) this.askedAll = Date.now();
    } catch {
      if (request === this.request)
        this.error = this.bars.length ? 'no answer: bars may be old' : 'no answer; trying again';
    } finally {
      if (request === this.request) {
        this.busy = false;
        this.tell();
      }
    }
  }

  merge(bars, all) {
    const first = bars[0]?.start ?? 0;
    this.bars = (all ? bars : [...this.bars.filter((bar) => bar.start < first), ...bars]).slice(
      -REQUESTED,
    );
    for (const bar of bars) {
      for (const key of ['open', 'high', 'low', 'close', 'vwap', 'volume'])
        bar['n' + key] = bar[key] === null ? NaN : Number(bar[key]);
    }
  }

  /** The bars that the chart shows. */
  visibleBars() {
    return this.bars.slice(-(this.sight || LEAST));
  }

  tell() {
    const hint = this.bars.length ? '' : this.error || 'Loading …';
    at('hint').hidden = !hint;
    say(at('hint'), hint);
    this.readout();
    const newest = this.bars.slice(-ROWS).reverse();
    const body = at('windows').tBodies[0];
    while (body.rows.length > newest.length) body.lastChild.remove();
    newest.forEach((bar, i) => {
      const row =
        body.rows[i] ??
        body.appendChild(make('tr', '', make('th'), ...FIELDS.map(([key]) => make('td', key))));
      row.firstChild.scope = 'row';
      row.dataset.start = String(bar.start);
      // Show the day where it changes, and always for windows of days.
      const [day, time] = utc(bar.start).split(' ');
      const same =
        !this.size.endsWith('d') &&
        day === utc(i ? newest[i - 1].start : Date.now()).slice(0, 10);
      say(
        row.firstChild,
        this.size.endsWith('d')
          ? day
          : (same ? '' : short(day) + ' ') + (this.size.endsWith('s') ? time : time.slice(0, 5)),
      );
      row.firstChild.title = utc(bar.start);
      FIELDS.forEach(([, , text], n) => say(row.children[n + 1], text(bar)));
      row.classList.toggle('incomplete', !bar.complete);
      row.title = bar.complete ? '' : 'Trades may be missing: the feed was away';
    });
    this.fit();
    this.draw();
  }

  /** Leaves out as many columns of the newest bars as have no room. */
  fit() {
    const [table, room] = [at('windows'), at('windows').parentElement.clientWidth];
    table.classList.remove(...SPARE.map((key) => 'no-' + key));
    for (const key of SPARE) {
      if (table.scrollWidth <= room) break;
      table.classList.add('no-' + key);
    }
  }

  readout() {
    const bar = this.bars.find((bar) => bar.start === this.cursor) ?? this.bars.at(-1);
    say(this.places.time, bar ? utc(bar.start) : '–');
    for (const [key, , text] of FIELDS) say(this.places[key], bar ? text(bar) : '–');
    const change = bar ? bar.nclose / bar.nopen - 1 : NaN;
    this.places.close.dataset.sign = String(Math.sign(change) || 0);
    at('chart').setAttribute(
      'aria-label',
      bar
        ? `Candles of ${this.symbol}; ${utc(bar.start)}: ` +
            `close ${bar.close}, ${percent(change)}, VWAP ${bar.vwap}` +
            (bar.complete ? '' : '; trades may be missing')
        : 'Candles',
    );
  }

  read(start) {
    this.cursor = start;
    this.readout();
    this.draw();
  }

  point(event) {
    const [box, bars] = [at('chart').getBoundingClientRect(), this.visibleBars()];
    if (!bars.length) return;
    const step = (box.width - this.axis) / Math.max(bars.length, LEAST);
    const from = box.width - this.axis - bars.length * step;
    const index = Math.floor((event.clientX - box.left - from) / step);
    this.level = event.clientY - box.top;
    this.read(bars[Math.max(0, Math.min(bars.length - 1, index))].start);
  }

  zoom(factor) {
    this.sight = Math.max(LEAST, Math.min(MOST, Math.round(this.sight * factor)));
    this.draw();
  }

  key(event) {
    const [bars, here] = [this.visibleBars(), this.cursor];
    const place = here === null ? bars.length - 1 : bars.findIndex((bar) => bar.start === here);
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key in steps && bars.length) {
      this.level = null;
      this.read(bars[Math.max(0, Math.min(bars.length - 1, place + steps[event.key]))].start);
    } else if (event.key === '+' || event.key === '-') this.zoom(event.key === '-' ? 1.3 : 1 / 1.3);
    else return;
    event.preventDefault();
  }

  draw() {
    if (this.symbol === null) return;
    const canvas = at('chart');
    const [width, height] = [canvas.parentElement.clientWidth, canvas.parentElement.clientHeight];
    if (!width || !height) return;
    const pen = sharp(canvas, width, height);
    this.sight ||= Math.max(LEAST, Math.min(MOST, Math.floor((width - RIGHT) / FIRST)));
    const bars = this.visibleBars();
    const prices = bars.flatMap((bar) => [bar.nhigh, bar.nlow, bar.nvwap]).filter(Number.isFinite);
    if (!prices.length) return;
    let [low, high] = [Math.min(...prices), Math.max(...prices)];
    const air = (high - low) * 0.06 || high * 0.001 || 1;
    [low, high] = [low - air, high + air];
    const font = getComputedStyle(canvas).fontFamily;
    pen.font = `11px ${font}`;
    pen.textBaseline = 'middle';
    const newest = bars.findLast((bar) => Number.isFinite(bar.nclose));
    const [base, split] = [height - BELOW, Math.round((height - BELOW) * 0.78)];
    const [apart, digits] = roundPrices(low, high, split);
    // As wide as the longest price in the font that is there.
    const labels = [exact(high.toFixed(digits)), newest ? exact(newest.close, 2) : ''];
    const widest = Math.max(...labels.map((text) => pen.measureText(text).width));
    this.axis = Math.max(RIGHT, Math.ceil(widest) + 14);
    this.digits = digits + 1;
    const right = width - this.axis;
    const step = right / Math.max(bars.length, LEAST);
    const x = (i) => right - (bars.length - i - 0.5) * step;
    const y = (price) => 8 + (1 - (price - low) / (high - low)) * (split - 16);
    const most = Math.max(...bars.map((bar) => bar.nvolume), 0) || 1;
    const taken = newest ? y(newest.nclose) : -99;
    this.scale(pen, { low, high, apart, digits, y, right, split, width, taken });
    this.times(pen, { bars, x, base, right, step });
    const thick = Math.max(1, Math.min(13, Math.floor(step * 0.7)));
    // Behind the candles: the windows in which trades may be missing.
    pen.fillStyle = colour('edge');
    bars.forEach((bar, i) => bar.complete || pen.fillRect(x(i) - step / 2, 0, step, base));
    bars.forEach((bar, i) => {
      const middle = Math.round(x(i));
      const up = !(bar.nclose < bar.nopen);
      pen.fillStyle = pen.strokeStyle = colour(up ? 'up' : 'down');
      const tall = (bar.nvolume / most) * (base - split - 6);
      pen.globalAlpha = 0.4;
      pen.fillRect(middle - thick / 2, base - tall, thick, tall);
      pen.globalAlpha = 1;
      if (!Number.isFinite(bar.nopen)) return;
      pen.fillRect(middle - 0.5, y(bar.nhigh), 1, y(bar.nlow) - y(bar.nhigh));
      const [top, bottom] = [
        y(Math.max(bar.nopen, bar.nclose)),
        y(Math.min(bar.nopen, bar.nclose)),
      ];
      const tallness = Math.max(1, bottom - top);
      pen.fillRect(middle - thick / 2, top, thick, tallness);
      // Rising candles are hollow, so that shape and colour both show the direction.
      if (up && thick >= 4 && tallness > 2) {
        pen.fillStyle = colour('panel');
        pen.fillRect(middle - thick / 2 + 1, top + 1, thick - 2, tallness - 2);
      }
    });
    pen.strokeStyle = colour('vwap');
    pen.lineWidth = 1.5;
    pen.lineJoin = 'round';
    pen.beginPath();
    bars.forEach((bar, i) => Number.isFinite(bar.nvwap) && pen.lineTo(x(i), y(bar.nvwap)));
    pen.stroke();
    pen.lineWidth = 1;
    if (newest)
      this.tag(
        pen,
        y(newest.nclose),
        exact(newest.close, 2),
        colour(newest.nclose < newest.nopen ? 'down' : 'up'),
        { right, width, dashed: true },
      );
    this.cross(pen, { bars, x, y, right, base, split, low, high, width });
  }

  /** Price labels on the right, at round numbers. */
  scale(pen, { low, high, apart, digits, y, right, split, width, taken }) {
    pen.textAlign = 'left';
    for (let price = Math.ceil(low / apart) * apart; price < high; price += apart) {
      pen.fillStyle = colour('grid');
      pen.fillRect(0, Math.round(y(price)), right, 1);
      pen.fillStyle = colour('dim');
      if (Math.abs(y(price) - taken) > 14)
        pen.fillText(exact(price.toFixed(digits)), right + 8, y(price));
    }
    pen.fillStyle = colour('edge');
    pen.fillRect(0, split, width, 1);
    pen.fillRect(right, 0, 1, split);
  }

  /** Time labels at the bottom, at round times, as many as fit. */
  times(pen, { bars, x, base, right, step }) {
    pen.textAlign = 'center';
    const every = Math.max(1, Math.ceil(76 / step));
    const rounds = [
      1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
    ].map((s) => s * 1000);
    const apart = bars.length > 1 ? (bars.at(-1).start - bars[0].start) / (bars.length - 1) : 1;
    const round =
      rounds.find((ms) => ms >= apart * every) ?? 86400000 * Math.ceil((apart * every) / 86400000);
    let [before, drawn] = [null, -100];
    bars.forEach((bar, i) => {
      const slot = Math.floor(bar.start / round);
      if (
        slot !== before &&
        before !== null &&
        x(i) - drawn >= 70 &&
        x(i) > 24 &&
        x(i) < right - 8
      ) {
        const [day, time] = utc(bar.start).split(' ');
        const newDay = i > 0 && utc(bars[i - 1].start).slice(0, 10) !== day;
        pen.fillStyle = colour('dim');
        const text =
          this.size.endsWith('d') || newDay
            ? short(day)
            : round < 60000
              ? time.slice(0, 8)
              : time.slice(0, 5);
        pen.fillText(text, x(i), base + BELOW / 2 + 1);
        drawn = x(i);
      }
      before = slot;
    });
  }

  /** A label on the price scale. */
  tag(pen, level, text, ink, { right, width, dashed }) {
    pen.strokeStyle = pen.fillStyle = ink;
    if (dashed) {
      pen.setLineDash([2, 3]);
      pen.globalAlpha = 0.7;
      pen.beginPath();
      pen.moveTo(0, Math.round(level) + 0.5);
      pen.lineTo(right, Math.round(level) + 0.5);
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    pen.fillRect(right + 1, level - 9, width - right - 1, 18);
    pen.fillStyle = colour('panel');
    pen.textAlign = 'left';
    pen.fillText(text, right + 8, level + 0.5, width - right - 10);
  }

  cross(pen, { bars, x, y, right, base, split, low, high, width }) {
    const place = bars.findIndex((bar) => bar.start === this.cursor);
    if (place < 0) return;
    const bar = bars[place];
    pen.fillStyle = colour('text');
    pen.globalAlpha = 0.45;
    pen.fillRect(Math.round(x(place)), 0, 1, base);
    const level = this.level ?? y(bar.nclose);
    if (level < split) pen.fillRect(0, Math.round(level), right, 1);
    pen.globalAlpha = 1;
    if (level < split && Number.isFinite(level)) {
      const price = low + (1 - (level - 8) / (split - 16)) * (high - low);
      this.tag(
        pen,
        level,
        exact(price.toFixed(Math.min(8, Math.max(2, this.digits)))),
        colour('text'),
        { right, width },
      );
    }
    const text = short(utc(bar.start));
    const half = pen.measureText(text).width / 2 + 6;
    const middle = Math.max(half, Math.min(right - half, x(place)));
    pen.fillStyle = colour('text');
    pen.fillRect(middle - half, base + 1, 2 * half, BELOW - 2);
    pen.fillStyle = colour('panel');
    pen.textAlign = 'center';
    pen.fillText(text, middle, base + BELOW / 2 + 1);
  }
}

/** The distance between two round prices of a scale of so many pixels, and their decimal places. */
function roundPrices(low, high, pixels) {
  const rough = (high - low) / Math.max(2, pixels / 44);
  const power = 10 ** Math.floor(Math.log10(rough));
  const apart = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return [apart, Math.max(0, Math.min(8, -Math.floor(Math.log10(apart) + 1e-9)))];
}
