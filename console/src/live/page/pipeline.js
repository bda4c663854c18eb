// The state of the pipeline: the values of GET /status, once a second.

import { age, bytes, colour, count, make, say, seconds, sharp, span, utc } from '/words.js';

/** The length of the curves in seconds. */
const KEPT = 120;

/** Cards: title, entries, hint. An entry has a key, a title, its text, and whether any value but
 * zero is bad. */
const CARDS = [
  [
    'Job',
    [
      ['ready', 'Ready', (s) => (s.job ? (s.job.ready ? 'yes' : 'not yet') : '–')],
      ['generation', 'Generation', (s) => count(s.job?.generation)],
      ['epoch_bound', 'Epoch bound', (s) => count(s.job?.epoch_bound)],
      ['epoch_committed', 'Epoch committed', (s) => count(s.job?.epoch_committed)],
      [
        'newest',
        'Newest trade, UTC',
        (s) => (s.job?.newest_trade_ms ? utc(s.job.newest_trade_ms).slice(0, 19) : '–'),
      ],
      ['progress', 'Since the last commit', (s) => seconds(s.job?.progress_age_s)],
      ['end_offsets_age', 'Age of end offsets', (s) => seconds(s.job?.end_offsets_age_s)],
    ],
  ],
  [
    'Freshness',
    [
      ['p50', 'p50', (s) => seconds(s.job?.freshness_s?.p50)],
      ['p90', 'p90', (s) => seconds(s.job?.freshness_s?.p90)],
      ['p99', 'p99', (s) => seconds(s.job?.freshness_s?.p99)],
      ['max', 'Maximum', (s) => seconds(s.job?.freshness_s?.max)],
    ],
    'From the append to the log until the store acknowledges the bar, in the last 1 to 2 minutes',
  ],
  [
    'Process',
    [
      ['workers', 'Workers', (s) => count(s.job?.workers)],
      ['process', 'Process', (s) => (s.job ? `${s.job.process} of ${s.job.processes}` : '–')],
      ['memory', 'Memory', (s) => bytes(s.memory_bytes)],
      ['cpu', 'CPU', (s, r) => (r.cpu === null ? '–' : (r.cpu * 100).toFixed(0) + '% of a core')],
      ['uptime', 'Uptime', (s) => span(s.uptime_s)],
      ['streams', 'Browsers', (s) => count(s.page_streams)],
    ],
  ],
  [
    'Trades',
    [
      ['records_read', 'Records read', (s) => count(s.job?.records_read)],
      ['trades_accepted', 'Accepted', (s) => count(s.job?.trades_accepted)],
      ['trades_late', 'Late', (s) => count(s.job?.trades_late)],
      ['records_duplicate', 'Duplicates dropped', (s) => count(s.job?.records_duplicate)],
      ['sequence_gaps', 'Sequence gaps', (s) => count(s.job?.sequence_gaps), true],
      ['offsets_lost', 'Offsets lost', (s) => count(s.job?.offsets_lost), true],
    ],
  ],
  [
    'Bars',
    [
      ['bars_written', 'Written', (s) => count(s.job?.bars_written)],
      ['bars_read', 'Read from the store', (s) => count(s.job?.bars_read)],
      ['bars_evicted', 'Evicted', (s) => count(s.job?.bars_evicted)],
      ['views_written', 'Views written', (s) => count(s.job?.views_written)],
      ['store_retries', 'Store retries', (s) => count(s.job?.store_retries), true],
    ],
  ],
  [
    'Feed',
    [
      [
        'feed',
        'Connection',
        (s) =>
          !s.feed
            ? 'none in this process'
            : s.feed.kind === 'recording'
              ? 'none: a recording'
              : (s.feed.kind === 'simulated' ? 'simulated market, ' : '') +
                (s.feed.connected ? 'connected' : 'not connected'),
      ],
      ['reconnects', 'Reconnects', (s) => count(s.feed?.reconnects)],
      ['feed_frames', 'Frames', (s) => count(s.feed?.frames)],
      ['feed_trades', 'Trades', (s) => count(s.feed?.trades)],
      [
        'price_updates',
        'Price updates',
        (s) => count(s.feed?.price_updates ?? s.job?.price_updates),
      ],
      [
        'last_frame',
        'Last frame',
        (s, r, now) => (s.feed?.last_frame_ms ? age(now - s.feed.last_frame_ms) + ' ago' : '–'),
      ],
    ],
  ],
];

export class Pipeline {
  constructor(root, now) {
    Object.assign(this, {
      root,
      now,
      places: {},
      past: [],
      rates: { trades: null, bars: null, cpu: null },
    });
    this.where = make('p', 'where');
    const curve = (key, title) => {
      this.places[key] = make('strong');
      const canvas = make('canvas');
      canvas.setAttribute('aria-hidden', 'true');
      (this.curves ??= []).push([key, canvas]);
      return make('section', 'card curve', make('h2', '', title), this.places[key], canvas);
    };
    const curves = make(
      'div',
      'curves',
      curve('rate_trades', 'Trades per second'),
      curve('rate_bars', 'Bars per second'),
      curve('rate_lag', 'Lag in records'),
    );
    const cards = make('div', 'cards', ...CARDS.map((card) => this.card(card)));
    this.partitions = this.table(
      'Partitions',
      ['Partition', 'Bound', 'Committed', 'End', 'Lag'],
      'partitions',
    );
    this.deadLetters = this.table('Dead letters', ['Reason', 'Source', 'Count'], 'dead-letters');
    root.append(
      this.where,
      curves,
      cards,
      make('div', 'tables', this.partitions.card, this.deadLetters.card),
    );
    new ResizeObserver(() => this.draw()).observe(curves);
  }

