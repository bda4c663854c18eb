// The table of symbols. The document holds only the rows in sight, for any number of symbols: their
// elements are reused while the table scrolls.

import { age, colour, count, exact, make, parts, percent, say, sharp } from '/words.js';

const at = (id) => document.getElementById(id);
/** How often the table is sorted again if values change the order. */
const ORDER_MS = 2000;
/** Rows outside the visible part, so that fast scrolling shows no gap. */
const SPARE = 4;
/** How long a change of price is highlighted. */
const FLASH_MS = 700;
/** Columns from the most to the least important: the last ones are left out where there is no room. */
const IMPORTANCE = ['symbol', 'last', 'vwap', 'volume', 'away', 'trades', 'age', 'trend'];
/** The least width of columns without a number, and the share of spare room of each that grows. */
const [LEAST, SHARE] = [
  { symbol: 104, trend: 64 },
  { symbol: 1, trend: 1.3, last: 0.6, vwap: 0.8, volume: 0.8 },
];
/** The gap before a column, and beside a price the arrow. */
const [GAP, ARROW] = [12, 15];
/** A phone shows a symbol in three lines: all columns. */
const phone = matchMedia('(max-width: 759px)');
/** Decimal places in the normal colour; further ones are fainter. */
const CLEAR = 5;

/** Key, title, the value to sort by, whether the largest comes first. */
const COLUMNS = [
  ['symbol', 'Symbol', (bar) => bar.symbol, false],
  ['trend', 'Trend', (bar) => trend(bar), true],
  ['last', 'Last', (bar) => bar.price, true],
  ['away', 'vs VWAP', (bar) => bar.away, true],
  ['vwap', 'VWAP', (bar) => bar.average, true],
  ['volume', 'Volume', (bar) => bar.amount, true],
  ['trades', 'Trades', (bar) => bar.trades, true],
  ['age', 'Age', (bar) => -moment(bar), false],
];
const TITLES = {
  trend: 'Closes of the last 60 windows',
  last: 'The last price: the newest close, of an older window if this one has none',
  away: 'The close relative to the VWAP of the same window',
  vwap: 'Volume-weighted average price of the newest window, exact to 1e-8, rounded half-even',
  volume: 'Volume of the newest window',
  trades: 'Trades of the newest window',
  age: 'Time since the store acknowledged the newest bar',
};

/** The change of the price over the known closes. */
const trend = (bar) => (bar.closes.length ? bar.price / bar.closes[0] - 1 : 0);
/** When the bar was acknowledged; if unknown, its event time. */
const moment = (bar) => bar.acknowledged ?? bar.event;

export class Table {
  constructor(known, now, onOpen) {
    Object.assign(this, {
      known,
      now,
      onOpen,
      by: 'symbol',
      down: false,
      order: [],
      pool: [],
      current: null,
      opened: null,
      orderedAt: 0,
      fresh: true,
    });
    this.least = { last: 2, vwap: 8, volume: 0 };
    this.measured = new Map();
    this.head();
    const probe = make('div', 'rows probe');
    probe.setAttribute('aria-hidden', 'true');
    at('grid').append(probe);
    this.probe = new Row(probe);
    const rows = at('rows');
    document.fonts?.ready.then(() => this.resize());
    rows.addEventListener('scroll', () => this.ask(), { passive: true });
    rows.addEventListener('keydown', (event) => this.key(event));
    rows.addEventListener('click', (event) => {
      const bar = event.target.closest('.row')?.bar;
      if (bar) this.choose(bar.symbol, true);
    });
    at('filter').addEventListener('input', () => this.changed(true));
    at('filter').addEventListener('keydown', (event) => {
      if (event.key === 'Escape')
        at('filter').value ? ((at('filter').value = ''), this.changed(true)) : rows.focus();
      if (event.key === 'Enter' || event.key === 'ArrowDown') {
        event.preventDefault();
        rows.focus();
        if (this.order.length) this.choose(this.order[0].symbol, event.key === 'Enter');
      }
    });
    new ResizeObserver(() => this.resize()).observe(rows);
    addEventListener('resize', () => this.resize());
  }

