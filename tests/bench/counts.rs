//! How many instructions the gateway takes for what it does most often.
//!
//! Times depend on the machine and on who else uses it; instructions hardly do. The gateway runs in a
//! thread of this process, on a runtime of one thread, and callgrind counts what that thread does while
//! a case runs: nothing of its client, of the origin, of the start, or of the kernel. `scripts/counts`
//! builds and runs it, and compares with what is recorded beside this file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark fails loudly, and prints"
)]

#[allow(unused_imports, reason = "what only tests use")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "what only the other benchmark uses")]
mod client;
#[allow(dead_code, reason = "what only the other benchmark uses")]
mod origin;
#[allow(dead_code, reason = "what only the other benchmark uses")]
mod scale;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
};

use pierhead::{
    app::{App, service::Sockets},
    config::Config,
    telemetry::log,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::LocalSet,
};

use self::{
    client::{Ask, Connection, Trust},
    origin::{Document, HOST, Origin},
    scale::Scale,
};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    match args.next().as_deref() {
        None => compare(&Counts::taken()),
        Some("--record") => {
            let counts = Counts::taken();
            fs::write(recorded(), counts.written()).expect("the sources can be written");
            print!("{}", counts.written());
            ExitCode::SUCCESS
        }
        Some("--release") => {
            print!("{}", Counts::taken().written());
            ExitCode::SUCCESS
        }
        Some(UNDER_CALLGRIND) => {
            let world = Builder::new_current_thread().enable_all().build();
            world.expect("a runtime").block_on(cases());
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("counts: {other}? [--record | --release]");
            ExitCode::from(2)
        }
    }
}

/// What is counted, in the order in which it is done, how often, and how many per cent more than what is
/// recorded are too many.
const CASES: &[(&str, u64, u32)] = &[
    ("manifest hit by tag", 300, 5),
    ("manifest hit by digest", 300, 5),
    ("HEAD of a manifest by tag", 300, 5),
    ("blob hit, 64 KiB", 60, 5),
    ("new connection with one manifest hit", 30, 5),
    ("new connection to a never-seen host", 30, 5),
    ("denied CONNECT", 60, 5),
    // As often as the kernel says that there is more to move.
    ("tunnel, 1 MiB", 30, 30),
];

const UNDER_CALLGRIND: &str = "--under-callgrind";
/// A host for each of which there is a registry and no address.
const MANY: &str = "many.example";
const TUNNEL: &str = "tunnel.example";

// --- under callgrind

/// Runs the cases, each between two switches of the gateway's thread.
async fn cases() {
    let origin = Origin::start(&Scale::counts()).await;
    let source = source().await;
    let home = TempDir::new().expect("a folder in TMPDIR");
    let rule = format!("[[policy.rule]]\naction = \"tunnel\"\nhosts = [{TUNNEL:?}]");
    let config = support::Setup::default()
        .resolve(HOST, origin.addr)
        .resolve(TUNNEL, source)
        .registry(HOST, "")
        .registry(&format!("*.{MANY}"), "")
        .trusting(&origin.ca.pem)
        .text("cache", "tag_ttl", "1h")
        .text("log", "format", "text")
        .more(&rule)
        .write(&home);
    let mut gateway = Gateway::start(config).await;
    let ca = fs::read_to_string(home.path().join("ca/ca.crt")).expect("made at the start");
    let trust = Trust::only(&ca);
    let proxy = gateway.proxy;

    let tag = &origin.manifest;
    let digest = &origin.manifest_by_digest();
    let (blob, many) = (&origin.warm, CASES);
    let to_registry = || client::intercepted(proxy, HOST, 443, &trust);
    let mut kept = to_registry().await;
    for document in [tag, digest, blob] {
        for _ in 0..WARM_UP {
            kept.get(&Ask::new(HOST, document), document).await;
        }
    }
    let head = Ask::head(HOST, tag);
    kept.head(&head).await;

    for (name, times, _) in many {
        // Once before, for what each first time costs.
        for counted in [false, true] {
            let times = if counted { *times } else { 3 };
            if counted {
                gateway.switch(true).await;
            }
            match *name {
                "manifest hit by tag" => repeat(&mut kept, tag, times).await,
                "manifest hit by digest" => repeat(&mut kept, digest, times).await,
                "HEAD of a manifest by tag" => {
                    for _ in 0..times {
                        kept.head(&head).await;
                    }
                }
                "blob hit, 64 KiB" => repeat(&mut kept, blob, times).await,
                "new connection with one manifest hit" => {
                    for _ in 0..times {
                        let mut connection = to_registry().await;
                        connection.get(&Ask::new(HOST, tag), tag).await;
                    }
                }
                "new connection to a never-seen host" => {
                    for n in 0..times {
                        let host = format!("{counted}-{n}.{MANY}");
                        client::intercepted(proxy, &host, 443, &trust).await;
                    }
                }
                "denied CONNECT" => {
                    for n in 0..times {
                        denied(proxy, n).await;
                    }
                }
                "tunnel, 1 MiB" => {
                    let mut socket = client::connect(proxy, TUNNEL, 443).await;
                    for _ in 0..times {
                        socket.write_u8(1).await.expect("it reads");
                        client::drain(&mut socket, MIB).await;
                    }
                }
                other => unreachable!("{other} is not among the cases"),
            }
            if counted {
                gateway.switch(false).await;
            }
        }
    }
}

