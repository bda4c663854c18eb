//! `tapeflow dataflow --supervise`: runs the process as a child, and starts it again when it ends
//! without having been asked to.
//!
//! A job of several processes lives and dies as a whole, so every crash, pause or cut connection
//! ends all of them; with a supervisor in each place all are back within a second or two, where a
//! container that exits is started again with delays that grow to minutes. The child is told by the
//! kernel when its supervisor dies, and dies with it: nobody is left running unseen.

use std::{
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::{
    end::{End, FENCED, INPUT_AT_FAULT},
    signals,
};

/// Set in the child's environment: the supervisor's process id.
const SUPERVISOR: &str = "TAPEFLOW_SUPERVISOR_PID";
/// How often the child is looked after.
const LOOK: Duration = Duration::from_millis(20);
/// The first wait after a child that did not live long; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A child that lived this long is started again at once.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// What comes after a child's end.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// This supervisor ends as well, with the child's code.
    End(u8),
    /// Another child after this wait.
    Again(Duration),
}

/// Whether this process is a supervisor's child.
pub(crate) fn is_supervised() -> bool {
    std::env::var_os(SUPERVISOR).is_some()
}

/// In a child: arranges that it dies with its supervisor. Returns whether this process is a child.
pub(crate) fn is_child() -> bool {
    let Some(supervisor) = std::env::var(SUPERVISOR)
        .ok()
        .and_then(|pid| pid.parse::<i32>().ok())
    else {
        return false;
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "this process will outlive its supervisor");
    }
    // It may have died before the kernel was asked.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .map(std::num::NonZero::get)
        != Some(supervisor)
    {
        tracing::error!("the supervisor is gone; leaving");
        std::process::exit(1);
    }
    true
}

/// Runs the same command line as a child until it ends for good.
pub(crate) fn run() -> Result<(), End> {
    let runtime = crate::small_runtime()?;
    let asked = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&asked);
    signals::on_end(runtime.handle(), move || {
        heard.store(true, Ordering::Release)
    });
    let executable = std::env::current_exe()
        .map_err(|error| End::Failed(format!("cannot find this program: {error}")))?;
    let (mut wait, mut first) = (Duration::ZERO, true);
    loop {
        let begun = Instant::now();
        // From this thread, which lives as long as the supervisor: the kernel watches the thread
        // that made the child.
        let child = Command::new(&executable)
            .args(std::env::args_os().skip(1))
            .env(SUPERVISOR, std::process::id().to_string())
            .spawn();
        let child = child.map_err(|error| {
            End::Failed(format!("cannot start {}: {error}", executable.display()))
        })?;
        let status = look_after(child, &asked)?;
        match after(
            status.code(),
            asked.load(Ordering::Acquire),
            first,
            begun.elapsed(),
            wait,
        ) {
            Next::End(0) => return Ok(()),
            Next::End(code) => return Err(End::Child(code)),
            Next::Again(next) => {
                tracing::warn!(%status, lived_s = begun.elapsed().as_secs_f32(), wait_ms = next.as_millis(), "the process ended; starting it again");
                (wait, first) = (next, false);
                let until = Instant::now() + next;
                while Instant::now() < until && !asked.load(Ordering::Acquire) {
                    thread::sleep(LOOK);
                }
                if asked.load(Ordering::Acquire) {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits for the child's end, and hands a request to end on to it.
fn look_after(mut child: Child, asked: &AtomicBool) -> Result<ExitStatus, End> {
    let mut told = false;
    loop {
        if let Some(status) = child
            .try_wait()
            .map_err(|error| End::Failed(format!("cannot wait for the process: {error}")))?
        {
            return Ok(status);
        }
        if asked.load(Ordering::Acquire) && !std::mem::replace(&mut told, true) {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
        thread::sleep(LOOK);
    }
}

/// Decides. `code` is none if a signal ended the child.
fn after(code: Option<i32>, asked: bool, first: bool, lived: Duration, wait: Duration) -> Next {
    match code {
        Some(0) if asked => Next::End(0),
        // Another generation has taken over for good: two supervisors would fence each other's
        // children for ever.
        Some(code) if code == i32::from(FENCED) => Next::End(FENCED),
        // Nothing a restart mends, if it is so from the start; later it is a server that is out of
        // reach for a while.
        Some(code) if code == i32::from(INPUT_AT_FAULT) && first => Next::End(INPUT_AT_FAULT),
        _ if asked => Next::End(1),
        _ if lived >= LONG_LIFE => Next::Again(Duration::ZERO),
        _ => Next::Again((wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn what_ended_well_or_for_good_is_not_started_again() {
        assert_eq!(
            after(Some(0), true, true, SHORT, Duration::ZERO),
            Next::End(0)
        );
        assert_eq!(
            after(Some(2), false, true, SHORT, Duration::ZERO),
            Next::End(2),
            "a setting is at error"
        );
        assert_eq!(
            after(Some(3), false, false, LONG_LIFE, Duration::ZERO),
            Next::End(3),
            "fenced"
        );
        assert_eq!(
            after(None, true, false, LONG_LIFE, Duration::ZERO),
            Next::End(1),
            "asked to end"
        );
    }

    #[test]
    fn a_crash_is_started_again_at_once_and_a_crash_loop_ever_more_slowly() {
        assert_eq!(
            after(None, false, true, LONG_LIFE, LONGEST_WAIT),
            Next::Again(Duration::ZERO)
        );
        assert_eq!(
            after(Some(0), false, false, LONG_LIFE, LONGEST_WAIT),
            Next::Again(Duration::ZERO),
            "another process was asked to end"
        );
        assert_eq!(
            after(Some(2), false, false, SHORT, Duration::ZERO),
            Next::Again(FIRST_WAIT),
            "a server out of reach for a while"
        );
        let mut wait = Duration::ZERO;
        for want_ms in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            let Next::Again(next) = after(Some(1), false, false, SHORT, wait) else {
                panic!("started again")
            };
            assert_eq!(next, Duration::from_millis(want_ms));
            wait = next;
        }
    }
}