  head() {
    for (const [key, title, , down] of COLUMNS) {
      const button = make('button', '', title);
      button.type = 'button';
      button.title = TITLES[key] ?? '';
      button.addEventListener('click', () => this.sort(key, this.by === key ? !this.down : down));
      const cell = make('div', 'c ' + key, button);
      cell.setAttribute('role', 'columnheader');
      cell.dataset.key = key;
      at('head').append(cell);
      at('order').append(new Option(title, key));
    }
    at('order').addEventListener('change', () => {
      const key = at('order').value;
      this.sort(key, COLUMNS.find(([other]) => other === key)[3]);
    });
    this.sort('symbol', false);
  }

  sort(key, down) {
    [this.by, this.down] = [key, down];
    at('order').value = key;
    for (const cell of at('head').children) {
      if (cell.dataset.key === key)
        cell.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
    }
    this.changed(true);
  }

  start() {
    [this.current, this.least] = [null, { last: 2, vwap: 8, volume: 0 }];
    this.changed(true);
  }

  added() {
    this.fresh = true;
  }

  /** Bars have changed; with `all` also the order. */
  changed(all = false) {
    this.fresh ||= all;
    this.ask();
  }

  /** Once a second: updates ages, and the order if it is due. */
  tick() {
    if (
      this.by !== 'symbol' &&
      Date.now() - this.orderedAt >= ORDER_MS &&
      !at('rows').matches(':active')
    )
      this.fresh = true;
    this.ask();
  }

