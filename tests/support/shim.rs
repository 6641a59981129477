//! Faults beneath a gateway: its disk and its clock, by a library that is preloaded into it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use super::Setup;

/// A shim that is compiled for one test, and the switch of its faults.
pub struct Shim {
    dir: tempfile::TempDir,
    control: File,
    /// How often it was told what is to fail.
    rounds: AtomicI32,
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Write,
    Read,
    /// `fsync` and `fdatasync`.
    Sync,
    Rename,
    Open,
    /// `ftruncate`, to grow or shrink.
    Resize,
}

/// Whose files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Objects, and what is on its way to be one.
    Objects = 1,
    Index = 2,
    All = 3,
}

/// What the system says, by its number on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    Eio = 5,
    Enfile = 23,
    Emfile = 24,
    Enospc = 28,
    Erofs = 30,
    Edquot = 122,
}

// === impl Shim ===

impl Shim {
    pub fn compile() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shim.c");
        let cc = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.path().join("shim.so"))
            .arg(source)
            .arg("-ldl")
            .output()
            .expect("a C compiler");
        let said = String::from_utf8_lossy(&cc.stderr);
        assert!(cc.status.success(), "{said}");
        let path = dir.path().join("faults");
        std::fs::write(&path, [0; 4096]).expect("written");
        let control = File::options().write(true).open(path);
        Self {
            control: control.expect("it is there"),
            dir,
            rounds: AtomicI32::new(0),
        }
    }

    /// The same gateway with the shim beneath it.
    pub fn beneath(&self, setup: Setup) -> Setup {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        setup
            .env("LD_PRELOAD", &path("shim.so"))
            .env("FAULTS", &path("faults"))
    }

    /// From now on one of every `every` such calls fails, by chance: with the same seed the same ones.
    pub fn fail(&self, call: Call, errno: Errno, of: Of, every: i32, seed: u64) {
        self.set(EVERY, every);
        self.set(SEED, seed as i32);
        self.begin(&[call], errno, of);
    }

    /// The calls with these numbers fail, of all such calls from now on; the first is 1, the last that
    /// can be told apart 32.
    pub fn fail_these(&self, calls: &[Call], errno: Errno, of: Of, numbers: &[u32]) {
        let bits = numbers.iter().map(|number| 1u32 << (number - 1));
        self.set(THESE, bits.fold(0, |all, bit| all | bit).cast_signed());
        self.begin(calls, errno, of);
    }

    fn begin(&self, calls: &[Call], errno: Errno, of: Of) {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed) + 1;
        self.set(ROUND, round);
        self.set(WHERE, of as i32);
        for call in calls {
            self.set(*call as u64, errno as i32);
        }
    }

    /// Reads and writes do only half of what they are asked to.
    pub fn halve(&self, of: Of) {
        self.set(WHERE, of as i32);
        self.set(SHORT, 1);
    }

    /// Every write and every sync takes so long, in microseconds.
    pub fn slow(&self, of: Of, micros: i32) {
        self.set(WHERE, of as i32);
        self.set(DELAY, micros);
    }

    /// Sets the clock, by so many days from what it really is.
    pub fn set_clock(&self, days: i32) {
        self.set(DAYS, days);
    }

    /// Everything works again; the clock stays as it is.
    pub fn heal(&self) {
        for word in (0..DAYS).filter(|word| *word != ROUND) {
            self.set(word, 0);
        }
    }

    fn set(&self, word: u64, value: i32) {
        let written = self.control.write_all_at(&value.to_le_bytes(), word * 4);
        written.expect("written");
    }
}

/// The files of a cache directory by their paths in it, and what they take on disk.
pub fn files(cache: &Path) -> std::collections::BTreeMap<String, u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = std::collections::BTreeMap::new();
    let mut ahead: Vec<PathBuf> = vec![cache.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => ahead.push(entry.path()),
                Ok(meta) => {
                    let path = entry.path();
                    let name = path.strip_prefix(cache).expect("it is in it");
                    let name = name.to_string_lossy().into_owned();
                    let taken = match name.starts_with("index") {
                        // It grows before it is written to.
                        true => meta.blocks() * 512,
                        false => meta.len().div_ceil(4096) * 4096,
                    };
                    found.insert(name, taken);
                }
                // It went away while we looked.
                Err(_) => {}
            }
        }
    }
    found
}

const EVERY: u64 = 8;
const SHORT: u64 = 9;
const DELAY: u64 = 10;
const WHERE: u64 = 11;
const SEED: u64 = 12;
const THESE: u64 = 13;
const ROUND: u64 = 14;
const DAYS: u64 = 15;
