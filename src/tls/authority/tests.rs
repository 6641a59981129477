use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::test_support::{Scratch, mode, names};
use super::*;

fn reopen(scratch: &Scratch) -> (Authority, Vec<Notice>) {
    Authority::open(&scratch.config()).unwrap()
}

fn fail(config: &CaConfig) -> CaError {
    Authority::open_or_create(config, &names(&["ghcr.io"], &[])).unwrap_err()
}

#[test]
fn the_first_start_makes_a_ca_and_the_second_uses_it() {
    let scratch = Scratch::new();
    let (first, notices) = scratch.open(&["ghcr.io"], &[]);
    assert!(matches!(notices[..], [Notice::Created { .. }]));
    assert_eq!(mode(&scratch.path("ca/ca.key")), 0o600);
    assert!(first.is_own());
    assert!(first.subject().starts_with("CN=pierhead CA "));

    let (second, notices) = scratch.open(&["ghcr.io"], &[]);
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(first.fingerprint(), second.fingerprint());
    assert_eq!(first.certificate_pem(), scratch.read("ca/ca.crt"));
}

#[test]
fn the_certificate_is_what_openssl_takes_for_a_limited_ca() {
    let scratch = Scratch::new();
    let (authority, _) = scratch.open(&["docker.io", "ghcr.io"], &[]);
    let text = scratch.openssl_ok("x509 -in ca/ca.crt -noout -text -fingerprint -sha256");
    for expected in [
        "CA:TRUE, pathlen:0",
        "Certificate Sign, CRL Sign",
        "X509v3 Name Constraints: critical",
        "DNS:docker.io",
        "IP:0.0.0.0/0.0.0.0",
        "IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0",
        "id-ecPublicKey",
        "Subject Key Identifier",
        authority.fingerprint(),
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    scratch.openssl_ok("verify -x509_strict -CAfile ca/ca.crt ca/ca.crt");
}

#[test]
fn the_key_is_never_overwritten() {
    let scratch = Scratch::new();
    scratch.open(&["ghcr.io"], &[]);
    let key = scratch.read("ca/ca.key");
    fs::remove_file(scratch.path("ca/ca.crt")).unwrap();
    let (restored, notices) = scratch.open(&["ghcr.io", "quay.io"], &[]);
    assert!(matches!(notices[..], [Notice::Restored { .. }]));
    restored.renew().unwrap();
    scratch.open(&[], &["10.0.0.1"]);
    assert_eq!(scratch.read("ca/ca.key"), key);
}

#[test]
fn of_two_first_starts_at_once_one_makes_the_key_and_both_use_it() {
    let scratch = Scratch::new();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| scratch.open(&["ghcr.io"], &[]).0))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let key = read_key(&scratch.path("ca/ca.key")).unwrap();
    for authority in opened {
        assert_eq!(authority.key.public_key_raw(), key.public_key_raw());
    }
    let files = fs::read_dir(scratch.path("ca")).unwrap().count();
    assert_eq!(files, 2, "no leftovers");
}

#[test]
fn a_lone_key_gets_its_certificate_back_under_the_same_subject() {
    let scratch = Scratch::new();
    let (old, _) = scratch.open(&["ghcr.io"], &[]);
    fs::remove_file(scratch.path("ca/ca.crt")).unwrap();
    assert!(matches!(
        Authority::open(&scratch.config()),
        Err(CaError::CertificateMissing { .. })
    ));
    let (new, _) = scratch.open(&["ghcr.io"], &[]);
    assert_eq!(old.name, new.name);
    assert_eq!(old.key_id, new.key_id);
}

#[test]
fn a_lone_certificate_is_an_error_that_says_what_to_do() {
    let scratch = Scratch::new();
    scratch.open(&["ghcr.io"], &[]);
    fs::remove_file(scratch.path("ca/ca.key")).unwrap();
    let error = fail(&scratch.config());
    assert!(matches!(error, CaError::KeyMissing { .. }));
    assert!(error.to_string().contains("backup"), "{error}");
    assert!(!scratch.path("ca/ca.key").exists());
}

#[test]
fn showing_a_ca_that_is_not_there_makes_none() {
    let scratch = Scratch::new();
    assert!(matches!(
        Authority::open(&scratch.config()),
        Err(CaError::Absent { .. })
    ));
    assert!(!scratch.path("ca").exists());
}