  ask() {
    if (this.asked || document.hidden) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  reorder() {
    this.fresh = false;
    this.orderedAt = Date.now();
    const wanted = at('filter').value.trim().toUpperCase();
    const all = [...this.known.bars.values()];
    const found = wanted ? all.filter((bar) => bar.symbol.toUpperCase().includes(wanted)) : all;
    const value = COLUMNS.find(([key]) => key === this.by)[2];
    const sign = this.down ? -1 : 1;
    const byName = (a, b) => (a.symbol < b.symbol ? -1 : a.symbol > b.symbol ? 1 : 0);
    if (this.by === 'symbol') found.sort((a, b) => sign * byName(a, b));
    else {
      const values = new Map(found.map((bar) => [bar, value(bar)]));
      // Bars without a value come last in both directions.
      const rank = (bar) => (Number.isFinite(values.get(bar)) ? 0 : 1);
      found.sort(
        (a, b) => rank(a) - rank(b) || sign * (values.get(a) - values.get(b)) || byName(a, b),
      );
    }
    this.order = found;
    this.fit(all);
    at('grid').setAttribute('aria-rowcount', String(found.length + 1));
    const size = this.known.size ? ` · windows of ${this.known.size}` : '';
    say(
      at('count'),
      (wanted ? `${count(found.length)} of ${count(all.length)}` : count(all.length)) +
        (all.length === 1 ? ' symbol' : ' symbols') +
        size,
    );
    at('space').style.height = found.length * this.height + 'px';
    at('empty').hidden = found.length > 0;
    const loading = this.known.complete
      ? 'No bars yet. A symbol appears when the store has acknowledged its first bar.'
      : 'Waiting for the first bars …';
    const none = `No symbol contains “${at('filter').value.trim()}”.`;
    say(at('empty'), wanted && all.length ? none : loading);
  }

  /** The width of a text in the font of a column. */
  measure(key, text) {
    const name = key + text;
    if (!this.measured.has(name)) {
      const place = make('span', '', text);
      this.probe.cells[key].replaceChildren(place);
      this.measured.set(name, place.getBoundingClientRect().width);
    }
    return this.measured.get(name);
  }

  /** Gives each column the width of its longest text, decimal points aligned, in the font that is
   * there. What does not fit is left out: a number that is cut is another number. */
  fit(bars) {
    const [digits, style] = [{ last: 1, vwap: 1, volume: 1 }, at('grid').style];
    let [trades, away] = [0, 0];
    for (const bar of bars) {
      for (const key in digits) {
        const [whole, fraction = ''] = (bar[key] ?? '').split('.');
        digits[key] = Math.max(digits[key], whole.length);
        this.least[key] = Math.max(this.least[key], fraction.length);
      }
      trades = Math.max(trades, bar.trades);
      if (Number.isFinite(bar.away)) away = Math.max(away, Math.abs(bar.away));
    }
    const widths = {
      ...LEAST,
      trades: this.measure('trades', count(trades)),
      away: this.measure('away', percent(-away)),
      age: this.measure('age', '88 min'),
    };
    for (const key in digits) {
      const fraction = this.least[key]
        ? Math.ceil(this.measure(key, '.' + '8'.repeat(this.least[key])))
        : 0;
      style.setProperty('--after-' + key, fraction + 'px');
      widths[key] = this.measure(key, exact('8'.repeat(digits[key]))) + fraction;
    }
    widths.last += ARROW;
    for (const [key] of COLUMNS)
      widths[key] = Math.ceil(Math.max(widths[key], this.titles.get(key) + ARROW)) + GAP;
    let room = at('rows').clientWidth - 28;
    const shown = new Set();
    for (const key of IMPORTANCE) {
      if (phone.matches || widths[key] <= room) shown.add(key);
      if (shown.has(key)) room -= widths[key];
    }
    for (const [key] of COLUMNS) at('grid').classList.toggle('no-' + key, !shown.has(key));
    const track = ([key]) =>
      `minmax(${widths[key]}px, ${SHARE[key] ? SHARE[key] + 'fr' : widths[key] + 'px'})`;
    const tracks = COLUMNS.filter(([key]) => shown.has(key)).map(track);
    style.setProperty('--columns', tracks.join(' '));
  }

  resize() {
    this.height = parseFloat(getComputedStyle(at('grid')).getPropertyValue('--row')) || 28;
    this.measured.clear();
    for (const [key] of COLUMNS) at('grid').classList.remove('no-' + key);
    const title = (cell) => [cell.dataset.key, cell.firstChild.getBoundingClientRect().width];
    this.titles = new Map([...at('head').children].map(title));
    const wanted = Math.min(90, Math.ceil(at('rows').clientHeight / this.height) + SPARE);
    while (this.pool.length < wanted) this.pool.push(new Row(at('space')));
    while (this.pool.length > wanted) this.pool.pop().element.remove();
    this.changed(true);
  }

  paint() {
    if (!this.height) this.resize();
    if (this.fresh) this.reorder();
    const top = Math.max(
      0,
      Math.min(
        Math.floor(at('rows').scrollTop / this.height) - SPARE / 2,
        this.order.length - this.pool.length,
      ),
    );
    const [now, time] = [this.now(), performance.now()];
    let flashes = false;
    for (let index = top; index < top + this.pool.length; index++) {
      const row = this.pool[index % this.pool.length];
      const bar = this.order[index];
      row.put(
        bar,
        index,
        this.height,
        this.least,
        bar?.symbol === this.current,
        bar?.symbol === this.opened,
      );
      if (bar) {
        say(row.cells.age, age(now - moment(bar)));
        flashes = row.flash(bar, time) || flashes;
      }
    }
    const active = this.pool.find((row) => row.bar && row.bar.symbol === this.current);
    if (active) at('rows').setAttribute('aria-activedescendant', active.element.id);
    else at('rows').removeAttribute('aria-activedescendant');
    // The style sheet fades a highlight; this starts the fade.
    if (flashes && !this.fading)
      this.fading = setTimeout(() => ((this.fading = 0), this.ask()), FLASH_MS);
  }

  key(event) {
    const page = Math.max(1, Math.floor(at('rows').clientHeight / this.height) - 1);
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -Infinity,
      End: Infinity,
      j: 1,
      k: -1,
    };
    const place = this.order.findIndex((bar) => bar.symbol === this.current);
    if (event.key === 'Enter' && place >= 0) this.choose(this.current, true);
    else if (event.key in steps && this.order.length) {
      const to = place < 0 && Math.abs(steps[event.key]) === 1 ? 0 : place + steps[event.key];
      const next = this.order[Math.max(0, Math.min(this.order.length - 1, to))];
      // With the candles open, moving through the table also changes the candles.
      this.choose(next.symbol, this.opened !== null);
    } else return;
    event.preventDefault();
  }

  choose(symbol, open) {
    this.current = symbol;
    const [rows, top] = [
      at('rows'),
      this.order.findIndex((bar) => bar.symbol === symbol) * this.height,
    ];
    if (top < rows.scrollTop) rows.scrollTop = top;
    else if (top + this.height > rows.scrollTop + rows.clientHeight)
      rows.scrollTop = top + this.height - rows.clientHeight;
    if (open) this.onOpen(symbol);
    this.ask();
  }

  /** Marks the symbol whose candles are open. */
  open(symbol) {
    this.opened = symbol;
    if (symbol !== null) this.current = symbol;
    this.ask();
  }
}

let rows = 0;

