//! `pierhead check`: the configuration, read and explained.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use argh::{ArgsInfo, FromArgs};
use http::HeaderValue;

use super::asked;
use super::online::online;
use super::{Misused, load, policy, say};
use crate::app::{self, Parent, Unusable};
use crate::config::Config;
use crate::oci::name::ImageName;
use crate::policy::{AddressGuard, Policy, Target, explain};
use crate::tls::{Authority, CaError, Front};
use crate::users::{self, Users};
use crate::warm::Platforms;

/// Read the configuration, and explain what would happen to a host.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// the address of the client that asks (default: 127.0.0.1)
    #[argh(option)]
    client: Option<IpAddr>,
    /// the user it asks as, of policy.users_file (default: none)
    #[argh(option)]
    user: Option<String>,
    /// ask the registry itself as well: is it there, what does it want, is the gateway's own login good
    #[argh(switch)]
    online: bool,
    /// what is asked for: HOST, HOST:PORT, an image or a URL
    #[argh(positional)]
    host: Option<String>,
}
// === impl Check ===

impl Check {
    pub fn run(self) -> anyhow::Result<()> {
        let args = &self;
        let config = load(args.config.as_deref())?;
        let policy = policy(&config);
        // What the configuration names must be there and good, as for `serve`; nothing is made.
        let beyond = app::beyond(&config, &policy)?;
        let nobody = HeaderValue::from_static("1.1 pierhead");
        let parent = app::parent(&config, &beyond.tls, nobody)?;
        ca(&config, &policy)?;
        match &config.listen.tls {
            Some((certificate, key)) => {
                Front::given(certificate, key).map_err(Unusable::new)?;
            }
            None if config.listen.proxy_tls.is_empty() => {}
            None => drop(app::front_names(&config)?),
        }
        let read = |key, file: &Option<PathBuf>| {
            Users::open(key, file.as_deref(), Arc::default()).map_err(Unusable::new)
        };
        let users = read(users::PROXY, &config.users_file)?;
        read(users::ADMIN, &config.admin_users_file)?;
        // `serve` would do without these, and go on saying so. Who checks need not be who serves.
        let (perhaps, missing): (Vec<_>, Vec<_>) = app::missing_logins(&config)
            .into_iter()
            .partition(|login| login.perhaps);
        let missing = missing.into_iter().map(|login| login.error);
        let unanswered = app::unanswered(&config, &policy);
        if let Some(first) = missing.chain(unanswered).next() {
            return Err(first.into());
        }
        if args.host.is_none() && args.user.is_some() {
            return Err(Misused("--user explains a HOST; name one".to_owned()).into());
        }
        if args.host.is_none() && args.online {
            return Err(Misused("--online asks a HOST; name one".to_owned()).into());
        }
        let mut text = String::from("The configuration is good.\n");
        let strangers = app::strangers(&config, |user| users.knows(user));
        for warning in config
            .warnings
            .iter()
            .chain(&beyond.warnings)
            .chain(&strangers)
        {
            text.push_str(&format!("Note: {warning}\n"));
        }
        for login in &perhaps {
            text.push_str(&format!("Note: {}\n", login.error));
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
        let mut to_mend = None;
        match &args.host {
            None => {
                text.push_str("\nIntercepted and cached:\n");
                for registry in policy.registries() {
                    let hosts: Vec<&str> =
                        registry.hosts.iter().map(|host| host.as_str()).collect();
                    text.push_str(&format!("  {:<28} {}\n", registry.name, hosts.join(", ")));
                }
                text.push_str(&format!("\n{}\n", downloads(&config)));
                text.push_str(&prefetched(&config, &policy, None));
                text.push_str(&admin(&config));
                text.push_str(
                    "\nAsk about one host: pierhead check HOST[:PORT] --client ADDRESS\nOn a client machine: pierhead doctor\n",
                );
            }
            Some(host) => {
                let (target, read) = asked::target(&policy, host)?;
                text.push('\n');
                text.push_str(&read);
                text.push_str(&explained(
                    &config,
                    &policy,
                    &users,
                    parent.as_ref(),
                    &target,
                    args,
                ));
                if args.online {
                    let user = args.user.as_deref().filter(|_| users.asked());
                    let (said, failed) = online(&config, &policy, &target, args.client(), user)?;
                    text.push_str(&said);
                    to_mend = failed.then_some(target);
                }
            }
        }
        say(&text);
        match to_mend {
            None => Ok(()),
            Some(target) => anyhow::bail!("{target} does not answer as it should; see above"),
        }
    }

    fn client(&self) -> IpAddr {
        self.client.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]))
    }
}

