//! The report: what was done how often, how long the job took to come back, and what was found.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::{
    checker::{FinalComparison, Topic, counted},
    cycle::Cycle,
    feed::Fed,
    ingest::Replays,
    reader::Counts,
    recording::Recorded,
};

/// All that a run came to.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) nodes: u8,
    pub(crate) seed: u64,
    pub(crate) took: Duration,
    pub(crate) cycles: Vec<Cycle>,
    pub(crate) fed: Fed,
    pub(crate) recorded: Recorded,
    pub(crate) replays: Replays,
    pub(crate) reads: Counts,
    pub(crate) generations: u64,
    pub(crate) epochs: u64,
    pub(crate) ends: BTreeMap<String, u64>,
    pub(crate) topic: Option<Topic>,
    pub(crate) verdict: FinalComparison,
    /// The last line of `tapeflow verify`; empty if it was not run.
    pub(crate) verify: String,
    /// Everything that must not be, readers' faults included.
    pub(crate) faults: Vec<String>,
}

/// The median and the largest, in seconds.
fn times(of: &[Duration]) -> String {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    match sorted.last() {
        None => "".into(),
        Some(largest) => format!(
            "{:.1} / {:.1}",
            sorted[(sorted.len() - 1) / 2].as_secs_f64(),
            largest.as_secs_f64()
        ),
    }
}

impl Outcome {
    /// As markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let verdict = if self.faults.is_empty() {
            "nothing lost, nothing doubled, no bar went back"
        } else {
            "FAULTS"
        };
        writeln!(text, "# Kill cycles on real servers: {verdict}\n")?;
        writeln!(text, "    {}\n", self.command)?;
        writeln!(
            text,
            "{} cycles in {:.0} s, seed {}, {} Kafka and {} Cassandra node(s); {} generations of \
             the job, {} epochs committed.\n",
            self.cycles.len(),
            self.took.as_secs_f64(),
            self.seed,
            self.nodes,
            self.nodes,
            self.generations,
            self.epochs
        )?;
        for fault in &self.faults {
            writeln!(text, "- FAULT: {fault}")?;
        }
        if !self.faults.is_empty() {
            writeln!(text)?;
        }
        writeln!(
            text,
            "Seconds are median / largest. *From a start*: from the start of new processes to \
             their first commit; for processes that must refuse, to their end. *By itself*: where \
             the job came back or continued by itself, from the fault to the next commit. For a \
             pause that is from waking; for two Cassandra nodes, from their being back. After a \
             link is repaired or the feed is normal again, everything fed by then must be \
             committed. A slow link: to the next commit while it is slow.\n"
        )?;
        writeln!(
            text,
            "| what was done | cycles | from a start, s | by itself, s |\n|---|---:|---:|---:|"
        )?;
        let mut kinds: BTreeMap<String, Vec<&Cycle>> = BTreeMap::new();
        for cycle in &self.cycles {
            kinds.entry(cycle.fault.kind()).or_default().push(cycle);
        }
        let started = |cycles: &[&Cycle]| {
            times(
                &cycles
                    .iter()
                    .filter_map(|cycle| cycle.started)
                    .collect::<Vec<_>>(),
            )
        };
        let by_itself = |cycles: &[&Cycle]| {
            times(
                &cycles
                    .iter()
                    .filter_map(|cycle| cycle.by_itself)
                    .collect::<Vec<_>>(),
            )
        };
        for (kind, cycles) in &kinds {
            let missed = cycles.iter().filter(|cycle| cycle.missed).count();
            let missed = if missed > 0 {
                format!(" ({missed} of them not reached, killed instead)")
            } else {
                String::new()
            };
            writeln!(
                text,
                "| {kind}{missed} | {} | {} | {} |",
                cycles.len(),
                started(cycles),
                by_itself(cycles)
            )?;
        }
        let all: Vec<&Cycle> = self.cycles.iter().collect();
        writeln!(
            text,
            "| all | {} | {} | {} |\n",
            all.len(),
            started(&all),
            by_itself(&all)
        )?;
        let Fed {
            trades,
            records,
            repeats,
            poison,
            futures,
            reconnects,
        } = self.fed;
        writeln!(
            text,
            "- Feed: {trades} trades with ids in {records} records, {repeats} of these sent twice on purpose; {futures} \
             far-future trades among them, and {poison} records of poison between them; the client \
             was made anew {reconnects} times."
        )?;
        let (recorded, replays) = (self.recorded, self.replays);
        writeln!(
            text,
            "- Ingest: {} runs of `tapeflow ingest` replayed {} frames with {} trades of a \
             recording that grew {} times, {} of them to within a line; it was killed {} times, {} \
             of them with part of the new frames appended; {} runs ended with an error while a \
             broker was down.",
            replays.starts,
            recorded.frames,
            recorded.trades,
            recorded.growths,
            recorded.half_lines,
            replays.kills,
            replays.midway,
            replays.errors
        )?;
        if let Some(topic) = &self.topic {
            writeln!(
                text,
                "- Topic: {} records, {} of them repeats.",
                topic.records, topic.repeats
            )?;
        }
        let Counts {
            reads,
            failed,
            bars,
            absent,
            lists,
        } = self.reads;
        writeln!(
            text,
            "- Readers at quorum: {reads} reads ({failed} failed while servers were down): {bars} \
             bars, {lists} views, {absent} not there yet."
        )?;
        let verdict = &self.verdict;
        writeln!(
            text,
            "- Contents that readers saw, each compared with the prefix of the log that its epoch \
             names: {} of bars, {} of views; {} of epochs without history.",
            verdict.audited, verdict.lists_audited, verdict.not_audited
        )?;
        writeln!(
            text,
            "- At the end: {} trades in {} minute bars; {} lost, {} doubled.",
            verdict.trades, verdict.bars, verdict.lost, verdict.doubled
        )?;
        writeln!(
            text,
            "- Dead letters: {}, exactly the poison and the far-future trades, each in its place \
             and under its reason; {} bars of far-future trades looked for, none there.",
            verdict.dead_letters, verdict.futures
        )?;
        writeln!(text, "- Ends of processes: {}.", counted(&self.ends))?;
        writeln!(text, "- `tapeflow verify`: {}", self.verify)
    }
}
