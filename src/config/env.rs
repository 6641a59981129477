//! The environment over the file: `PIERHEAD_CACHE__MAX_SIZE` sets `cache.max_size`.

use std::path::PathBuf;

use strsim::normalized_damerau_levenshtein as similarity;
use toml::{Table, Value};

use super::error::{ConfigError, KeyPath, Origin};
use super::keys::{Key, Kind, overridable};

/// What every variable of ours begins with.
const PREFIX: &str = "PIERHEAD_";
/// What the commands that talk to a running gateway read; no keys.
const COMMAND_LINE: [&str; 5] = [
    "PIERHEAD_GATEWAY",
    "PIERHEAD_LOGIN",
    // The set-up scripts' own.
    "PIERHEAD_PROXY_LOGIN",
    "PIERHEAD_NO_PROXY",
    "PIERHEAD_ROOT",
];

/// What the environment says.
#[derive(Debug, Default)]
pub struct Environment {
    /// `PIERHEAD_CONFIG`: the file to read when the command line names none.
    pub file: Option<PathBuf>,
    /// In the order of their names.
    pub overrides: Vec<Override>,
    /// Variables that begin like ours and are like none of them: a password that the file names, or
    /// somebody else's.
    pub foreign: Vec<String>,
}

/// One variable that sets a key.
pub struct Override {
    pub variable: String,
    pub key: &'static Key,
    value: Value,
}

impl Environment {
    /// Reads the variables that begin with `PIERHEAD_`; all others are none of ours.
    pub fn read(env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut ours: Vec<(String, String)> = env
            .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_link(name))
            .collect();
        ours.sort();
        let mut read = Self::default();
        for (variable, text) in ours {
            if variable == "PIERHEAD_CONFIG" {
                read.file = Some(text.into());
                continue;
            }
            if COMMAND_LINE.contains(&variable.as_str()) {
                continue;
            }
            let Some(key) = overridable().find(|key| variable_of(key) == variable) else {
                let (likeness, nearest) = nearest(&variable);
                if likeness < MEANT && !variable.contains("__") {
                    read.foreign.push(variable);
                    continue;
                }
                return Err(ConfigError::UnknownVariable {
                    name: variable,
                    nearest,
                });
            };
            let value = value(key, &variable, &text)?;
            read.overrides.push(Override {
                variable,
                key,
                value,
            });
        }
        Ok(read)
    }
}

impl Override {
    /// Puts the value where the key stands. Headings on the way are made; what stands there
    /// is known to fit, since the file was accepted before.
    pub fn apply(&self, table: &mut Table) {
        let mut here = table;
        let mut parts = self.key.path.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                here.insert(part.to_owned(), self.value.clone());
                return;
            }
            let next = here
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            match next {
                Value::Table(next) => here = next,
                _ => return,
            }
        }
    }
}

// The value may be a secret.
impl std::fmt::Debug for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Override")
            .field("variable", &self.variable)
            .finish_non_exhaustive()
    }
}

/// The name of the variable that sets `key`.
pub fn variable_of(key: &Key) -> String {
    let path = key.path.replace('.', "__");
    format!("{PREFIX}{}", path.to_ascii_uppercase())
}

// === helpers ===

fn value(key: &Key, variable: &str, text: &str) -> Result<Value, ConfigError> {
    let parsed = parse(text);
    Ok(match key.kind {
        Kind::Text | Kind::Secret => Value::String(text.to_owned()),
        Kind::Value => match parsed {
            Ok(value) if !value.is_str() => value,
            _ => Value::String(text.trim().to_owned()),
        },
        Kind::List => match parsed {
            Ok(array @ Value::Array(_)) => array,
            _ => text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect::<Vec<_>>()
                .into(),
        },
        // The text is not repeated: entries may hold what is nobody's business.
        Kind::Table => parsed.map_err(|why| ConfigError::Value {
            origin: Origin::Variable(variable.to_owned()),
            key: KeyPath::new(key.path, None),
            message: format!("this is not TOML: {why}; say for example {}", key.example),
        })?,
    })
}

fn parse(text: &str) -> Result<Value, String> {
    let mut table: Table =
        toml::from_str(&format!("value = {text}")).map_err(|err| err.message().to_owned())?;
    // A line break in the text could have smuggled in more keys than ours.
    match (table.remove("value"), table.is_empty()) {
        (Some(value), true) => Ok(value),
        _ => Err("more than one value".to_owned()),
    }
}

