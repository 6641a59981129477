//! `WWW-Authenticate`: how a registry asks for credentials (RFC 9110, section 11.6.1).

use std::fmt;

use super::quoted::find_outside;

/// One challenge of a 401 response.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Challenge {
    /// A user name and a password (RFC 7617).
    Basic {
        /// What they are for; empty where the server did not say.
        realm: String,
    },
    /// A token (RFC 6750), to be fetched as distribution's token specification tells.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What the token is to allow.
        scope: Option<String>,
    },
    /// Any other scheme, or a `Bearer` that does not say where its tokens come from.
    Other {
        /// The scheme, as it was written.
        scheme: String,
    },
}

/// All challenges of one or several `WWW-Authenticate` values, in order. What cannot be read is
/// passed over.
pub fn parse_all<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in values {
        Parser { rest: value }.parse(&mut challenges);
    }
    challenges
}

// === impl Challenge ===

impl Challenge {
    /// The challenge of a scheme with these parameters, whose names are in lower case. Of a name
    /// that comes twice, the first counts.
    fn new(scheme: &str, mut parameters: Vec<(String, String)>) -> Self {
        let mut take = |name: &str| {
            let at = parameters.iter().position(|(known, _)| known == name)?;
            Some(parameters.remove(at).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic {
                realm: take("realm").unwrap_or_default(),
            };
        }
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm").filter(|realm| !realm.is_empty())
        {
            return Self::Bearer {
                realm,
                service: take("service"),
                scope: take("scope"),
            };
        }
        Self::Other {
            scheme: scheme.to_owned(),
        }
    }
}

impl fmt::Display for Challenge {
    /// The value of a header that says the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { realm } => write!(f, "Basic realm={}", Quoted(realm)),
            Self::Bearer {
                realm,
                service,
                scope,
            } => {
                write!(f, "Bearer realm={}", Quoted(realm))?;
                if let Some(service) = service {
                    write!(f, ",service={}", Quoted(service))?;
                }
                if let Some(scope) = scope {
                    write!(f, ",scope={}", Quoted(scope))?;
                }
                Ok(())
            }
            Self::Other { scheme } => f.write_str(scheme),
        }
    }
}

/// A text as a quoted string.
struct Quoted<'a>(&'a str);

// === impl Quoted ===

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

/// What is left of one header value.
struct Parser<'a> {
    rest: &'a str,
}

// === impl Parser ===

