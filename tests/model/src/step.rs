//! One step of a world, and its text in a trace.

use std::fmt;

use crate::{
    log::{Cut, Totals},
    state::{Cell, Checkpoint, Epoch, WriteTimestamp},
};

/// One step. Processes, replicas and bars are numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the text of each step says what it is")]
pub enum Step {
    Start {
        process: usize,
    },
    ProposeTakeOver {
        process: usize,
    },
    TakeOver {
        process: usize,
        checkpoint: Checkpoint,
    },
    Applied {
        process: usize,
    },
    Learn {
        process: usize,
    },
    Misattribute {
        process: usize,
    },
    Release {
        process: usize,
        partition: usize,
        epoch: Epoch,
    },
    Bind {
        process: usize,
        cut: Cut,
        epoch: Epoch,
        write_timestamp: WriteTimestamp,
        commit: Epoch,
        sent: bool,
    },
    Commit {
        process: usize,
        epoch: Epoch,
        sent: bool,
    },
    ReadHalf {
        process: usize,
        key: usize,
        replica: usize,
        label: Epoch,
    },
    Read {
        process: usize,
        key: usize,
        label: Epoch,
        totals: Totals,
    },
    Fold {
        process: usize,
        key: usize,
        time: Epoch,
        cell: Option<Cell>,
    },
    Abort {
        process: usize,
        key: usize,
        label: Epoch,
        time: Epoch,
    },
    Evict {
        process: usize,
        key: usize,
        time: Epoch,
    },
    Take {
        replica: usize,
        key: usize,
        write_timestamp: WriteTimestamp,
        label: Epoch,
    },
    ReaderSees {
        without: usize,
        key: usize,
        label: Epoch,
    },
    RepairLabel {
        without: usize,
        key: usize,
        label: Epoch,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |cut: &Cut| format!("[{}, {}]", cut.next(0), cut.next(1));
        let proposes = |sent: &bool| if *sent { "proposes to " } else { "" };
        let s = |sent: &bool| if *sent { "" } else { "s" };
        match self {
            Self::Start { process } => write!(to, "process {process} starts"),
            Self::ProposeTakeOver { process } => write!(
                to,
                "process {process} starts, reads the checkpoint and proposes to take over"
            ),
            Self::TakeOver {
                process,
                checkpoint,
            } => {
                let Checkpoint {
                    generation,
                    committed,
                    bound,
                    recovery_timestamp,
                    ..
                } = checkpoint;
                write!(
                    to,
                    "process {process} takes over: generation {generation}, replays ({committed}, \
                     {bound}] at write timestamp {recovery_timestamp}"
                )
            }
            Self::Applied { process } => write!(to, "the proposal of process {process} is applied"),
            Self::Learn { process } => {
                write!(to, "process {process} learns that its proposal was applied")
            }
            Self::Misattribute { process } => {
                write!(to, "process {process} takes another's proposal for its own")
            }
            Self::Release {
                process,
                partition,
                epoch,
            } => write!(
                to,
                "process {process}: source {partition} releases up to epoch {epoch}"
            ),
            Self::Bind {
                process,
                cut: at,
                epoch,
                write_timestamp,
                commit,
                sent,
            } => {
                write!(
                    to,
                    "process {process} {}bind{} epoch {epoch} at {}, write timestamp \
                     {write_timestamp}",
                    proposes(sent),
                    s(sent),
                    cut(at)
                )?;
                if *commit > 0 {
                    write!(to, ", and commit{} {commit}", s(sent))
                } else {
                    Ok(())
                }
            }
            Self::Commit {
                process,
                epoch,
                sent,
            } => write!(
                to,
                "process {process} {}commit{} epoch {epoch}",
                proposes(sent),
                s(sent)
            ),
            Self::ReadHalf {
                process,
                key,
                replica,
                label,
            } => {
                write!(
                    to,
                    "process {process} reads bar {key}: replica {replica} answers, label {label}"
                )
            }
            Self::Read {
                process,
                key,
                label,
                totals,
            } => write!(
                to,
                "process {process} reads bar {key}: {totals:?}, label {label}"
            ),
            Self::Fold {
                process,
                key,
                time,
                cell:
                    Some(Cell {
                        write_timestamp,
                        label,
                        totals,
                        ..
                    }),
            } => {
                write!(
                    to,
                    "process {process} takes time {time} and writes bar {key}: {totals:?}, label \
                     {label}, write timestamp {write_timestamp}"
                )
            }
            Self::Fold {
                process,
                key,
                time,
                cell: None,
            } => write!(
                to,
                "process {process} takes time {time} and does not write bar {key}"
            ),
            Self::Abort {
                process,
                key,
                label,
                time,
            } => {
                write!(
                    to,
                    "process {process} finds label {label} in bar {key} at time {time}: it must \
                     be a zombie, and leaves"
                )
            }
            Self::Evict { process, key, time } => write!(
                to,
                "process {process} puts bar {key} out of memory, as of {time}"
            ),
            Self::Take {
                replica,
                key,
                write_timestamp,
                label,
            } => write!(
                to,
                "replica {replica} takes the write of bar {key} at write timestamp \
                 {write_timestamp}, label {label}"
            ),
            Self::ReaderSees {
                without,
                key,
                label,
            } => write!(
                to,
                "a reader of bar {key}, without replica {without}, sees label {label}"
            ),
            Self::RepairLabel {
                without,
                key,
                label,
            } => {
                write!(
                    to,
                    "a reader of labels alone, without replica {without}, repairs bar {key} to \
                     label {label}"
                )
            }
        }
    }
}
