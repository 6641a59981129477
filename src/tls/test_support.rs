//! A directory to make CAs in, and the `openssl` that judges them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Authority, CaConfig, Leaves, NameConstraints, Notice};

pub(super) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// pierhead's own CA in `ca/`.
    pub(super) fn config(&self) -> CaConfig {
        CaConfig {
            dir: self.path("ca"),
            certificate: None,
            key: None,
            name_constraints: true,
        }
    }

    pub(super) fn given(&self, certificate: &str, key: &str) -> CaConfig {
        CaConfig {
            certificate: Some(self.path(certificate)),
            key: Some(self.path(key)),
            ..self.config()
        }
    }

    pub(super) fn open(&self, dns: &[&str], ips: &[&str]) -> (Authority, Vec<Notice>) {
        Authority::open_or_create(&self.config(), &names(dns, ips)).unwrap()
    }

    /// Whether it succeeded, and what it printed on both outputs.
    pub(super) fn openssl(&self, arguments: &str) -> (bool, String) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    pub(super) fn openssl_ok(&self, arguments: &str) -> String {
        let (ok, text) = self.openssl(arguments);
        assert!(ok, "openssl {arguments}: {text}");
        text
    }

    /// A root (`root.crt`) and an intermediate (`ca.crt`, `ca.key`) below it, as a company has
    /// them: several attributes of one type in the names, as Active Directory makes them.
    pub(super) fn company(&self, root_key: &str, key: &str) {
        let root = "/DC=example/DC=corp/OU=PKI/OU=Roots/CN=Corp Root";
        let issuing = "/DC=example/DC=corp/OU=PKI/OU=Issuing/CN=Corp-Issuing-7";
        self.openssl_ok(&format!("genpkey {root_key} -out root.key"));
        self.openssl_ok(&format!("genpkey {key} -out ca.key"));
        self.write("ca.ext", "[v3]\nbasicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n");
        for (name, subject) in [("root", root), ("ca", issuing)] {
            let status = Command::new("openssl")
                .args(["req", "-new", "-sha256", "-subj", subject, "-key"])
                .arg(format!("{name}.key"))
                .args(["-out", &format!("{name}.csr")])
                .current_dir(self.dir.path())
                .output()
                .unwrap()
                .status;
            assert!(status.success());
        }
        self.write("root.ext", "[v3]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n");
        self.openssl_ok("x509 -req -in root.csr -signkey root.key -days 900 -extfile root.ext -extensions v3 -out root.crt");
        self.openssl_ok("x509 -req -in ca.csr -CA root.crt -CAkey root.key -CAcreateserial -days 400 -extfile ca.ext -extensions v3 -out ca.crt");
    }
}

pub(super) fn names(dns: &[&str], ips: &[&str]) -> NameConstraints {
    NameConstraints {
        dns: dns.iter().map(ToString::to_string).collect(),
        ips: ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect(),
    }
}

pub(super) fn leaves(authority: Authority) -> Leaves {
    Leaves::new(Arc::new(authority)).unwrap()
}

pub(super) fn mode(path: &Path) -> u32 {
    super::files::mode(path).unwrap()
}