/** One element of the table; it shows one bar after another. */
class Row {
  constructor(parent) {
    this.element = make('div', 'row');
    this.element.id = 'row-' + rows++;
    this.element.setAttribute('role', 'row');
    this.cells = {};
    for (const [key] of COLUMNS) {
      this.cells[key] = make('div', 'c ' + key);
      this.cells[key].setAttribute('role', 'gridcell');
      this.element.append(this.cells[key]);
    }
    for (const key of ['last', 'vwap', 'volume']) {
      this.cells[key].append(
        ...(this.cells[key].parts = [
          make('span'),
          make('span', 'p', make('span'), make('span', 'faint')),
        ]),
      );
    }
    this.cells.trend.append((this.canvas = make('canvas')));
    parent.append(this.element);
  }

  put(bar, index, height, least, current, opened) {
    const { element, cells } = this;
    element.hidden = !bar;
    element.bar = bar;
    if (!bar) return (this.bar = null);
    if (this.index !== index || this.height !== height)
      element.style.transform = `translateY(${index * height}px)`;
    if (this.index !== index) element.setAttribute('aria-rowindex', String(index + 2));
    [this.index, this.height] = [index, height];
    if (this.current !== current) element.classList.toggle('current', (this.current = current));
    if (this.opened !== opened)
      element.setAttribute('aria-selected', String((this.opened = opened)));
    const look = `${colour('up')} ${this.cells.trend.clientWidth}`;
    if (this.bar === bar && this.changes === bar.changes && this.look === look) return;
    if (this.bar !== bar) element.dataset.symbol = bar.symbol;
    [this.bar, this.changes, this.look] = [bar, bar.changes, look];
    say(cells.symbol, bar.symbol);
    cells.symbol.title = bar.symbol;
    this.decimal(cells.last, bar.last, Math.min(2, least.last));
    this.decimal(cells.vwap, bar.vwap, 2);
    this.decimal(cells.volume, bar.volume, 0);
    say(cells.away, percent(bar.away));
    cells.away.dataset.sign = String(Math.sign(Math.round(bar.away * 10000)) || 0);
    say(cells.trades, count(bar.trades));
    spark(this.canvas, bar);
  }

  decimal(cell, text, least) {
    const [whole, point] = cell.parts;
    const { whole: front, fraction } =
      text === null ? { whole: '–', fraction: '' } : parts(text, least);
    say(whole, front);
    say(point.firstChild, fraction.slice(0, CLEAR));
    say(point.lastChild, fraction.slice(CLEAR));
    cell.title = text === null ? 'no trade of this window forms a price' : exact(text);
  }

  flash(bar, time) {
    const data = this.cells.last.dataset;
    if (this.tick !== bar.tick) data.tick = String((this.tick = bar.tick));
    const is = bar.tick !== 0 && time - bar.tickAt < FLASH_MS;
    if (this.bright !== is) data.now = (this.bright = is) ? '1' : '0';
    return is;
  }
}

/** Closes as a line, the newest price as a dot. */
function spark(canvas, bar) {
  const [width, height] = [
    canvas.parentElement.clientWidth - 12,
    canvas.parentElement.clientHeight,
  ];
  if (width <= 0) return;
  const context = sharp(canvas, width, height);
  canvas.style.width = width + 'px';
  canvas.style.height = height + 'px';
  const prices = Number.isFinite(bar.price) ? [...bar.closes, bar.price] : bar.closes;
  if (!prices.length) return;
  const [low, high] = [Math.min(...prices), Math.max(...prices)];
  const [pad, room] = [5, height - 10];
  const y = (price) => (high > low ? pad + (1 - (price - low) / (high - low)) * room : height / 2);
  const step = (width - 8) / 60;
  const x = (i) => width - 4 - (prices.length - 1 - i) * step;
  const ink =
    prices.length < 2 || prices.at(-1) === prices[0]
      ? 'dim'
      : prices.at(-1) > prices[0]
        ? 'up'
        : 'down';
  context.strokeStyle = context.fillStyle = colour(ink);
  context.lineWidth = 1.25;
  context.lineJoin = 'round';
  context.beginPath();
  prices.forEach((price, i) =>
    i ? context.lineTo(x(i), y(price)) : context.moveTo(x(i), y(price)),
  );
  context.stroke();
  context.beginPath();
  context.arc(x(prices.length - 1), y(prices.at(-1)), 1.9, 0, 7);
  context.fill();
}
