use proptest::prelude::*;

use super::*;

fn size(text: &str) -> u64 {
    text.parse::<Size>().unwrap().0
}

fn period(text: &str) -> Duration {
    text.parse::<Period>().unwrap().0
}

fn wrong<T: FromStr<Err = UnitError> + fmt::Debug>(text: &str) -> String {
    text.parse::<T>().unwrap_err().to_string()
}

#[test]
fn sizes_have_binary_and_decimal_units() {
    assert_eq!(size("50GiB"), 50 << 30);
    assert_eq!(size("4 MiB"), 4 << 20);
    assert_eq!(size("1tib"), 1 << 40);
    assert_eq!(size("10MB"), 10_000_000);
    assert_eq!(size("1.5GiB"), 3 << 29);
    assert_eq!(size("512"), 512);
    assert_eq!(size("512B"), 512);
    assert_eq!(size("0"), 0);
}

#[test]
fn a_text_that_is_no_size_is_told_what_would_be() {
    for text in [
        "",
        "GiB",
        "-1",
        "1.5",
        "1.2.3GB",
        "5 potatoes",
        "99999999999TiB",
    ] {
        assert!(
            wrong::<Size>(text).contains("say for example \"50GiB\""),
            "{text}"
        );
    }
    assert_eq!(
        wrong::<Size>("50g"),
        "\"50g\" could mean two sizes; say 50GiB (powers of 1024) or 50GB (powers of 1000)"
    );
}

#[test]
fn durations_are_human_or_seconds() {
    assert_eq!(period("10m"), Duration::from_secs(600));
    assert_eq!(period("7d"), Duration::from_secs(7 * 86400));
    assert_eq!(period("0s"), Duration::ZERO);
    assert_eq!(period("1h30m"), Duration::from_secs(5400));
    assert_eq!(period("90"), Duration::from_secs(90));
    assert_eq!(period("250ms"), Duration::from_millis(250));
}

#[test]
fn a_text_that_is_no_duration_is_told_what_would_be() {
    for text in ["", "soon", "10 potatoes", "-5s"] {
        assert!(wrong::<Period>(text).contains("\"30s\", \"10m\""), "{text}");
    }
    assert!(wrong::<Period>("10M").contains("`m` is minutes"));
    assert!(wrong::<Period>("99999999999").contains("a hundred years"));
}

#[test]
fn a_listening_address_is_numeric() {
    assert!("127.0.0.1:0".parse::<Bind>().is_ok());
    assert!("[::]:3128".parse::<Bind>().is_ok());
    assert!(wrong::<Bind>(":3128").contains("\"0.0.0.0:3128\" or \"[::]:3128\""));
    assert!(wrong::<Bind>("localhost:3128").contains("\"127.0.0.1:3128\""));
    assert!(wrong::<Bind>("3128").contains("for example \"127.0.0.1:3128\""));
}

#[test]
fn a_network_may_be_one_address() {
    assert_eq!(
        "10.0.0.5/8".parse::<Net>().unwrap().0.to_string(),
        "10.0.0.0/8"
    );
    assert_eq!(
        "fd00::1".parse::<Net>().unwrap().0.to_string(),
        "fd00::1/128"
    );
    assert!(wrong::<Net>("10.0.0.0/33").contains("is not a network"));
}

#[test]
fn a_fixed_address_may_have_a_port() {
    let fixed = |text: &str| text.parse::<Fixed>().unwrap();
    assert_eq!(
        fixed("10.1.2.3:443"),
        Fixed("10.1.2.3".parse().unwrap(), Some(443))
    );
    assert_eq!(fixed("[::1]:443"), Fixed("::1".parse().unwrap(), Some(443)));
    assert_eq!(fixed("[::1]"), Fixed("::1".parse().unwrap(), None));
    assert_eq!(fixed("::1"), Fixed("::1".parse().unwrap(), None));
    assert!(wrong::<Fixed>("registry.corp").contains("\"10.1.2.3:443\""));
    assert!(wrong::<Fixed>("10.1.2.3:0").contains("is not an address"));
}

#[test]
fn an_address_with_a_password_is_refused_without_repeating_it() {
    let text = wrong::<Url>("https://robot:hunter2@registry.example");
    assert_eq!(text, "the address must not hold credentials");
    assert!(wrong::<Url>("registry.example").contains("https://"));
    assert!(wrong::<Url>("ftp://registry.example").contains("https://"));
    assert!(wrong::<Url>("https://a.example/?x=1").contains("query"));
    assert!("http://10.0.0.1:5000/prefix".parse::<Url>().is_ok());
}

#[test]
fn a_secret_does_not_show_itself() {
    let secret = Secret("hunter2".to_owned());
    assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    assert_eq!(secret.reveal(), "hunter2");
}

proptest! {
    #[test]
    fn any_text_is_a_value_or_an_error(text in "\\PC{0,20}") {
        let _ = text.parse::<Size>();
        let _ = text.parse::<Period>();
        let _ = text.parse::<Bind>();
        let _ = text.parse::<Net>();
        let _ = text.parse::<Fixed>();
        let _ = text.parse::<Url>();
    }

    #[test]
    fn a_bare_number_is_bytes_and_seconds(number in 0u64..3_000_000_000) {
        prop_assert_eq!(size(&number.to_string()), number);
        prop_assert_eq!(period(&number.to_string()), Duration::from_secs(number));
    }
}