async fn repeat(connection: &mut Connection, document: &Document, times: u64) {
    let ask = Ask::new(HOST, document);
    for _ in 0..times {
        connection.get(&ask, document).await;
    }
}

async fn denied(proxy: SocketAddr, n: u64) {
    let target = format!("denied-{n}.example:443");
    let (answer, _) = support::wire::connect(proxy, &target, "").await;
    assert_eq!(answer.status, 403);
}

/// A server that sends a MiB for each byte it gets.
async fn source() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        let send = |mut socket: TcpStream| async move {
            while socket.read_u8().await.is_ok() {
                socket.write_all(&vec![7; MIB]).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(send(socket));
        }
    });
    addr
}

const WARM_UP: usize = 20;
const MIB: usize = 1 << 20;

/// A gateway in a thread of its own, which is either counted or not.
struct Gateway {
    proxy: SocketAddr,
    steps: mpsc::Sender<Step>,
    /// Ends the step that runs.
    end: oneshot::Sender<()>,
}

struct Step {
    counted: bool,
    until: oneshot::Receiver<()>,
    begun: oneshot::Sender<()>,
}

// === impl Gateway ===

impl Gateway {
    async fn start(config: PathBuf) -> Self {
        let (steps, to_do) = mpsc::channel();
        let (address, at) = oneshot::channel();
        thread::spawn(move || serve(&config, address, to_do));
        let proxy = at.await.expect("it starts");
        let (end, until) = oneshot::channel();
        let (begun, _) = oneshot::channel();
        let first = Step {
            counted: false,
            until,
            begun,
        };
        steps.send(first).expect("it runs");
        Self { proxy, steps, end }
    }

    /// From here on its thread is counted, or not.
    async fn switch(&mut self, counted: bool) {
        let (end, until) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let step = Step {
            counted,
            until,
            begun,
        };
        self.steps.send(step).expect("it runs");
        let before = std::mem::replace(&mut self.end, end);
        before.send(()).expect("it runs");
        begins.await.expect("it runs");
    }
}

fn serve(config: &Path, address: oneshot::Sender<SocketAddr>, steps: mpsc::Receiver<Step>) {
    let config = Config::load_here(Some(config)).expect("a good configuration");
    let _log = log::init(false, "info", None);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let app = runtime.block_on(App::build(config, Sockets::default()));
    let app = app.expect("it can be built");
    let proxy = app.summary().split("http://").nth(1).expect("its address");
    let proxy = proxy.split_whitespace().next().expect("its address");
    let _ = address.send(proxy.parse().expect("an address"));
    let tasks = LocalSet::new();
    tasks.spawn_local(app.run(None));
    for step in steps {
        let _ = step.begun.send(());
        match step.counted {
            true => count_instructions_here(&tasks, &runtime, step.until),
            false => drop(tasks.block_on(&runtime, step.until)),
        }
    }
}

