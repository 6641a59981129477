use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> HostPattern {
    text.parse().unwrap()
}

#[test]
fn a_host_is_a_name_or_a_whole_address() {
    let host = |text: &str| text.parse::<Host>();
    assert_eq!(
        host("Registry-1.Docker.IO.").unwrap().as_str(),
        "registry-1.docker.io"
    );
    assert_eq!(host("[::1]").unwrap().as_str(), "::1");
    assert_eq!(host("my_registry").unwrap().as_str(), "my_registry");
    assert!(matches!(host("127.1"), Err(HostError::Numeric(_))));
    assert!(matches!(host("0x7f000001"), Err(HostError::Numeric(_))));
    assert!(matches!(host("fe80::1%eth0"), Err(HostError::Ipv6(_))));
    assert!(matches!(
        host("user@host"),
        Err(HostError::Character { found: '@', .. })
    ));
    assert!(matches!(
        host("a b"),
        Err(HostError::Character { found: ' ', .. })
    ));
    assert!(matches!(
        host("größe.example"),
        Err(HostError::Character { .. })
    ));
    assert!(matches!(host("-a.example"), Err(HostError::Hyphen(_))));
    assert!(matches!(host("."), Err(HostError::Empty)));
    assert!(matches!(host(&"a".repeat(64)), Err(HostError::TooLong(_))));
    assert!(matches!(
        host(&"a.".repeat(140)),
        Err(HostError::TooLong(_))
    ));
}

#[test]
fn a_target_is_a_host_and_a_port() {
    let target = |text: &str| text.parse::<Target>();
    assert_eq!(target("Ghcr.IO:443").unwrap().to_string(), "ghcr.io:443");
    assert_eq!(target("[::1]:8443").unwrap().to_string(), "[::1]:8443");
    assert_eq!(target("[::1]:8443").unwrap().port, 8443);
    for text in ["ghcr.io", "[::1]", "::1", "fd00::1:443", ""] {
        assert!(
            matches!(target(text), Err(TargetError::NoPort(_))),
            "{text}"
        );
    }
    for text in ["a:0", "a:65536", "a:+80", "a:", "a:https"] {
        assert!(matches!(target(text), Err(TargetError::Port(_))), "{text}");
    }
    assert!(matches!(target(":443"), Err(TargetError::Host(_))));
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<HostPattern>();
        let _ = text.parse::<Host>();
        let _ = text.parse::<Target>();
        prop_assert!(!pattern("registry.example").matches(&text) || text.to_lowercase().starts_with("registry"));
    }

    #[test]
    fn a_host_prints_what_it_was_parsed_from(host in "[a-z][a-z0-9]{0,5}(\\.[a-z]{1,5}){0,4}") {
        let parsed: Host = host.parse().unwrap();
        prop_assert_eq!(parsed.as_str(), host.as_str());
        prop_assert!(host.parse::<HostPattern>().unwrap().covers(&parsed));
    }
}
