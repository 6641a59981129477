//! pierhead(1), in the man macros of roff(7).

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::{Entry, short};
use crate::telemetry::build;

/// The whole page. It has no date: two builds of one commit are the same.
pub fn man(root: &CommandInfoWithArgs) -> String {
    let mut page = format!(
        ".TH PIERHEAD 1 \"\" \"pierhead {}\" \"User Commands\"\n.SH NAME\npierhead \\- {}\n.SH SYNOPSIS\n",
        build::VERSION,
        escaped(&short(root.description)),
    );
    let entries = Entry::all(root);
    // What has commands of its own does nothing without one of them.
    let runnable = || entries.iter().filter(|one| one.info.commands.is_empty());
    for (at, entry) in runnable().enumerate() {
        if at > 0 {
            page.push_str(".br\n");
        }
        page.push_str(&format!("{}\n", synopsis(entry)));
    }
    page.push_str(".SH OPTIONS\n");
    page.push_str(&options(root));
    page.push_str(".SH COMMANDS\n");
    for entry in runnable() {
        page.push_str(&format!(
            ".SS {}\n{}\n",
            escaped(&entry.words()),
            paragraph(entry.info.description)
        ));
        let positionals = entry.info.positionals.iter().filter(|one| !one.hidden);
        for positional in positionals {
            page.push_str(&format!(
                ".TP\n\\fI{}\\fR\n{}\n",
                escaped(&positional.name.to_uppercase()),
                paragraph(positional.description)
            ));
        }
        page.push_str(&options(entry.info));
    }
    page.push_str(REST);
    page
}

fn synopsis(entry: &Entry<'_>) -> String {
    let mut line = format!("\\fBpierhead {}\\fR", escaped(&entry.words()));
    if entry.flags().any(|flag| flag.long != "--help") {
        line.push_str(" [\\fIOPTION\\fR...]");
    }
    for positional in entry.info.positionals.iter().filter(|one| !one.hidden) {
        let name = format!("\\fI{}\\fR", escaped(&positional.name.to_uppercase()));
        line.push_str(&match positional.optionality {
            Optionality::Required => format!(" {name}"),
            Optionality::Optional => format!(" [{name}]"),
            Optionality::Repeating | Optionality::Greedy => format!(" [{name}...]"),
        });
    }
    line
}

fn options(info: &CommandInfoWithArgs) -> String {
    let mut text = String::new();
    for flag in info.flags.iter().filter(|flag| !flag.hidden) {
        text.push_str(&format!(
            ".TP\n{}\n{}\n",
            option(flag),
            paragraph(flag.description)
        ));
    }
    text
}

fn option(flag: &FlagInfo<'_>) -> String {
    let mut line = String::new();
    if let Some(letter) = flag.short {
        line.push_str(&format!("\\fB\\-{letter}\\fR, "));
    }
    line.push_str(&format!("\\fB{}\\fR", escaped(flag.long)));
    if let FlagInfoKind::Option { arg_name } = &flag.kind {
        let value = escaped(&arg_name.to_uppercase());
        line.push_str(&format!(" \\fI{value}\\fR"));
    }
    line
}

/// Text on lines of its own, which must not begin as a request of roff does.
fn paragraph(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = escaped(&words.join(" "));
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

const REST: &str = r#".SH EXIT STATUS
.TP
\fB0\fR
It is done.
.TP
\fB1\fR
It failed; standard error says why.
.TP
\fB2\fR
The command line means nothing.
.TP
\fB78\fR
The configuration is bad; standard error names the key and its line.
.SH ENVIRONMENT
.TP
\fBPIERHEAD_CONFIG\fR
The configuration file, where \fB\-\-config\fR names none.
.TP
\fBPIERHEAD_\fISECTION\fB__\fIKEY\fR
A key of the configuration, over the file: \fBPIERHEAD_CACHE__MAX_SIZE=100GiB\fR.
.TP
\fBPIERHEAD_GATEWAY\fR
The admin address of the gateway that \fBpull\fR, \fBcache\fR, \fBexport\fR and \fBimport\fR talk to, where
\fB\-\-gateway\fR names none: \fBhttp://\fR[\fINAME\fB:\fIPASSWORD\fB@\fR]\fIHOST\fB:\fIPORT\fR.
.TP
\fBPIERHEAD_LOGIN\fR
\fINAME\fB:\fIPASSWORD\fR of that gateway's \fBadmin.users_file\fR.
.TP
\fBHTTPS_PROXY\fR, \fBNO_PROXY\fR, \fBSSL_CERT_FILE\fR
What \fBdoctor\fR takes for the shell's own settings.
.TP
\fBNOTIFY_SOCKET\fR, \fBWATCHDOG_USEC\fR, \fBLISTEN_FDS\fR, \fBLISTEN_FDNAMES\fR
The service manager's, see \fBsd_notify\fR(3) and \fBsd_listen_fds\fR(3). Sockets are named
\fBproxy\fR, \fBproxy_tls\fR or \fBadmin\fR, and come in the place of the configured addresses.
.SH FILES
.TP
\fI./pierhead.toml\fR, \fI/etc/pierhead/pierhead.toml\fR
The configuration: the first that is there, else built\-in defaults. Every key has one.
.TP
\fIcache.dir\fB/admin.token\fR
How commands on this machine reach the gateway that has the directory: who may read it may change everything.
.SH SIGNALS
\fBSIGTERM\fR and \fBSIGINT\fR drain: no new connections, and what runs may finish within
\fBlimits.drain\fR. A second one cuts it.
"#;
