//! `scripts/soak`, for half a minute: the script itself stays alive, and what an hour looks at holds from
//! the beginning.

use std::process::Command;

#[test]
fn mixed_load_with_an_upstream_that_fails_ends_where_it_began() {
    let root = env!("CARGO_MANIFEST_DIR");
    let home = tempfile::tempdir().expect("a temporary directory");
    let soak = Command::new("python3")
        .arg(format!("{root}/scripts/soak"))
        .arg("0.5")
        .env("TMPDIR", home.path())
        .env("PIERHEAD", env!("CARGO_BIN_EXE_pierhead"))
        // There are other tests.
        .env("SOAK_PACE", "4")
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&soak.stdout) + String::from_utf8_lossy(&soak.stderr);
    assert!(soak.status.success(), "{said}");
}
