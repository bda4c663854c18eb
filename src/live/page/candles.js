// Candles of one symbol: price, the VWAP of each window, volume, and a crosshair that reads exact values.

import { colour, count, exact, make, percent, say, sharp, utc } from '/words.js';

const at = (id) => document.getElementById(id);
/** Windows asked for, and how many are in sight at least and at most. */
const [ASKED, LEAST, MOST] = [480, 20, 480];
/** Pixels of a window at first. */
const FIRST = 7;
/** How often the newest windows are asked for while the chart is open, and how often all: a late trade may change any. */
const [EVERY_MS, ALL_EVERY_MS, NEWEST] = [1000, 30000, 8];
/** Rows of the table below. */
const ROWS = 12;
/** Room for prices to the right, for times below. */
const [RIGHT, BELOW] = [74, 20];

/** What the readout and the table tell of a window. */
const FIELDS = [
  ['open', 'Open', (row) => exact(row.open, 2)],
  ['high', 'High', (row) => exact(row.high, 2)],
  ['low', 'Low', (row) => exact(row.low, 2)],
  ['close', 'Close', (row) => exact(row.close, 2)],
  ['vwap', 'VWAP', (row) => exact(row.vwap, 2)],
  ['volume', 'Volume', (row) => exact(row.volume)],
  ['trades', 'Trades', (row) => count(row.trades)],
  ['notional', 'Notional', (row) => exact(row.notional)],
  ['revision', 'Revision', (row) => count(row.revision)],
  ['epoch', 'Epoch', (row) => count(row.epoch)],
  ['final', 'Final', (row) => (row.final ? 'yes' : 'not yet')],
];

