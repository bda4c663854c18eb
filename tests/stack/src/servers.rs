//! A stack of its own for a test target: real servers, started by `deploy/dev/stack` when the first
//! test asks and stopped at the end.
//!
//! Included with `#[path = ".../deploy/dev/stack.rs"] mod dev_stack;`. A target names its directory
//! and ports, so that it runs beside a developer's stack and beside other targets. A run that was
//! killed leaves its servers behind; the next run of the same target stops them. Two runs of one
//! target at the same time take turns.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// What to start, and where.
pub struct Layout {
    /// The directory's name under `target/stack`.
    pub name: &'static str,
    /// Further arguments of `stack up`, such as `--only cassandra`.
    pub arguments: &'static [&'static str],
    /// The ports, by the name of their variable without `TAPEFLOW_STACK_`.
    pub ports: &'static [(&'static str, u16)],
}

/// A stack that starts when it is first asked for.
pub struct Stack {
    layout: Layout,
    /// Once asked: the lock that says that this process uses the directory, or why there are no
    /// servers.
    started: OnceLock<Result<File, String>>,
}

/// What a test target does about the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Run its tests.
    Run,
    /// List them as not run, with the reason.
    Skip(String),
    /// Let each fail, with the reason: `TAPEFLOW_REQUIRE_STACK=1` says that they must run.
    Fail(String),
}

/// Whether this machine can run the servers, and whether it must.
pub fn wanted() -> Wanted {
    let required = match std::env::var("TAPEFLOW_REQUIRE_STACK").as_deref() {
        Ok("1") => true,
        Ok("0" | "") | Err(std::env::VarError::NotPresent) => false,
        Ok(other) => {
            return Wanted::Fail(format!("TAPEFLOW_REQUIRE_STACK is {other:?}: give 1 or 0"));
        }
        Err(error) => return Wanted::Fail(format!("TAPEFLOW_REQUIRE_STACK: {error}")),
    };
    let missing: Vec<_> = [
        ("java", "-version"),
        ("mvn", "-version"),
        ("bash", "--version"),
        ("flock", "--version"),
    ]
    .into_iter()
    .filter(|(program, argument)| {
        !Command::new(program)
            .arg(argument)
            .output()
            .is_ok_and(|output| output.status.success())
    })
    .map(|(program, _)| program)
    .collect();
    match (missing.is_empty(), required) {
        (true, _) => Wanted::Run,
        (false, false) => Wanted::Skip(format!("needs {}", missing.join(" and "))),
        (false, true) => Wanted::Fail(format!(
            "TAPEFLOW_REQUIRE_STACK=1 and not found here: {}",
            missing.join(", ")
        )),
    }
}

impl Stack {
    /// Plans a stack; nothing starts yet.
    pub const fn new(layout: Layout) -> Self {
        Self {
            layout,
            started: OnceLock::new(),
        }
    }

    /// Starts it with an empty store, once; everyone who asks meanwhile waits.
    ///
    /// # Errors
    /// What the script said.
    pub fn up(&self) -> Result<(), String> {
        self.up_with(|_| Ok(()))
    }

    /// [`Self::up`], after something has been put into the stack's directory: no other run of the
    /// target uses it by then.
    ///
    /// # Errors
    /// What `prepare` or the script said.
    pub fn up_with(
        &self,
        prepare: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<(), String> {
        let start = || {
            let lock = self.lock().map_err(|error| {
                format!(
                    "cannot lock target/stack/{}.lock: {error}",
                    self.layout.name
                )
            })?;
            self.run("wipe")?;
            prepare(&self.folder()).map_err(|error| {
                format!("cannot prepare target/stack/{}: {error}", self.layout.name)
            })?;
            self.run("up").map(|()| lock)
        };
        self.started
            .get_or_init(start)
            .as_ref()
            .map(drop)
            .map_err(Clone::clone)
    }

    /// Stops it and deletes its data, if it was started.
    pub fn stop(&self) {
        if self.started.get().is_some()
            && let Err(reason) = self.run("wipe")
        {
            eprintln!("{reason}");
        }
    }

    /// `stack COMMAND` with this stack's directory and ports.
    pub fn command(&self, command: &str) -> Command {
        let mut stack = Command::new(root().join("deploy/dev/stack"));
        stack.arg(command).env("TAPEFLOW_STACK_DIR", self.folder());
        for (name, port) in self.layout.ports {
            stack.env(format!("TAPEFLOW_STACK_{name}"), port.to_string());
        }
        stack
    }

    fn folder(&self) -> PathBuf {
        root().join("target/stack").join(self.layout.name)
    }

    /// Waits until no other process uses the directory; the system unlocks it when this one ends,
    /// however it ends.
    fn lock(&self) -> std::io::Result<File> {
        let folder = root().join("target/stack");
        std::fs::create_dir_all(&folder)?;
        let file = File::create(folder.join(format!("{}.lock", self.layout.name)))?;
        file.lock()?;
        Ok(file)
    }

    fn run(&self, command: &str) -> Result<(), String> {
        let mut stack = self.command(command);
        if command == "up" {
            stack.args(self.layout.arguments);
        }
        let output = stack
            .output()
            .map_err(|error| format!("deploy/dev/stack does not start: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
        }
    }
}

/// The workspace's root: the nearest folder above the package that holds this file's folder.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .find(|folder| folder.join("deploy/dev/stack").is_file())
        .unwrap_or(package)
        .to_path_buf()
}