/// The CA as it is on disk, where it would stop a start.
fn ca(config: &Config, policy: &Policy) -> anyhow::Result<()> {
    match (
        Authority::open(&app::ca_config(config, policy)),
        &config.ca.certificate,
    ) {
        (Ok(_), _) => Ok(()),
        (Err(e), Some(_)) => Err(Unusable::new(e).into()),
        // The first start makes what is not there yet, and who checks need not be who may read the key.
        (
            Err(CaError::Absent { .. } | CaError::CertificateMissing { .. } | CaError::Io { .. }),
            None,
        ) => Ok(()),
        (Err(e), None) => Err(e.into()),
    }
}

/// How blobs come from upstream.
fn downloads(config: &Config) -> String {
    let connections = match config.upstream.parallel {
        1 => "one connection".to_owned(),
        several => format!("up to {several} connections where one is slow"),
    };
    let starts = match config.upstream.lookahead {
        true => "starts its layers' download",
        false => "starts no download",
    };
    format!("A large blob comes over {connections}; a manifest that passes {starts}.")
}

/// The images of `[[prefetch]]`, of one registry or of all.
fn prefetched(config: &Config, policy: &Policy, registry: Option<&str>) -> String {
    let mut text = String::new();
    for entry in &config.prefetch {
        let of = |image: &&ImageName| {
            registry.is_none_or(|wanted| {
                let found = policy.registry_for(&image.registry, None);
                found.is_some_and(|found| found.name == wanted)
            })
        };
        let images: Vec<String> = entry
            .images
            .iter()
            .filter(of)
            .map(ImageName::to_string)
            .collect();
        if images.is_empty() {
            continue;
        }
        let platforms = match &entry.platforms {
            Platforms::All => "all platforms".to_owned(),
            Platforms::Only(some) => {
                let some: Vec<String> = some.iter().map(ToString::to_string).collect();
                some.join(", ")
            }
        };
        let every = humantime::format_duration(entry.interval);
        text.push_str(&match registry {
            Some(_) => format!(
                "{:<12} {} every {every}, {platforms}\n",
                "prefetched",
                images.join(", ")
            ),
            None => format!("  {}  every {every}, {platforms}\n", images.join(", ")),
        });
    }
    match (registry, text.is_empty()) {
        (None, false) => format!("\nPulled before anybody asks:\n{text}"),
        _ => text,
    }
}

/// Who may look at the admin listener, and who may change something.
fn admin(config: &Config) -> String {
    let who = match (&config.admin_users_file, config.listen.admin) {
        (_, None) => return "\nThere is no admin listener: no page, no API, no metrics; commands wait until no gateway runs.\n".to_owned(),
        (Some(file), Some(_)) => format!("its users are those of {}", file.display()),
        (None, Some(address)) if address.ip().is_loopback() => "whoever is on this machine may look and change".to_owned(),
        (None, Some(_)) => "whoever reaches it may look, and who is on this machine may change; admin.users_file asks for a login".to_owned(),
    };
    let address = config
        .listen
        .admin
        .map(|address| address.to_string())
        .unwrap_or_default();
    format!("\nThe page and the API at http://{address}: {who}.\n")
}

/// What would happen to `target`, and at which addresses.
fn explained(
    config: &Config,
    policy: &Policy,
    users: &Users,
    parent: Option<&Parent>,
    target: &Target,
    args: &Check,
) -> String {
    let mut text = String::new();
    let guard = AddressGuard::new(config.upstream.allow_private.clone());
    let client = args.client();
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
    text.push_str(&explain(policy, &guard, target, client, user));
    let registry = policy.registry_for(target.host.as_str(), Some(target.port));
    let files = registry
        .as_ref()
        .and_then(|one| app::registry_tls(config, policy, &one.name));
    if let Some(file) = files.and_then(|files| files.ca_file.as_ref()) {
        let file = file.display();
        text.push_str(&format!("{:<12} {file}, beside the others\n", "roots"));
    }
    if let Some((certificate, _)) = files.and_then(|files| files.client.as_ref()) {
        let file = certificate.display();
        text.push_str(&format!(
            "{:<12} {file}, if the registry asks for one\n",
            "shown to it"
        ));
    }
    if let Some(registry) = &registry {
        text.push_str(&prefetched(config, policy, Some(&registry.name)));
    }
    let name = target.host.to_string();
    if target.host.ip().is_some() {
        return text;
    }
    if let Some(parent) = parent.filter(|parent| parent.leads_to(&target.host)) {
        text.push_str(&format!(
            "{:<12} resolved by the parent proxy {}\n",
            "address",
            parent.place()
        ));
        return text;
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
                return text;
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
    text
}
