//! `pierhead serve`.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::{load, say};
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
        let sockets = Sockets::take()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let result = runtime.block_on(async {
            let app = App::build(config, sockets).await?;
            say(app.summary());
            app.run(queue).await
        });
        // What is left after the drain is cut here, not waited for.
        runtime.shutdown_background();
        result
    }
}