#[test]
fn a_registry_added_issues_the_certificate_again_and_names_it() {
    let scratch = Scratch::new();
    let (old, _) = scratch.open(&["docker.io", "ghcr.io"], &[]);
    let (new, notices) = scratch.open(&["auth.docker.io", "docker.io", "quay.io"], &[]);
    let [Notice::Reissued { scope, .. }] = &notices[..] else {
        panic!("{notices:?}");
    };
    assert_eq!(
        *scope,
        Scope::Changed {
            added: vec!["quay.io".to_owned()],
            removed: vec!["ghcr.io".to_owned()],
        }
    );
    assert!(notices[0].is_warning());
    assert!(
        notices[0]
            .to_string()
            .contains("quay.io: clients keep working")
    );
    assert_ne!(old.fingerprint(), new.fingerprint());
    assert_eq!(old.name, new.name);
    assert!(
        scratch
            .open(&["auth.docker.io", "docker.io", "quay.io"], &[])
            .1
            .is_empty()
    );
}

#[test]
fn constraints_can_be_switched_off_and_on_again() {
    let scratch = Scratch::new();
    let limits = names(&["ghcr.io"], &["10.0.0.1"]);
    let on = scratch.config();
    let off = CaConfig {
        name_constraints: false,
        ..scratch.config()
    };
    Authority::open_or_create(&on, &limits).unwrap();
    for (config, expected) in [(&off, Scope::Unlimited), (&on, Scope::Limited)] {
        let (_, notices) = Authority::open_or_create(config, &limits).unwrap();
        assert!(matches!(&notices[..], [Notice::Reissued { scope, .. }] if *scope == expected));
        assert!(
            Authority::open_or_create(config, &limits)
                .unwrap()
                .1
                .is_empty()
        );
    }
}

#[test]
fn renewal_keeps_the_key_the_subject_and_the_constraints() {
    let scratch = Scratch::new();
    let (old, _) = scratch.open(&["ghcr.io"], &["10.0.0.1", "2001:db8::1"]);
    let key = scratch.read("ca/ca.key");
    let (name, constraints) = (old.name.clone(), old.constraints.clone());
    let fingerprint = old.fingerprint().to_owned();
    let new = old.renew().unwrap();
    assert_eq!(scratch.read("ca/ca.key"), key);
    assert_eq!(new.name, name);
    assert_eq!(new.constraints, constraints);
    assert_ne!(new.fingerprint(), fingerprint);
    assert_eq!(reopen(&scratch).0.fingerprint(), new.fingerprint());
}

