//! `tapeflow dataflow --supervise`: runs the job in a child process and restarts it when it exits
//! without a request.
//!
//! A job of several processes fails as a whole: a crash, a pause or a cut connection ends all of
//! them. Supervisors restart all of them within a second or two, where Kubernetes restarts a
//! container that exits with delays that grow to minutes. The kernel kills the child when its
//! supervisor dies, so that no process runs unsupervised.

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
    exit::{BAD_INPUT, Exit, FENCED},
    signals,
};

/// The environment variable with the supervisor's process id, set for the child.
const SUPERVISOR: &str = "TAPEFLOW_SUPERVISOR_PID";
/// How often the supervisor polls the child.
const POLL: Duration = Duration::from_millis(20);
/// The first wait after a child that ran for less than [`LONG_LIFE`]; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A child that ran for this long is restarted at once.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// What the supervisor does after a child's exit.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Exit as well, with this code.
    Exit(u8),
    /// Start another child after this wait.
    Restart(Duration),
}

/// Whether this process is a supervisor's child.
pub(crate) fn is_supervised() -> bool {
    std::env::var_os(SUPERVISOR).is_some()
}

/// In a child, arranges that the kernel kills it with its supervisor. Returns whether this process
/// is a child.
pub(crate) fn is_child() -> bool {
    let Some(supervisor) = std::env::var(SUPERVISOR)
        .ok()
        .and_then(|pid| pid.parse::<i32>().ok())
    else {
        return false;
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(
            %error,
            "the kernel refuses the parent-death signal: this process may outlive its supervisor"
        );
    }
    // The supervisor may have died before the call.
    if getppid()
        .map(Pid::as_raw_nonzero)
        .map(std::num::NonZero::get)
        != Some(supervisor)
    {
        tracing::error!("the supervisor has exited; exiting as well");
        std::process::exit(1);
    }
    true
}

/// Runs the same command line in a child process until it is not to be restarted.
pub(crate) fn run() -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let asked = Arc::new(AtomicBool::new(false));
    let requested = Arc::clone(&asked);
    signals::on_end(runtime.handle(), move || {
        requested.store(true, Ordering::Release)
    });
    let executable = std::env::current_exe()
        .map_err(|error| Exit::Failed(format!("cannot find this program: {error}")))?;
    let (mut wait, mut first) = (Duration::ZERO, true);
    loop {
        let begun = Instant::now();
        // On this thread, which lives as long as the supervisor: the kernel sends the parent-death
        // signal when the thread that made the child ends.
        let child = Command::new(&executable)
            .args(std::env::args_os().skip(1))
            .env(SUPERVISOR, std::process::id().to_string())
            .spawn();
        let child = child.map_err(|error| {
            Exit::Failed(format!("cannot start {}: {error}", executable.display()))
        })?;
        let status = wait_for(child, &asked)?;
        match after(
            status.code(),
            asked.load(Ordering::Acquire),
            first,
            begun.elapsed(),
            wait,
        ) {
            Next::Exit(0) => return Ok(()),
            Next::Exit(code) => return Err(Exit::Child(code)),
            Next::Restart(next) => {
                tracing::warn!(
                    %status,
                    lived_s = begun.elapsed().as_secs_f32(),
                    wait_ms = next.as_millis(),
                    "the job's process exited; restarting it"
                );
                (wait, first) = (next, false);
                let until = Instant::now() + next;
                while Instant::now() < until && !asked.load(Ordering::Acquire) {
                    thread::sleep(POLL);
                }
                if asked.load(Ordering::Acquire) {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits for the child's exit, and forwards a request to stop.
fn wait_for(mut child: Child, asked: &AtomicBool) -> Result<ExitStatus, Exit> {
    let mut forwarded = false;
    loop {
        if let Some(status) = child
            .try_wait()
            .map_err(|error| Exit::Failed(format!("cannot wait for the process: {error}")))?
        {
            return Ok(status);
        }
        if asked.load(Ordering::Acquire) && !std::mem::replace(&mut forwarded, true) {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        }
        thread::sleep(POLL);
    }
}

/// Decides what comes after an exit. `code` is `None` if a signal ended the child.
fn after(code: Option<i32>, asked: bool, first: bool, lived: Duration, wait: Duration) -> Next {
    match code {
        Some(0) if asked => Next::Exit(0),
        // Another generation has taken over. Two supervisors that both restart would fence each
        // other's children for ever.
        Some(code) if code == i32::from(FENCED) => Next::Exit(FENCED),
        // A restart does not help if the first child reports it. Later it is a server that is out
        // of reach for a while.
        Some(code) if code == i32::from(BAD_INPUT) && first => Next::Exit(BAD_INPUT),
        _ if asked => Next::Exit(1),
        _ if lived >= LONG_LIFE => Next::Restart(Duration::ZERO),
        _ => Next::Restart((wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn a_clean_or_final_exit_is_not_restarted() {
        assert_eq!(
            after(Some(0), true, true, SHORT, Duration::ZERO),
            Next::Exit(0)
        );
        assert_eq!(
            after(Some(2), false, true, SHORT, Duration::ZERO),
            Next::Exit(2),
            "a setting is not usable"
        );
        assert_eq!(
            after(Some(3), false, false, LONG_LIFE, Duration::ZERO),
            Next::Exit(3),
            "fenced"
        );
        assert_eq!(
            after(None, true, false, LONG_LIFE, Duration::ZERO),
            Next::Exit(1),
            "asked to stop"
        );
    }

    #[test]
    fn a_crash_is_restarted_at_once_and_a_crash_loop_ever_more_slowly() {
        assert_eq!(
            after(None, false, true, LONG_LIFE, LONGEST_WAIT),
            Next::Restart(Duration::ZERO)
        );
        assert_eq!(
            after(Some(0), false, false, LONG_LIFE, LONGEST_WAIT),
            Next::Restart(Duration::ZERO),
            "another process was asked to stop"
        );
        assert_eq!(
            after(Some(2), false, false, SHORT, Duration::ZERO),
            Next::Restart(FIRST_WAIT),
            "a server out of reach for a while"
        );
        let mut wait = Duration::ZERO;
        for want_ms in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            let Next::Restart(next) = after(Some(1), false, false, SHORT, wait) else {
                panic!("restarted")
            };
            assert_eq!(next, Duration::from_millis(want_ms));
            wait = next;
        }
    }
}
