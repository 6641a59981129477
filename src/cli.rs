//! The command line: what was typed, and the one thing to do about it.

use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use argh::FromArgs;
use http::HeaderValue;

use crate::app::{self, App, Parent, Unusable};
use crate::config::{Config, ConfigError, LogFormat};
use crate::policy::{AddressGuard, Policy, Target, explain};
use crate::telemetry::log;
use crate::tls::{self, Authority, Front};
use crate::users::Users;

/// A forward HTTP(S) proxy that caches what container registries serve.
#[derive(FromArgs, Debug)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Serve(Serve),
    Check(Check),
    Ca(Ca),
}

/// Run the gateway.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "serve")]
struct Serve {
    /// configuration file (default: ./pierhead.toml, else /etc/pierhead/pierhead.toml, else the
    /// built-in defaults)
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Read the configuration, and explain what would happen to a host.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
struct Check {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// the address of the client that asks (default: 127.0.0.1)
    #[argh(option)]
    client: Option<IpAddr>,
    /// the user it asks as, of policy.users_file (default: none)
    #[argh(option)]
    user: Option<String>,
    /// HOST or HOST:PORT that is asked for
    #[argh(positional)]
    host: Option<String>,
}

/// Show, make or renew the certificate authority.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "ca")]
struct Ca {
    #[argh(subcommand)]
    command: CaCommand,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum CaCommand {
    Show(CaShow),
    Init(CaInit),
    Renew(CaRenew),
}

/// Show the CA: its fingerprint, its life, and the names it may sign for.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "show")]
struct CaShow {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Make the CA, if there is none yet. An existing key is never overwritten.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "init")]
struct CaInit {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Issue the CA's certificate anew, with the same key and new dates. Clients need the new file.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "renew")]
struct CaRenew {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Runs the command line `args` (with the program's name first) and answers the exit code: 0, 1
/// failed, 2 usage, 78 bad configuration.
pub fn run(args: &[String]) -> ExitCode {
    if args
        .get(1)
        .is_some_and(|arg| arg == "--version" || arg == "-V")
    {
        return say(&format!("pierhead {}\n", env!("CARGO_PKG_VERSION")));
    }
    // `--config=FILE` is `--config FILE`.
    let words: Vec<&str> = args
        .iter()
        .skip(1)
        .flat_map(|word| match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => vec![option, value],
            _ => vec![word.as_str()],
        })
        .collect();
    let args = match Args::from_args(&["pierhead"], &words) {
        Ok(args) => args,
        Err(exit) => {
            return match exit.status {
                Ok(()) => say(&exit.output),
                Err(()) => {
                    complain(exit.output.trim_end());
                    ExitCode::from(USAGE)
                }
            };
        }
    };
    let result = match args.command {
        Command::Serve(args) => serve(args.config.as_deref()),
        Command::Check(args) => check(&args),
        Command::Ca(args) => match args.command {
            CaCommand::Show(args) => ca_show(args.config.as_deref()),
            CaCommand::Init(args) => ca_init(args.config.as_deref()),
            CaCommand::Renew(args) => ca_renew(args.config.as_deref()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("pierhead: {}", told(&e)));
            if e.is::<ConfigError>() || e.is::<Unusable>() {
                ExitCode::from(BAD_CONFIG)
            } else if e.is::<Misused>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn serve(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    log::init(
        config.log.format == LogFormat::Json,
        config.log.level.as_str(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let app = App::build(config).await?;
        say(app.summary());
        app.run().await
    });
    // What is left after the drain is cut here, not waited for.
    runtime.shutdown_background();
    result
}

fn check(args: &Check) -> anyhow::Result<()> {
    let config = load(args.config.as_deref())?;
    let policy = policy(&config);
    // What the configuration names must be there and good, as for `serve`; nothing is made.
    let (client_tls, warnings) =
        tls::client_config(config.upstream.ca_file.as_deref()).map_err(Unusable::new)?;
    let nobody = HeaderValue::from_static("1.1 pierhead");
    let parent = app::parent(&config, &client_tls, nobody)?;
    if config.ca.certificate.is_some() {
        Authority::open(&app::ca_config(&config, &policy)).map_err(Unusable::new)?;
    }
    if let Some((certificate, key)) = &config.listen.tls {
        Front::given(certificate, key).map_err(Unusable::new)?;
    }
    let users = Users::open(config.users_file.as_deref(), Arc::default()).map_err(Unusable::new)?;
    if args.host.is_none() && args.user.is_some() {
        return Err(Misused("--user explains a HOST; name one".to_owned()).into());
    }
    let mut text = String::from("The configuration is good.\n");
    let strangers = app::strangers(&config, &users);
    for warning in config.warnings.iter().chain(&warnings).chain(&strangers) {
        text.push_str(&format!("Note: {warning}\n"));
    }
    if let Some(parent) = &parent {
        text.push_str(&format!(
            "\nEverything beyond is reached through the parent proxy {}",
            parent.place()
        ));
        match &config.upstream.parent {
            Some(parent) if !parent.no_proxy.is_empty() => {
                text.push_str(&format!(", but for {}\n", parent.no_proxy.join(", ")));
            }
            _ => text.push('\n'),
        }
    }
    match &args.host {
        None => {
            text.push_str("\nIntercepted and cached:\n");
            for registry in policy.registries() {
                let hosts: Vec<&str> = registry.hosts.iter().map(|host| host.as_str()).collect();
                text.push_str(&format!("  {:<28} {}\n", registry.name, hosts.join(", ")));
            }
            text.push_str("\nAsk about one host: pierhead check HOST[:PORT] --client ADDRESS\n");
        }
        Some(host) => text.push_str(&explained(
            &config,
            &policy,
            &users,
            parent.as_ref(),
            host,
            args,
        )?),
    }
    say(&text);
    Ok(())
}

/// What would happen to `asked`, and at which addresses.
fn explained(
    config: &Config,
    policy: &Policy,
    users: &Users,
    parent: Option<&Parent>,
    asked: &str,
    args: &Check,
) -> anyhow::Result<String> {
    let (host, default) = match asked.strip_prefix("http://") {
        Some(rest) => (rest.trim_end_matches('/'), 80),
        None => (
            asked.trim_start_matches("https://").trim_end_matches('/'),
            443,
        ),
    };
    let mut target: Target = host
        .parse()
        .or_else(|e| format!("{host}:{default}").parse().map_err(|_| e))
        .map_err(|e| Misused(format!("{asked}: {e}")))?;
    let mut text = String::from("\n");
    if let Some(registry) = policy.registry_for(target.host.as_str(), None)
        && !registry.serves(&target.host)
        && let Some(first) = registry.hosts.iter().find_map(|pattern| pattern.exact())
    {
        text.push_str(&format!("{} is asked at {first}\n", target.host));
        target = Target::new(first, target.port);
    }
    let guard = AddressGuard::new(config.upstream.allow_private.clone());
    let client = args.client.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]));
    let user = args.user.as_deref();
    let told = match user {
        None if users.asked() => {
            "Without a user it is answered 407: policy.users_file is set. For one of its users: --user NAME.\n"
        }
        Some(_) if !users.asked() => {
            "Nobody is asked for a name: policy.users_file is not set. --user changes nothing.\n"
        }
        Some(user) if !users.knows(user) => {
            "policy.users_file has no such user: it is answered 407. Were it there:\n"
        }
        _ => "",
    };
    text.push_str(told);
    let user = user.filter(|_| users.asked());
    text.push_str(&explain(policy, &guard, &target, client, user));
    let name = target.host.to_string();
    if target.host.ip().is_some() {
        return Ok(text);
    }
    if let Some(parent) = parent.filter(|parent| parent.leads_to(&target.host)) {
        text.push_str(&format!(
            "{:<12} resolved by the parent proxy {}\n",
            "address",
            parent.place()
        ));
        return Ok(text);
    }
    let fixed = config
        .upstream
        .resolve
        .get(&target.to_string())
        .or_else(|| config.upstream.resolve.get(&name));
    let addresses: Vec<IpAddr> = match fixed {
        Some((address, _)) => vec![*address],
        None => match (name.as_str(), target.port).to_socket_addrs() {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(e) => {
                text.push_str(&format!(
                    "{:<12} {name} does not resolve here: {e}\n",
                    "address"
                ));
                return Ok(text);
            }
        },
    };
    for address in addresses {
        let verdict = match guard.check(address) {
            Ok(()) => "may be dialled".to_owned(),
            Err(refused) => format!(
                "is not dialled: it is {}; upstream.allow_private = [\"{address}\"] would allow it",
                refused.kind
            ),
        };
        text.push_str(&format!("{:<12} {address} {verdict}\n", "address"));
    }
    Ok(text)
}

fn ca_show(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let (authority, notices) = Authority::open(&app::ca_config(&config, &policy(&config)))?;
    say(&authority.describe());
    for notice in notices {
        complain(&notice.to_string());
    }
    Ok(())
}

fn ca_init(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let (authority, notices) = app::authority(&config, &policy(&config))?;
    for notice in notices {
        complain(&notice.to_string());
    }
    say(&authority.describe());
    Ok(())
}

fn ca_renew(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let policy = policy(&config);
    // There must be something to renew.
    Authority::open(&app::ca_config(&config, &policy))?;
    let (authority, notices) = app::authority(&config, &policy)?;
    for notice in notices {
        complain(&notice.to_string());
    }
    let renewed = authority.renew()?;
    say(&renewed.describe());
    complain(
        "The key is the same: clients that trust the old certificate go on until it ends. Restart the gateway and give clients the new ca.crt.",
    );
    Ok(())
}

/// An error and its causes, where a cause says what the error has not said already.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// An argument that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misused(String);

fn policy(config: &Config) -> Policy {
    Policy::new(
        config.policy.clone(),
        config.registries.clone(),
        config.builtin_registries,
    )
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    // Only ours: what others put into the environment need not be text.
    let ours = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with("PIERHEAD_")
            .then(|| (name, value.to_string_lossy().into_owned()))
    });
    Config::load(file, ours)
}

/// Prints to standard output; a reader that has gone is no error.
fn say(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

const USAGE: u8 = 2;
/// `EX_CONFIG` of sysexits.
const BAD_CONFIG: u8 = 78;
