//! podman, buildah and skopeo: no daemon.

use std::path::{Path, PathBuf};

use crate::image::{Image, sha256};
use crate::machine::Machine;
use crate::process::{Finished, PULL_LIMIT, run};

/// podman, or buildah, with image storage of its own.
pub struct Podman {
    machine: Machine,
}

/// skopeo, which copies into folders.
pub struct Skopeo {
    machine: Machine,
}

// === impl Podman ===

impl Podman {
    pub fn on(machine: Machine) -> Self {
        Self { machine }
    }

    /// Pulls with podman, and prints the image's id.
    pub fn pull(&self, name: &str) -> Finished {
        self.run("podman", "pull", &["--quiet", name])
    }

    /// Pushes what was pulled as `from` under another name.
    pub fn push(&self, from: &str, to: &str) -> Finished {
        self.run(
            "podman",
            "push",
            &["--quiet", from, &format!("docker://{to}")],
        )
    }

    /// The same with options.
    pub fn pull_with(&self, name: &str, options: &[&str]) -> Finished {
        self.run("podman", "pull", &[options, &["--quiet", name]].concat())
    }

    /// Loads a file.
    pub fn load(&self, file: &Path) -> Finished {
        let file = file.display().to_string();
        self.run("podman", "load", &["--quiet", "--input", &file])
    }

    /// The configuration's digest of an image that is here, in hex.
    pub fn id(&self, name: &str) -> String {
        let inspect = ["inspect", "--format", "{{.Id}}", name];
        self.run("podman", "image", &inspect).ok().trim().to_owned()
    }

    /// Pulls with buildah.
    pub fn build_pull(&self, name: &str) -> Finished {
        self.run("buildah", "pull", &["--quiet", name])
    }

    fn run(&self, program: &str, verb: &str, arguments: &[&str]) -> Finished {
        let dir = self.machine.path();
        let mut command = self.machine.command(program);
        command
            .arg("--root")
            .arg(dir.join(format!("{program}-root")))
            .arg("--runroot")
            .arg(dir.join(format!("{program}-run")))
            .args(["--storage-driver", "vfs", verb])
            .args(arguments);
        run(command, PULL_LIMIT)
    }
}

// === impl Skopeo ===

impl Skopeo {
    pub fn on(machine: Machine) -> Self {
        Self { machine }
    }

    /// Copies into a new folder `to` of the machine.
    pub fn copy(&self, name: &str, to: &str) -> Finished {
        self.copy_with(name, to, &[])
    }

    pub fn copy_with(&self, name: &str, to: &str, options: &[&str]) -> Finished {
        self.copy_from(&format!("docker://{name}"), to, options)
    }

    /// From a registry to any place skopeo has a word for.
    pub fn copy_to(&self, name: &str, to: &str) -> Finished {
        let mut command = self.machine.command("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("docker://{name}"))
            .arg(to);
        run(command, PULL_LIMIT)
    }

    /// From any place skopeo has a word for.
    pub fn copy_from(&self, from: &str, to: &str, options: &[&str]) -> Finished {
        let mut command = self.machine.command("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(options)
            .arg(from)
            .arg(format!("dir:{}", self.folder(to).display()));
        run(command, PULL_LIMIT)
    }

    /// From a folder of the machine to a registry, each manifest as it is.
    pub fn push(&self, from: &str, name: &str, options: &[&str]) -> Finished {
        let mut command = self.machine.command("skopeo");
        command
            .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
            .args(options)
            .arg(format!("dir:{}", self.folder(from).display()))
            .arg(format!("docker://{name}"));
        run(command, PULL_LIMIT)
    }

    pub fn delete(&self, name: &str) -> Finished {
        let mut command = self.machine.command("skopeo");
        command.args(["delete", &format!("docker://{name}")]);
        run(command, PULL_LIMIT)
    }

    /// The digest of what a tag names now.
    pub fn digest(&self, name: &str) -> Finished {
        let mut command = self.machine.command("skopeo");
        command
            .args(["--insecure-policy", "inspect", "--raw"])
            .arg(format!("docker://{name}"));
        let mut finished = run(command, PULL_LIMIT);
        finished.stdout = sha256(finished.stdout.as_bytes());
        finished
    }

    pub fn folder(&self, to: &str) -> PathBuf {
        self.machine.path().join(to)
    }
}

/// Panics unless a folder that skopeo wrote holds every byte of an image.
#[track_caller]
pub fn assert_holds(folder: &Path, image: &Image) {
    for blob in image.blobs() {
        let hex = blob.digest.trim_start_matches("sha256:");
        let bytes = std::fs::read(folder.join(hex)).expect("a blob");
        assert_eq!(sha256(&bytes), blob.digest);
    }
    let manifest = std::fs::read(folder.join("manifest.json")).expect("a manifest");
    assert_eq!(sha256(&manifest), image.manifest.digest);
}