/// All tasks of the gateway run within this: it is what callgrind is told to count.
#[inline(never)]
fn count_instructions_here(tasks: &LocalSet, runtime: &Runtime, until: oneshot::Receiver<()>) {
    drop(tasks.block_on(runtime, until));
}

// --- beside callgrind

/// Instructions for each, in the order of [`CASES`].
struct Counts {
    compiler: String,
    each: Vec<(String, u64)>,
}

// === impl Counts ===

impl Counts {
    /// Runs this program under callgrind.
    fn taken() -> Self {
        let dir = TempDir::new().expect("a folder in TMPDIR");
        let out = dir.path().join("out");
        let said = fs::File::create(dir.path().join("said")).expect("a file");
        let here = std::env::current_exe().expect("this program");
        let status = Command::new("valgrind")
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .args(["--toggle-collect=counts::count_instructions_here"])
            .args(["--dump-after=counts::count_instructions_here"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(here)
            .arg(UNDER_CALLGRIND)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file"))
            .stderr(said)
            .status()
            .unwrap_or_else(|error| panic!("valgrind does not start: {error}"));
        let said = fs::read_to_string(dir.path().join("said")).unwrap_or_default();
        assert!(status.success(), "under callgrind: {status}\n{said}");
        let each = CASES.iter().enumerate().map(|(at, (name, times, _))| {
            let dump = fs::read_to_string(format!("{}.{}", out.display(), at + 1));
            let dump = dump.unwrap_or_else(|error| panic!("{name} was not counted: {error}"));
            (name.to_string(), total(&dump) / times)
        });
        Self {
            compiler: compiler(),
            each: each.collect(),
        }
    }

    fn read(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let compiler = lines.next().unwrap_or_default().to_owned();
        let each = lines.filter_map(|line| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name.trim().to_owned(), count.parse().ok()?))
        });
        Self {
            compiler,
            each: each.collect(),
        }
    }

    fn written(&self) -> String {
        let mut text = format!(
            "# Instructions of the gateway for each; `scripts/counts --record` writes them.\n{}\n",
            self.compiler
        );
        for (name, count) in &self.each {
            text.push_str(&format!("{name:<40} {count:>9}\n"));
        }
        text
    }
}

/// Compares with what is recorded. Another compiler counts for itself.
fn compare(counts: &Counts) -> ExitCode {
    let text = fs::read_to_string(recorded()).unwrap_or_default();
    let before = Counts::read(&text);
    let comparable = before.compiler == counts.compiler;
    let mut failed = false;
    println!("{:<40} {:>9} {:>9}", "", "recorded", "now");
    for ((name, now), (_, _, tolerated)) in counts.each.iter().zip(CASES) {
        let known = before.each.iter().find(|(known, _)| known == name);
        let Some((_, then)) = known else {
            println!("{name:<40} {:>9} {now:>9}  not recorded", "");
            failed = true;
            continue;
        };
        let more = *now as f64 / *then as f64 - 1.0;
        let worse = comparable && more * 100.0 > f64::from(*tolerated);
        let mark = if worse { "  too many" } else { "" };
        println!(
            "{name:<40} {then:>9} {now:>9} {:+6.1} %{mark}",
            more * 100.0
        );
        failed |= worse;
    }
    if !comparable {
        println!("recorded with {}, so this is no failure", before.compiler);
    }
    if failed {
        println!(
            "More instructions than recorded: find out why; if they are worth it, run scripts/counts --record."
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The sum of a dump.
fn total(dump: &str) -> u64 {
    let line = dump.lines().find_map(|line| line.strip_prefix("summary:"));
    let total = line.and_then(|line| line.trim().parse().ok());
    total.unwrap_or_else(|| panic!("a dump without its sum"))
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let output = output.expect("the compiler that built this").stdout;
    String::from_utf8_lossy(&output).trim().to_owned()
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/counts.txt")
}