/// The variable of ours that is most like `variable`, and how much.
fn nearest(variable: &str) -> (f64, String) {
    let names = overridable()
        .map(variable_of)
        .chain(["PIERHEAD_CONFIG".to_owned()]);
    names
        .map(|name| (similarity(&name, &variable.to_ascii_uppercase()), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap_or_default()
}

/// A variable that is as like one of ours was meant to be it.
const MEANT: f64 = 0.8;

/// Kubernetes gives every pod variables for the services around it, and a service that is called
/// `pierhead` makes these begin like ours.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let port = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|n| n.parse::<u16>().is_ok())
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest == "PORT"
        || rest.strip_prefix("PORT_").is_some_and(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&str, &str)]) -> Result<Environment, ConfigError> {
        let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Environment::read(env)
    }

    fn set(name: &str, text: &str) -> Table {
        let mut table = Table::new();
        for one in read(&[(name, text)]).unwrap().overrides {
            one.apply(&mut table);
        }
        table
    }

    fn toml(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_only_begins_like_ours_is_somebody_elses_and_what_is_like_ours_was_meant() {
        let names = [
            "PIERHEAD_BIN",
            "PIERHEAD_PROXY_LOGIN",
            "PIERHEAD_ROBOT_PASSWORD",
        ];
        let env = names.map(|name| (name, "x"));
        let foreign = read(&env).unwrap().foreign;
        assert_eq!(foreign, ["PIERHEAD_BIN", "PIERHEAD_ROBOT_PASSWORD"]);
        for name in [
            "PIERHEAD_CACHE_MAX_SIZE",
            "PIERHEAD_CACHE__MAX_SISE",
            "PIERHEAD_A__B",
        ] {
            assert!(read(&[(name, "1")]).is_err(), "{name}");
        }
    }

    #[test]
    fn a_variable_is_a_number_where_it_can_be_and_else_a_text() {
        assert_eq!(
            set("PIERHEAD_CACHE__MAX_SIZE", "50GiB"),
            toml("cache.max_size = \"50GiB\"")
        );
        assert_eq!(
            set("PIERHEAD_CACHE__MAX_SIZE", "4096"),
            toml("cache.max_size = 4096")
        );
        assert_eq!(
            set("PIERHEAD_BUILTIN_REGISTRIES", "false"),
            toml("builtin_registries = false")
        );
        // A directory may be called by a year.
        assert_eq!(
            set("PIERHEAD_CACHE__DIR", "2024"),
            toml("cache.dir = \"2024\"")
        );
    }

    #[test]
    fn a_list_is_an_array_or_split_at_commas() {
        let expected = toml("upstream.allow_private = [\"10.0.0.0/8\", \"fd00::/8\"]");
        assert_eq!(
            set("PIERHEAD_UPSTREAM__ALLOW_PRIVATE", "10.0.0.0/8, fd00::/8"),
            expected
        );
        let array = "[\"10.0.0.0/8\", \"fd00::/8\"]";
        assert_eq!(set("PIERHEAD_UPSTREAM__ALLOW_PRIVATE", array), expected);
        assert_eq!(set("PIERHEAD_LISTEN__PROXY", ""), toml("listen.proxy = []"));
    }

    #[test]
    fn tables_and_their_lists_are_toml() {
        let text = "{ \"a.example\" = \"10.0.0.1\" }";
        let expected = toml("[upstream.resolve]\n\"a.example\" = \"10.0.0.1\"");
        assert_eq!(set("PIERHEAD_UPSTREAM__RESOLVE", text), expected);
        let expected = toml("[[registry]]\nhost = \"a\"");
        assert_eq!(set("PIERHEAD_REGISTRY", "[{ host = \"a\" }]"), expected);
        assert!(set("PIERHEAD_POLICY__RULE", "[]").contains_key("policy"));
    }

    #[test]
    fn a_broken_table_is_refused_without_repeating_it() {
        let error = read(&[("PIERHEAD_REGISTRY", "[{ username = hunter2")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(
                "environment variable PIERHEAD_REGISTRY: `registry`: this is not TOML"
            )
        );
        assert!(text.contains("say for example [{ host = "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn an_unknown_variable_is_led_to_the_nearest_one() {
        for (name, nearest) in [
            ("PIERHEAD_CACHE_MAX_SIZE", "PIERHEAD_CACHE__MAX_SIZE"),
            ("PIERHEAD_CACHE__MAX_SISE", "PIERHEAD_CACHE__MAX_SIZE"),
            ("PIERHEAD_CONFG", "PIERHEAD_CONFIG"),
            ("PIERHEAD_LOG_LEVEL", "PIERHEAD_LOG__LEVEL"),
        ] {
            let error = read(&[(name, "1")]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "environment variable {name} is no setting of pierhead; the nearest is {nearest}"
                )
            );
        }
        // An entry of a list has no name of its own.
        assert!(read(&[("PIERHEAD_REGISTRY__HOST", "a")]).is_err());
    }

    #[test]
    fn what_kubernetes_says_about_a_service_called_pierhead_is_no_setting() {
        let links = [
            ("PIERHEAD_SERVICE_HOST", "10.0.0.1"),
            ("PIERHEAD_SERVICE_PORT", "3128"),
            ("PIERHEAD_SERVICE_PORT_PROXY", "3128"),
            ("PIERHEAD_PORT", "tcp://10.0.0.1:3128"),
            ("PIERHEAD_PORT_3128_TCP", "tcp://10.0.0.1:3128"),
            ("PIERHEAD_PORT_3128_TCP_ADDR", "10.0.0.1"),
            ("HOME", "/"),
        ];
        assert!(read(&links).unwrap().overrides.is_empty());
    }

    #[test]
    fn the_file_can_be_named() {
        let env = read(&[("PIERHEAD_CONFIG", "/srv/p.toml")]).unwrap();
        assert_eq!(env.file, Some("/srv/p.toml".into()));
    }

    #[test]
    fn a_secret_override_does_not_show_itself() {
        let env = read(&[("PIERHEAD_UPSTREAM__PROXY", "http://u:hunter2@p")]).unwrap();
        assert!(!format!("{env:?}").contains("hunter2"));
    }
}
