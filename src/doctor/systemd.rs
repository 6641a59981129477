//! The environment that systemd gives a service, as far as files say it (systemd.exec(5), `Environment=`
//! and `EnvironmentFile=`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A variable's value, and the file that sets it.
pub(super) type Set = BTreeMap<String, (String, PathBuf)>;

/// The variables of `unit`, such as `docker.service`, by its files under `root`.
pub(super) fn environment(root: &Path, unit: &str) -> Set {
    let mut set = Set::new();
    for file in files(root, unit) {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        for (key, value) in service_lines(&text) {
            match key {
                // An empty one takes back all before it.
                "Environment" | "EnvironmentFile" if value.is_empty() => set.clear(),
                "Environment" => {
                    for word in words(value) {
                        if let Some((name, value)) = word.split_once('=') {
                            set.insert(name.to_owned(), (value.to_owned(), file.clone()));
                        }
                    }
                }
                "EnvironmentFile" => {
                    let named = value.trim_start_matches('-').trim_start_matches('/');
                    let from = root.join(named);
                    for (name, value) in assignments(&from) {
                        set.insert(name, (value, from.clone()));
                    }
                }
                _ => {}
            }
        }
    }
    set
}

/// `NAME=VALUE` lines of a file such as `/etc/environment`; quotes around a value go.
pub(super) fn assignments(file: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let name = name.trim().trim_start_matches("export ").trim();
        let value = value.trim().trim_matches(['"', '\'']);
        Some((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

/// The unit, the first that is there, and its drop-ins by name: of two that are called alike the one in
/// `/etc` counts.
fn files(root: &Path, unit: &str) -> Vec<PathBuf> {
    let folders = FOLDERS.map(|folder| root.join(folder));
    let own = folders.iter().map(|folder| folder.join(unit));
    let mut files: Vec<PathBuf> = own.filter(|file| file.is_file()).take(1).collect();
    let mut drop_ins: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for folder in &folders {
        let entries = std::fs::read_dir(folder.join(format!("{unit}.d")));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "conf") {
                drop_ins.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    files.extend(drop_ins.into_values());
    files
}

/// Key and value of each line of `[Service]`.
fn service_lines(text: &str) -> Vec<(&str, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[Service]";
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.push((key.trim(), value.trim()));
        }
    }
    found
}

/// Words apart by blanks, where quotes hold blanks together.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

const FOLDERS: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_drop_in_by_name_counts_and_etc_hides_its_namesakes() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        put(
            "lib/systemd/system/docker.service",
            "[Unit]\nEnvironment=HTTPS_PROXY=http://wrong:1\n[Service]\nEnvironment=A=1 \"B=2 3\"\n",
        );
        put(
            "etc/systemd/system/docker.service.d/10-a.conf",
            "[Service]\n# Environment=HTTPS_PROXY=http://no:1\nEnvironment=\"HTTPS_PROXY=http://old:3128\"\n",
        );
        put(
            "etc/systemd/system/docker.service.d/pierhead.conf",
            "[Service]\nEnvironmentFile=-/etc/pierhead.env\n",
        );
        put(
            "lib/systemd/system/docker.service.d/pierhead.conf",
            "[Service]\nEnvironment=HTTPS_PROXY=http://hidden:1\n",
        );
        put("etc/pierhead.env", "# a\nHTTPS_PROXY='http://new:3128'\n");
        let set = environment(root.path(), "docker.service");
        assert_eq!(set["A"].0, "1");
        assert_eq!(set["B"].0, "2 3");
        let (value, file) = &set["HTTPS_PROXY"];
        assert_eq!(value, "http://new:3128");
        assert!(file.ends_with("etc/pierhead.env"));
        put(
            "etc/systemd/system/docker.service.d/zz.conf",
            "[Service]\nEnvironment=\n",
        );
        assert!(environment(root.path(), "docker.service").is_empty());
    }
}