impl<'a> Parser<'a> {
    /// The comma parts challenges and parameters alike. What tells them apart is that a parameter's
    /// name is followed by an equals sign, and a scheme is not.
    fn parse(mut self, challenges: &mut Vec<Challenge>) {
        let mut open: Option<(&str, Vec<(String, String)>)> = None;
        loop {
            self.skip(|c| c == ',' || is_space(c));
            if self.rest.is_empty() {
                break;
            }
            let word = self.take(is_token);
            if word.is_empty() {
                self.skip_element();
                continue;
            }
            let spaced = self.rest.starts_with(is_space);
            self.skip(is_space);
            if self.rest.starts_with('=') {
                self.rest = &self.rest[1..];
                let value = self.value();
                // A parameter of no scheme belongs to nothing.
                if let (Some((_, parameters)), Some(value)) = (&mut open, value) {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
            } else if self.rest.is_empty() || self.rest.starts_with(',') || spaced {
                let done = open.replace((word, Vec::new()));
                challenges.extend(done.map(|(scheme, given)| Challenge::new(scheme, given)));
                self.skip_token68();
            } else {
                self.skip_element();
            }
        }
        challenges.extend(open.map(|(scheme, given)| Challenge::new(scheme, given)));
    }

    /// The value after an equals sign; `None` if its quotes are not closed.
    fn value(&mut self) -> Option<String> {
        self.skip(is_space);
        let Some(inside) = self.rest.strip_prefix('"') else {
            // Addresses are sent without quotes by some, though they are no tokens.
            return Some(self.take(|c| c != ',' && !is_space(c)).to_owned());
        };
        let mut value = String::new();
        let mut chars = inside.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &inside[at + 1..];
                    return Some(value);
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        // Half an address is worse than none: credentials would go there.
        self.rest = "";
        None
    }

    /// Skips the one value that some schemes have in place of parameters, such as `Negotiate`.
    fn skip_token68(&mut self) {
        let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let after = self
            .rest
            .trim_start_matches(is_token68)
            .trim_start_matches('=');
        let after = after.trim_start_matches(is_space);
        if after.is_empty() || after.starts_with(',') {
            self.rest = after;
        }
    }

    /// Skips to the next comma outside quotes.
    fn skip_element(&mut self) {
        let comma = find_outside(self.rest, ',');
        self.rest = comma.map_or("", |comma| &self.rest[comma..]);
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Vec<Challenge> {
        parse_all([value].into_iter())
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    fn basic(realm: &str) -> Challenge {
        Challenge::Basic {
            realm: realm.to_owned(),
        }
    }

    fn other(scheme: &str) -> Challenge {
        Challenge::Other {
            scheme: scheme.to_owned(),
        }
    }

    #[test]
    fn a_token_challenge_is_read_with_the_commas_in_its_scope() {
        let value = "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",\
                     scope=\"repository:team/app:pull,push\"";
        let expected = bearer(
            "https://auth.example/token",
            Some("registry.example"),
            Some("repository:team/app:pull,push"),
        );
        assert_eq!(parse(value), [expected]);
    }

    #[test]
    fn scheme_and_parameter_names_have_no_case_and_spaces_do_not_matter() {
        let value = "BEARER\t Realm = \"r\" ,, SERVICE=s , error=\"invalid_token\"";
        assert_eq!(parse(value), [bearer("r", Some("s"), None)]);
    }

    #[test]
    fn one_value_may_hold_several_challenges() {
        let value = "Negotiate, Basic realm=\"a, b=c\", NTLM dGVzdA==, Bearer realm=x,scope=y";
        assert_eq!(
            parse(value),
            [
                other("Negotiate"),
                basic("a, b=c"),
                other("NTLM"),
                bearer("x", None, Some("y"))
            ]
        );
    }

    #[test]
    fn several_values_are_read_in_order() {
        let values = ["Basic realm=\"one\"", "", "Bearer realm=\"two\""];
        assert_eq!(
            parse_all(values.into_iter()),
            [basic("one"), bearer("two", None, None)]
        );
    }

    #[test]
    fn escapes_within_quotes_are_undone() {
        assert_eq!(
            parse(r#"Basic realm="say \"hi\", \\o/""#),
            [basic(r#"say "hi", \o/"#)]
        );
    }

    #[test]
    fn an_address_without_quotes_is_taken() {
        assert_eq!(
            parse("Bearer realm=https://a.example/t?x=1,service=s"),
            [bearer("https://a.example/t?x=1", Some("s"), None)]
        );
    }

    #[test]
    fn a_bearer_without_a_realm_is_of_no_use() {
        for value in [
            "Bearer",
            "bearer service=\"s\"",
            "Bearer realm=\"\"",
            "Bearer realm=\"cut",
        ] {
            assert!(
                matches!(parse(value)[..], [Challenge::Other { .. }]),
                "{value}"
            );
        }
    }

    #[test]
    fn a_basic_without_a_realm_is_still_basic() {
        assert_eq!(parse("Basic"), [basic("")]);
    }

    #[test]
    fn the_first_of_two_equal_parameters_counts() {
        assert_eq!(parse("Basic realm=\"a\", realm=\"b\""), [basic("a")]);
        assert_eq!(
            parse("Bearer realm=\"a\",scope=\"1\",scope=\"2\",realm=\"b\",scope=\"3\""),
            [bearer("a", None, Some("1"))]
        );
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        assert_eq!(parse(""), []);
        assert_eq!(parse("realm=\"x\""), []);
        assert_eq!(parse("\"a, b\", {x}, Basic realm=\"y\""), [basic("y")]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(values: Vec<String>, likely in "([Ba ,=\"\\\\é]|realm=|Bearer )*") {
            let _ = parse_all(values.iter().map(String::as_str));
            let _ = parse(&likely);
        }

        #[test]
        fn what_is_shown_parses_back(
            realm in "[^\\pC]{1,20}",
            service in prop::option::of("[^\\pC]{0,20}"),
            scope in prop::option::of("[^\\pC]{0,20}"),
            scheme in "x[a-zA-Z0-9-]{0,9}",
        ) {
            let challenges = vec![
                Challenge::Other { scheme },
                Challenge::Bearer { realm: realm.clone(), service, scope },
                Challenge::Basic { realm },
            ];
            let lines: Vec<_> = challenges.iter().map(Challenge::to_string).collect();
            prop_assert_eq!(&parse_all(lines.iter().map(String::as_str)), &challenges);
            prop_assert_eq!(parse(&lines.join(", ")), challenges);
        }
    }
}
