//! Programs with an end: commands under a deadline, daemons that die with their owner.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long one pull may take before the test gives up on it.
pub const PULL_LIMIT: Duration = Duration::from_secs(90);

/// How long a daemon may take to answer.
pub const START_LIMIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers; panics with `what` when `limit` has passed.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain: {what}"
        );
        thread::sleep(POLL);
    }
}

/// Runs a command to its end, or kills it at `limit` and panics.
pub fn run(mut command: Command, limit: Duration) -> Finished {
    let line = format!("{command:?}");
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a second handle"))
        .stderr(stderr.try_clone().expect("a second handle"))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            break Some(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(POLL);
    };
    let finished = Finished {
        line,
        code: status.and_then(|status| status.code()),
        stdout: rewind(&mut stdout),
        stderr: rewind(&mut stderr),
    };
    assert!(status.is_some(), "not done after {limit:?}: {finished}");
    finished
}

/// What a command left behind.
pub struct Finished {
    line: String,
    code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A long-running program; dropped, it is killed.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

// === impl Finished ===

impl Finished {
    /// What it printed; panics unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.succeeded(), "failed: {self}");
        self.stdout
    }

    /// What it complained about; panics if it succeeded.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.succeeded(), "should have failed: {self}");
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its exit code; none if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.stdout, self.stderr
        )
    }
}

// === impl Daemon ===

impl Daemon {
    /// Starts it with both its outputs in the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::create(log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// Waits until `probe`, given all it has logged so far, answers; panics if it ends before.
    pub fn wait_ready<T>(&mut self, mut probe: impl FnMut(&str) -> Option<T>) -> T {
        let what = format!("{} to be ready, see {}", self.name, self.log.display());
        wait_for(&what, START_LIMIT, || {
            let answer = probe(&self.logged());
            if answer.is_none()
                && let Some(status) = self.child.try_wait().expect("a child to wait for")
            {
                panic!("{} ended with {status}:\n{}", self.name, self.logged());
            }
            answer
        })
    }

    /// Everything it has printed.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and returns at once.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, and returns at once.
    pub fn signal(&self, name: &str) {
        let mut command = Command::new("kill");
        command.args([&format!("-{name}"), &self.child.id().to_string()]);
        run(command, START_LIMIT).ok();
    }

    /// Waits for an end by itself; tells whether it was a success.
    pub fn wait_end(&mut self, limit: Duration) -> bool {
        wait_for(&format!("{} to end", self.name), limit, || {
            self.child.try_wait().expect("a child to wait for")
        })
        .success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let logged = self.logged();
            let lines: Vec<_> = logged.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the last of {}\n{tail}", self.name);
        }
    }
}

fn rewind(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a seekable file");
    file.read_to_end(&mut bytes).expect("a readable file");
    String::from_utf8_lossy(&bytes).into_owned()
}
