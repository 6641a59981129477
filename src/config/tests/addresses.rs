//! Where it listens, and what cannot be had twice.

use super::*;

#[test]
fn two_doors_at_one_address_are_told_by_the_line_that_was_written() {
    for (text, expected) in [
        (
            "[listen]\nproxy = [\"127.0.0.1:1\"]\nadmin = \"127.0.0.1:1\"",
            "line 3: `listen.admin`: 127.0.0.1:1 cannot be listened on, because `listen.proxy` has 127.0.0.1:1; say another port for admin",
        ),
        (
            "[listen]\nproxy = [\"127.0.0.1:1\"]\nproxy_tls = [\"0.0.0.0:1\"]",
            "line 3: `listen.proxy_tls`: 0.0.0.0:1 cannot be listened on, because `listen.proxy` has 127.0.0.1:1",
        ),
        (
            "[listen]\nproxy = [\"[::1]:1\", \"[::1]:1\"]",
            "line 2: `listen.proxy`: [::1]:1 stands there twice; leave one out",
        ),
        (
            "[listen]\nproxy = [\"0.0.0.0:3129\"]",
            "line 2: `listen.proxy`: 0.0.0.0:3129 cannot be listened on, because `listen.admin` by default has 127.0.0.1:3129; say another port for proxy",
        ),
    ] {
        let told = message(text);
        assert!(
            told.starts_with(&format!("pierhead.toml, {expected}")),
            "{told}"
        );
    }
    let by_variable = [("PIERHEAD_LISTEN__ADMIN", "127.0.0.1:3128")];
    let told = message_of(load_with("", &by_variable));
    assert!(
        told.starts_with("environment variable PIERHEAD_LISTEN__ADMIN: `listen.admin`: "),
        "{told}"
    );
    for good in [
        "proxy = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"",
        "proxy = [\"127.0.0.1:1\", \"127.0.0.2:1\", \"[::1]:1\"]",
        "proxy = [\"0.0.0.0:3129\"]\nadmin = \"\"",
    ] {
        load(&format!("[listen]\n{good}"));
    }
}
