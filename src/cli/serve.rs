//! `pierhead serve`.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::warn;

use super::{load, print};
use crate::app::App;
use crate::app::service::Sockets;
use crate::config::LogFormat;
use crate::telemetry::{log, spans};

/// Run the gateway.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "serve")]
pub struct Serve {
    /// configuration file (default: ./pierhead.toml, else /etc/pierhead/pierhead.toml, else the
    /// built-in defaults)
    #[argh(option)]
    config: Option<PathBuf>,
}
// === impl Serve ===

impl Serve {
    pub fn run(self) -> anyhow::Result<()> {
        let config = load(self.config.as_deref())?;
        let (spans, queue) = match config.log.otlp {
            Some(_) => {
                let (spans, queue) = spans::channel();
                (Some(spans), Some(queue))
            }
            None => (None, None),
        };
        let _log = log::init(
            config.log.format == LogFormat::Json,
            config.log.level.as_str(),
            spans,
        );
        if let Err(error) = no_core_dumps() {
            warn!(%error, "a crash may leave a core dump, with passwords in it");
        }
        let sockets = Sockets::take()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let result = runtime.block_on(async {
            let app = App::build(config, sockets).await?;
            let summary = app.summary().to_owned();
            // Who reads it may be stuck; clients do not wait for that.
            let saying = std::thread::Builder::new().spawn(move || {
                if let Err(error) = print(&summary) {
                    warn!(%error, "the summary cannot be written to standard output");
                }
            });
            if let Err(error) = saying {
                warn!(%error, "no thread for the summary");
            }
            app.run(queue).await
        });
        // What is left after the drain is cut here, not waited for.
        runtime.shutdown_background();
        result
    }
}

/// The memory holds logins and tokens, and a core dump is a file that somebody sends to somebody.
fn no_core_dumps() -> rustix::io::Result<()> {
    // For what it starts as well: a credential helper holds a login, too.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    // A collector at the end of a pipe (core_pattern) takes dumps whatever the limit says. This also
    // keeps other processes of the same user from reading the memory (ptrace).
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_of_the_memory_can_be_dumped() {
        use rustix::process::{DumpableBehavior, dumpable_behavior, getrlimit};

        no_core_dumps().unwrap();
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