#[test]
fn a_key_that_others_can_read_and_a_ca_near_its_end_are_noticed() {
    let scratch = Scratch::new();
    let (authority, _) = scratch.open(&["ghcr.io"], &[]);
    let key = scratch.path("ca/ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (_, notices) = reopen(&scratch);
    assert_eq!(
        notices,
        [Notice::KeyMode {
            key: key.clone(),
            mode: 0o640
        }]
    );
    assert!(notices[0].to_string().contains("chmod 600"));

    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let paths = Paths::new(&scratch.config()).unwrap();
    for (left, expected) in [(31, None), (29, Some(false)), (0, Some(true))] {
        let now = authority.not_after() - Duration::days(left);
        let ended = authority.notices(&paths, now).unwrap().pop().map(|notice| {
            assert!(notice.to_string().contains("pierhead ca renew"));
            matches!(notice, Notice::Expires { ended: true, .. })
        });
        assert_eq!(ended, expected, "{left} days left");
    }
}

#[test]
fn a_ca_that_is_not_valid_yet_is_noticed_with_its_date_and_the_clock() {
    let scratch = Scratch::new();
    let (authority, _) = scratch.open(&["ghcr.io"], &[]);
    let paths = Paths::new(&scratch.config()).unwrap();
    let begins = authority.not_before;
    assert!(authority.notices(&paths, begins).unwrap().is_empty());
    let notices = authority.notices(&paths, begins - Duration::SECOND);
    let notices = notices.unwrap();
    assert!(matches!(notices[..], [Notice::NotYet { .. }]));
    assert!(notices[0].is_warning());
    let text = notices[0].to_string();
    for word in ["look at this machine's clock", &begins.date().to_string()] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let scratch = Scratch::new();
    scratch.open(&["ghcr.io"], &[]);
    let other = KeyPair::generate().unwrap().serialize_pem();
    scratch.write("ca/ca.key", &other);
    let error = fail(&scratch.config());
    assert!(matches!(error, CaError::Mismatch { .. }));
    assert!(!error.to_string().contains("PRIVATE"));
}

#[test]
fn a_given_ca_needs_both_files_and_both_in_order() {
    let scratch = Scratch::new();
    scratch.company(
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-algorithm ED25519",
    );
    scratch.openssl_ok("pkcs8 -topk8 -in root.key -passout pass:x -out encrypted.key");
    scratch.openssl_ok("req -new -x509 -key root.key -subj /CN=server -addext basicConstraints=CA:false -out server.crt");
    scratch.write("empty", "nothing\n");

    let half = CaConfig {
        key: None,
        ..scratch.given("ca.crt", "ca.key")
    };
    assert!(matches!(
        fail(&half),
        CaError::HalfGiven { missing: "key", .. }
    ));
    let given = |certificate, key| fail(&scratch.given(certificate, key)).to_string();
    for (certificate, key, expected) in [
        ("ca.crt", "ca.key", "not supported"),
        ("ca.crt", "root.key", "not the key of"),
        ("root.crt", "encrypted.key", "encrypted"),
        ("root.crt", "empty", "not a usable key"),
        ("empty", "root.key", "holds none"),
        ("missing", "root.key", "put it there, or say where it is"),
        ("root.crt", "missing", "put it there, or say where it is"),
        ("server.crt", "root.key", "not marked as a CA"),
    ] {
        let error = given(certificate, key);
        assert!(error.contains(expected), "{certificate} {key}: {error}");
        let blamed = match expected {
            "not supported" | "encrypted" | "not a usable key" => "ca.key: ",
            _ if key == "missing" => "ca.key: ",
            _ => "ca.certificate: ",
        };
        assert!(error.starts_with(blamed), "{error}");
        assert!(!error.contains("[ca] dir"), "{error}");
    }
}

#[test]
fn a_given_ca_is_never_written_and_its_topmost_certificate_is_what_clients_trust() {
    let scratch = Scratch::new();
    let p256 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    scratch.company(p256, p256);
    // The chain in any order after the issuing certificate, and a stranger in it.
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap();
    let chain = [
        scratch.read("ca.crt"),
        stranger.cert.pem(),
        scratch.read("root.crt"),
    ]
    .concat();
    scratch.write("chain.crt", &chain);
    let config = scratch.given("chain.crt", "ca.key");
    let (authority, notices) =
        Authority::open_or_create(&config, &names(&["ghcr.io"], &[])).unwrap();
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(scratch.read("chain.crt"), chain);
    assert_eq!(authority.chain().len(), 1);
    assert!(authority.subject().contains("Corp-Issuing-7"));
    let text = scratch.openssl_ok("x509 -in root.crt -noout -fingerprint -sha256");
    assert!(text.contains(authority.fingerprint()));
    assert_eq!(authority.certificate_pem(), scratch.read("root.crt"));
    assert!(authority.describe().contains("Corp Root"));
    assert!(matches!(authority.renew(), Err(CaError::NotOurs { .. })));
}

#[test]
fn a_ca_that_someone_put_into_the_directory_is_used_and_left_as_it_is() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("ca")).unwrap();
    scratch.openssl_ok(
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=theirs -keyout ca/ca.key -out ca/ca.crt",
    );
    fs::set_permissions(scratch.path("ca/ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = scratch.read("ca/ca.crt");
    let (authority, notices) = scratch.open(&["ghcr.io"], &[]);
    assert!(
        matches!(notices[..], [Notice::Foreign { .. }, ..]),
        "{notices:?}"
    );
    assert!(!authority.is_own());
    assert_eq!(scratch.read("ca/ca.crt"), before);
}

#[test]
fn the_description_wraps_and_debug_shows_no_key() {
    let scratch = Scratch::new();
    let hosts: Vec<_> = (0..20)
        .map(|n| format!("registry-{n:02}.example"))
        .collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let (authority, _) = scratch.open(&hosts, &["2001:db8::1"]);
    let text = authority.describe();
    assert!(
        text.contains("registry-19.example, 2001:db8::1\n"),
        "{text}"
    );
    assert!(text.contains(authority.fingerprint()));
    let constraints = text
        .lines()
        .skip_while(|line| !line.starts_with("permitted"));
    assert!(constraints.clone().count() > 4);
    assert!(constraints.clone().all(|line| line.len() <= 80), "{text}");
    assert!(!format!("{authority:?}").contains("key"));
}