  card([title, entries, hint]) {
    const list = make('dl');
    for (const [key, name, , bad] of entries) {
      this.places[key] = make('dd');
      this.places[key].id = 'pipe-' + key;
      if (bad) this.places[key].dataset.bad = 'if';
      list.append(make('dt', '', name), this.places[key]);
    }
    const card = make('section', 'card', make('h2', '', title), list);
    if (hint) card.append(make('p', 'hint', hint));
    return card;
  }

  table(title, columns, id) {
    const table = make('table');
    table.id = id;
    const head = make('tr', '', ...columns.map((name) => make('th', '', name)));
    for (const cell of head.children) cell.scope = 'col';
    const body = make('tbody');
    table.append(make('thead', '', head), body);
    const none = make('p', 'hint');
    const card = make('section', 'card', make('h2', '', title), make('div', 'wide', table), none);
    return { card, body, table, none };
  }

  fill({ body, table, none }, rows, hint) {
    table.hidden = !rows.length;
    say(none, rows.length ? '' : hint);
    while (body.rows.length > rows.length) body.lastChild.remove();
    rows.forEach((cells, i) => {
      const row = body.rows[i] ?? body.appendChild(make('tr', '', ...cells.map(() => make('td'))));
      cells.forEach((text, n) => say(row.children[n], text));
    });
  }

  take(status) {
    const job = status.job;
    const trades = status.feed?.trades ?? job?.trades_accepted ?? 0;
    // The lag is unknown if that of one partition is.
    const lags = (job?.partitions ?? []).map(({ lag }) => lag);
    const lag =
      lags.length && lags.every((lag) => lag !== null)
        ? lags.reduce((sum, lag) => sum + lag, 0)
        : null;
    // The counts of a restarted process start at zero.
    if (this.past.length && status.uptime_s < this.past.at(-1).at) this.past = [];
    this.past.push({
      at: status.uptime_s,
      trades,
      bars: job?.bars_written ?? 0,
      cpu: status.cpu_s,
      lag,
    });
    this.past.splice(0, this.past.length - KEPT - 1);
    const [then, now] = [this.past.at(-4) ?? this.past[0], this.past.at(-1)];
    const time = now.at - then.at;
    if (time > 0) {
      this.rates = {
        trades: (now.trades - then.trades) / time,
        bars: (now.bars - then.bars) / time,
        cpu: now.cpu === null ? null : (now.cpu - then.cpu) / time,
      };
    }
    Object.assign(now, {
      rate_trades: time > 0 ? this.rates.trades : null,
      rate_bars: time > 0 ? this.rates.bars : null,
      rate_lag: lag,
    });
    this.status = status;
    if (!this.root.hidden) this.show();
  }

  show() {
    const status = this.status;
    if (!status) return;
    const job = status.job;
    const where = [`${status.command} ${status.version}`];
    if (job) where.push(`job ${job.name}`, `log ${job.log}`, `store ${job.store}`);
    say(this.where, where.join(' · '));
    for (const [, entries] of CARDS) {
      for (const [key, , text] of entries)
        say(this.places[key], text(status, this.rates, this.now()));
    }
    for (const place of Object.values(this.places))
      if (place.dataset.bad) place.dataset.bad = /^[0–]$/.test(place.textContent) ? 'if' : 'yes';
    this.places.ready.dataset.ready = String(job?.ready ?? false);
    say(this.places.rate_trades, count(this.rates.trades));
    say(this.places.rate_bars, count(this.rates.bars));
    say(this.places.rate_lag, count(this.past.at(-1)?.lag));
    const of = (n) => count(n);
    const partitions = (job?.partitions ?? []).map((p) => [
      String(p.partition),
      of(p.bound),
      of(p.committed),
      of(p.end),
      of(p.lag),
    ]);
    this.fill(
      this.partitions,
      partitions,
      job?.process > 0 ? 'Process 0 shows them.' : 'Not known yet.',
    );
    const reasons = (where, counts) =>
      Object.entries(counts ?? {})
        .filter(([, n]) => n > 0)
        .map(([reason, n]) => [reason, where, of(n)]);
    this.fill(
      this.deadLetters,
      [...reasons('feed', status.feed?.invalid), ...reasons('log', job?.dead_letters)],
      'None.',
    );
    this.draw();
  }

  stale(is) {
    this.root.classList.toggle('old', is);
  }

  draw() {
    if (this.root.hidden) return;
    for (const [key, canvas] of this.curves) {
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!width) continue;
      const pen = sharp(canvas, width, height);
      const values = this.past
        .map((past) => past[key])
        .map((n) => (n === null || n === undefined ? NaN : n));
      const most = Math.max(1, ...values.filter(Number.isFinite));
      const x = (i) => width - ((values.length - 1 - i) / KEPT) * width;
      const y = (n) => height - 2 - (n / most) * (height - 6);
      pen.fillStyle = colour('edge');
      pen.fillRect(0, height - 1, width, 1);
      const known = values
        .map((n, i) => [x(i), y(n)])
        .filter(([, level]) => Number.isFinite(level));
      if (known.length < 2) continue;
      pen.beginPath();
      known.forEach(([a, b]) => pen.lineTo(a, b));
      pen.strokeStyle = pen.fillStyle = colour(key === 'rate_lag' ? 'vwap' : 'accent');
      pen.lineWidth = 1.5;
      pen.lineJoin = 'round';
      pen.stroke();
      pen.lineTo(known.at(-1)[0], height);
      pen.lineTo(known[0][0], height);
      pen.globalAlpha = 0.12;
      pen.fill();
      pen.globalAlpha = 1;
    }
  }
}