export class Candles {
  constructor(known, onClose) {
    Object.assign(this, { known, symbol: null, size: '', rows: [], sight: 0, cursor: null, fault: '' });
    at('close').addEventListener('click', onClose);
    const canvas = at('chart');
    canvas.addEventListener('pointermove', (event) => this.point(event));
    canvas.addEventListener('pointerdown', (event) => this.point(event));
    canvas.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && this.read(null));
    canvas.addEventListener('wheel', (event) => (event.preventDefault(), this.zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15)), { passive: false });
    canvas.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    this.places = {};
    this.places.time = make('dd');
    at('readout').append(make('div', 'time', make('dt', '', 'Window, UTC'), this.places.time));
    for (const [key, title] of FIELDS) {
      this.places[key] = make('dd');
      this.places[key].dataset.field = key;
      at('readout').append(make('div', key, make('dt', '', title), this.places[key]));
    }
    at('windows').tHead.append(make('tr', '', make('th', '', 'Start'), ...FIELDS.map(([key, title]) => make('th', key, title))));
    for (const cell of at('windows').tHead.querySelectorAll('th')) cell.scope = 'col';
    setInterval(() => this.ask(), EVERY_MS);
  }

  /** A new stream: sizes may be others. */
  begin() {
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
    for (const button of at('sizes').children) button.setAttribute('aria-pressed', String(button.textContent === size));
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
    Object.assign(this, { rows: [], cursor: null, fault: '', askedAll: 0 });
    this.turn = (this.turn ?? 0) + 1;
    this.busy = false;
    this.tell();
    this.ask();
  }

  /** Lines have changed; the next question will tell. */
  changed() {
    if (this.symbol === null) return;
    const line = this.known.lines.get(this.symbol);
    if (line && line.changes !== this.seen) [this.seen, this.due] = [line.changes, true];
  }

  async ask() {
    if (this.symbol === null || this.busy || !this.size || document.hidden) return;
    const all = !this.rows.length || Date.now() - (this.askedAll ?? 0) >= ALL_EVERY_MS;
    if (!all && !this.due) return;
    const turn = (this.turn ??= 0);
    [this.busy, this.due] = [true, false];
    try {
      const query = new URLSearchParams({ symbol: this.symbol, size: this.size, limit: all ? ASKED : NEWEST });
      const answer = await fetch('/bars?' + query, { signal: AbortSignal.timeout(12000) });
      const told = await answer.json();
      if (turn !== this.turn) return;
      this.fault = answer.ok ? '' : told.error;
      if (answer.ok) this.merge(told.rows, all);
      else if (answer.status === 404 && all) this.rows = [];
      if (all) this.askedAll = Date.now();
    } catch {
      if (turn === this.turn) this.fault = this.rows.length ? 'not refreshed: no answer' : 'no answer; asking again';
    } finally {
      if (turn === this.turn) {
        this.busy = false;
        this.tell();
      }
    }
  }

  merge(rows, all) {
    const first = rows[0]?.start ?? 0;
    this.rows = (all ? rows : [...this.rows.filter((row) => row.start < first), ...rows]).slice(-ASKED);
    for (const row of rows) {
      for (const key of ['open', 'high', 'low', 'close', 'vwap', 'volume']) row['n' + key] = row[key] === null ? NaN : Number(row[key]);
    }
  }

  /** The windows in sight. */
  seenRows() {
    return this.rows.slice(-(this.sight || LEAST));
  }

  tell() {
    const hint = this.rows.length ? '' : this.fault || 'Reading …';
    at('hint').hidden = !hint;
    say(at('hint'), hint);
    this.readout();
    const newest = this.rows.slice(-ROWS).reverse();
    const body = at('windows').tBodies[0];
    while (body.rows.length > newest.length) body.lastChild.remove();
    newest.forEach((row, i) => {
      const line = body.rows[i] ?? body.appendChild(make('tr', '', make('th'), ...FIELDS.map(([key]) => make('td', key))));
      line.firstChild.scope = 'row';
      line.dataset.start = String(row.start);
      // The day where it changes, and of days.
      const [day, time] = utc(row.start).split(' ');
      const same = !this.size.endsWith('d') && day === utc(newest[Math.max(0, i - 1)].start).slice(0, 10);
      say(line.firstChild, this.size.endsWith('d') ? day : (same ? '' : day.slice(5) + ' ') + (this.size.endsWith('s') ? time : time.slice(0, 5)));
      line.firstChild.title = utc(row.start);
      FIELDS.forEach(([, , text], n) => say(line.children[n + 1], text(row)));
    });
    this.draw();
  }

  readout() {
    const row = this.rows.find((row) => row.start === this.cursor) ?? this.rows.at(-1);
    say(this.places.time, row ? utc(row.start) : '–');
    for (const [key, , text] of FIELDS) say(this.places[key], row ? text(row) : '–');
    const change = row ? row.nclose / row.nopen - 1 : NaN;
    this.places.close.dataset.sign = String(Math.sign(change) || 0);
    at('chart').setAttribute('aria-label', row ? `Candles of ${this.symbol}; ${utc(row.start)}: close ${row.close}, ${percent(change)}, VWAP ${row.vwap}` : 'Candles');
  }

  read(start) {
    this.cursor = start;
    this.readout();
    this.draw();
  }

  point(event) {
    const [box, rows] = [at('chart').getBoundingClientRect(), this.seenRows()];
    if (!rows.length) return;
    const step = (box.width - RIGHT) / Math.max(rows.length, LEAST);
    const from = box.width - RIGHT - rows.length * step;
    const index = Math.floor((event.clientX - box.left - from) / step);
    this.level = event.clientY - box.top;
    this.read(rows[Math.max(0, Math.min(rows.length - 1, index))].start);
  }

  zoom(factor) {
    this.sight = Math.max(LEAST, Math.min(MOST, Math.round(this.sight * factor)));
    this.draw();
  }

  key(event) {
    const [rows, here] = [this.seenRows(), this.cursor];
    const place = here === null ? rows.length - 1 : rows.findIndex((row) => row.start === here);
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key in steps && rows.length) {
      this.level = null;
      this.read(rows[Math.max(0, Math.min(rows.length - 1, place + steps[event.key]))].start);
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
    const rows = this.seenRows();
    const prices = rows.flatMap((row) => [row.nhigh, row.nlow, row.nvwap]).filter(Number.isFinite);
    if (!prices.length) return;
    let [low, high] = [Math.min(...prices), Math.max(...prices)];
    const air = (high - low) * 0.06 || high * 0.001 || 1;
    [low, high] = [low - air, high + air];
    const [right, base, split] = [width - RIGHT, height - BELOW, Math.round((height - BELOW) * 0.78)];
    const step = right / Math.max(rows.length, LEAST);
    const x = (i) => right - (rows.length - i - 0.5) * step;
    const y = (price) => 8 + (1 - (price - low) / (high - low)) * (split - 16);
    const most = Math.max(...rows.map((row) => row.nvolume), 0) || 1;
    const font = getComputedStyle(canvas).fontFamily;
    pen.font = `11px ${font}`;
    pen.textBaseline = 'middle';
    const newest = rows.findLast((row) => Number.isFinite(row.nclose));
    this.scale(pen, { low, high, y, right, split, width, taken: newest ? y(newest.nclose) : -99 });
    this.times(pen, { rows, x, base, right, step });
    const thick = Math.max(1, Math.min(13, Math.floor(step * 0.7)));
    rows.forEach((row, i) => {
      const middle = Math.round(x(i));
      const up = !(row.nclose < row.nopen);
      pen.fillStyle = pen.strokeStyle = colour(up ? 'up' : 'down');
      const tall = (row.nvolume / most) * (base - split - 6);
      pen.globalAlpha = 0.4;
      pen.fillRect(middle - thick / 2, base - tall, thick, tall);
      pen.globalAlpha = 1;
      if (!Number.isFinite(row.nopen)) return;
      pen.fillRect(middle - 0.5, y(row.nhigh), 1, y(row.nlow) - y(row.nhigh));
      const [top, bottom] = [y(Math.max(row.nopen, row.nclose)), y(Math.min(row.nopen, row.nclose))];
      const tallness = Math.max(1, bottom - top);
      pen.fillRect(middle - thick / 2, top, thick, tallness);
      // Rising candles are hollow: told by form as well as by colour.
      if (up && thick >= 4 && tallness > 2) {
        pen.fillStyle = colour('panel');
        pen.fillRect(middle - thick / 2 + 1, top + 1, thick - 2, tallness - 2);
      }
    });
    pen.strokeStyle = colour('vwap');
    pen.lineWidth = 1.5;
    pen.lineJoin = 'round';
    pen.beginPath();
    rows.forEach((row, i) => Number.isFinite(row.nvwap) && pen.lineTo(x(i), y(row.nvwap)));
    pen.stroke();
    pen.lineWidth = 1;
    if (newest) this.tag(pen, y(newest.nclose), exact(newest.close, 2), colour(newest.nclose < newest.nopen ? 'down' : 'up'), { right, width, dashed: true });
    this.cross(pen, { rows, x, y, right, base, split, low, high, width });
  }

  /** Prices to the right, on round numbers. */
  scale(pen, { low, high, y, right, split, width, taken }) {
    const rough = (high - low) / Math.max(2, split / 44);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const digits = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
    this.digits = digits + 1;
    pen.textAlign = 'left';
    for (let price = Math.ceil(low / step) * step; price < high; price += step) {
      pen.fillStyle = colour('grid');
      pen.fillRect(0, Math.round(y(price)), right, 1);
      pen.fillStyle = colour('dim');
      if (Math.abs(y(price) - taken) > 14) pen.fillText(exact(price.toFixed(digits)), right + 8, y(price));
    }
    pen.fillStyle = colour('edge');
    pen.fillRect(0, split, width, 1);
    pen.fillRect(right, 0, 1, split);
  }

  /** Times below, where a round one begins, as many as there is room for. */
  times(pen, { rows, x, base, right, step }) {
    pen.textAlign = 'center';
    const every = Math.max(1, Math.ceil(76 / step));
    const rounds = [1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400].map((s) => s * 1000);
    const apart = rows.length > 1 ? (rows.at(-1).start - rows[0].start) / (rows.length - 1) : 1;
    const round = rounds.find((ms) => ms >= apart * every) ?? 86400000 * Math.ceil((apart * every) / 86400000);
    let [before, drawn] = [null, -100];
    rows.forEach((row, i) => {
      const slot = Math.floor(row.start / round);
      if (slot !== before && before !== null && x(i) - drawn >= 70 && x(i) > 24 && x(i) < right - 8) {
        const [day, time] = utc(row.start).split(' ');
        const newDay = i > 0 && utc(rows[i - 1].start).slice(0, 10) !== day;
        pen.fillStyle = colour('dim');
        const text = this.size.endsWith('d') || newDay ? day.slice(5) : round < 60000 ? time.slice(0, 8) : time.slice(0, 5);
        pen.fillText(text, x(i), base + BELOW / 2 + 1);
        drawn = x(i);
      }
      before = slot;
    });
  }

  /** A price on the scale. */
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

  cross(pen, { rows, x, y, right, base, split, low, high, width }) {
    const place = rows.findIndex((row) => row.start === this.cursor);
    if (place < 0) return;
    const row = rows[place];
    pen.fillStyle = colour('text');
    pen.globalAlpha = 0.45;
    pen.fillRect(Math.round(x(place)), 0, 1, base);
    const level = this.level ?? y(row.nclose);
    if (level < split) pen.fillRect(0, Math.round(level), right, 1);
    pen.globalAlpha = 1;
    if (level < split && Number.isFinite(level)) {
      const price = low + (1 - (level - 8) / (split - 16)) * (high - low);
      this.tag(pen, level, exact(price.toFixed(Math.min(8, Math.max(2, this.digits)))), colour('text'), { right, width });
    }
    const text = utc(row.start).slice(5);
    const half = pen.measureText(text).width / 2 + 6;
    const middle = Math.max(half, Math.min(right - half, x(place)));
    pen.fillStyle = colour('text');
    pen.fillRect(middle - half, base + 1, 2 * half, BELOW - 2);
    pen.fillStyle = colour('panel');
    pen.textAlign = 'center';
    pen.fillText(text, middle, base + BELOW / 2 + 1);
  }
}
