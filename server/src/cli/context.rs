//! What every command shares: where the cluster is, how long to wait, and where output goes.
//!
//! Owns the way from global flags to a connected client, and from the client's errors to the command line's. Must never
//! hide a typed field of an error.

use std::io::Write;
use std::time::Duration;

use clap::{ArgAction, Args};
use synod_client::limits::{CEILING_MAX_VALUE_BYTES, MAX_DEADLINE_S};
use synod_client::{Client, Error, Options};
use synod_cluster::system::CLUSTER_VERSION;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::error::{CliError, Exit, Result};
use super::escape;
use super::output::{Format, Out};

/// The most bytes any cluster can be set to take in one write; each cluster's own limit is checked by its nodes.
const WRITE_BYTES_CEILING: usize = 32 << 20;

/// Times without an answer after which the endpoints are checked: twice, to give a restarting node time.
const REFUSED_LOOKS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(700)];

/// Where `synod dev` listens unless told otherwise.
const DEFAULT_ENDPOINTS: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

/// Heading of the flags every command has.
const COMMON: &str = "Common options";

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Nodes to ask first, HOST:PORT separated by commas; any node answers for the whole cluster
    #[arg(long, global = true, env = "SYNOD_ENDPOINTS", value_name = "LIST", value_delimiter = ',')]
    #[arg(default_value = DEFAULT_ENDPOINTS, action = ArgAction::Set, hide_env_values = true, help_heading = COMMON)]
    pub endpoints: Vec<String>,
    /// How results are printed: `text` for people, `json` for programs
    #[arg(short, long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    #[arg(help_heading = COMMON, hide_possible_values = true)]
    pub output: Format,
    /// How long one call may take, such as 500ms, 10s or 2m, at most 9m [default: 10s, load and bench 1m]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = COMMON)]
    pub timeout: Option<Duration>,
}

/// Shared by all commands.
#[derive(Debug)]
pub struct Context {
    /// Standard output.
    pub out: Out,
    endpoints: Vec<String>,
    timeout: Option<Duration>,
    operator: bool,
}

impl Context {
    /// From the global flags, for a command of an operator or one that uses the cluster.
    pub fn new(global: Global, operator: bool) -> Result<Self> {
        let endpoints: Vec<String> =
            global.endpoints.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
        if endpoints.is_empty() {
            return Err(CliError::usage("--endpoints", "names no address; write HOST:PORT[,HOST:PORT…]"));
        }
        let longest = Duration::from_secs(MAX_DEADLINE_S - 60);
        if let Some(timeout) = global.timeout
            && (timeout.is_zero() || timeout > longest)
        {
            let why = format!("must be more than 0 and at most {}", humantime::format_duration(longest));
            return Err(CliError::usage("--timeout", why));
        }
        Ok(Self { out: Out::new(global.output), endpoints, timeout: global.timeout, operator })
    }

    /// Options for a client whose calls take at most `--timeout`, or this long where the flag is not given.
    pub fn options(&self, default_timeout: Duration) -> Options {
        let mut options = Options {
            call_timeout: self.timeout.unwrap_or(default_timeout),
            operator: self.operator,
            ..Options::default()
        };
        // The nodes' settings decide, and their refusal names the knob; the client refuses what no setting allows.
        options.limits.max_value_bytes = CEILING_MAX_VALUE_BYTES;
        options.limits.max_batch_bytes = WRITE_BYTES_CEILING;
        options
    }

    /// What `--timeout` says, where it is given.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Says on standard error how far a long command has come, where people read the output.
    pub fn progress(&self, line: &str) {
        if !self.out.json() {
            // Progress that nobody can read is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{}", escape::harmless(line));
        }
    }

    /// Says on standard error what a command that goes on meets with: a line, or an object with the one field.
    pub fn note(&self, name: &str, what: impl Into<serde_json::Value>) {
        let what = what.into();
        if self.out.json() {
            let note = serde_json::json!({ name: what });
            // What nobody can read is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{}", escape::json(&note).unwrap_or_default());
        } else {
            self.progress(what.as_str().unwrap_or_default());
        }
    }

    /// Connects with these options. Where nothing listens at any endpoint this is not tried for as long as a call may take.
    pub async fn connect_with(&self, options: Options) -> Result<Client> {
        tokio::select! {
            connected = Client::connect(self.endpoints.iter().cloned(), options) => {
                connected.map_err(|error| match error {
                    Error::Unavailable { why } => self.unavailable(why),
                    other => CliError::from(other),
                })
            }
            why = self.refused() => Err(self.unavailable(why)),
        }
    }

    fn unavailable(&self, why: String) -> CliError {
        let error = CliError::failed("unavailable", format!("{why} (--endpoints or SYNOD_ENDPOINTS says where)"));
        error.with("why", why).with("endpoints", self.endpoints.clone()).with("knob", "--endpoints").retryable()
    }

    /// Resolves once nobody listened at any endpoint, twice; says where.
    async fn refused(&self) -> String {
        let mut last = String::new();
        for look in REFUSED_LOOKS {
            sleep(look).await;
            for endpoint in &self.endpoints {
                let addr = endpoint.rsplit_once("://").map_or(endpoint.as_str(), |(_, addr)| addr);
                match TcpStream::connect(addr.trim_end_matches('/')).await {
                    Err(error) if is_final(&error) => last = format!("{addr}: {error}"),
                    _ => return std::future::pending().await,
                }
            }
        }
        format!("nothing listens at {} ({last})", self.endpoints.join(", "))
    }

    /// Connects with the default of 10 seconds a call.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_with(self.options(Duration::from_secs(10))).await
    }
}

/// Whether the connection was refused or the name does not resolve: the standard library has no kind for the latter.
fn is_final(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused || error.to_string().contains("lookup address information")
}

/// The error of a change; where nobody knows its outcome, with the way to find out.
pub fn to_be_repeated(error: Error, how: &str) -> CliError {
    let error = CliError::from(error);
    if error.exit() == Exit::Unknown { error.followed_by(how) } else { error }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        let base = Self::failed(error.code(), error.to_string());
        let base = if error.retryable() { base.retryable() } else { base };
        match error {
            Error::TableNotFound { table } | Error::TableExists { table } => base.with("table", table),
            Error::ExpectationFailed { actual, op_index } => {
                base.with("actual", actual).with("op_index", op_index).exiting(Exit::Expectation)
            }
            Error::Trimmed { key, first } => base.with_bytes("key", "key_base64", &key).with("first", first),
            Error::TooLarge { what, limit, knob } => base.with("what", what).with("limit", limit).with("knob", knob),
            Error::Overloaded { retry_after, why } => {
                base.with("why", why).with("retry_after_ms", u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX))
            }
            Error::OutcomeUnknown { cause } => base.with("cause", cause).exiting(Exit::Unknown),
            Error::Quarantined { why } => base.with("why", why),
            // No argument is wrong: the cluster, or a node of it, is too old for the call.
            Error::InvalidArgument { field, why } if field == CLUSTER_VERSION => {
                Self::failed(CLUSTER_VERSION, &why).with("why", why)
            }
            Error::InvalidArgument { field, why } => base.with("field", field).with("why", why).exiting(Exit::Usage),
            Error::JobNotFound { job } => base.with("job", job),
            Error::JobConflict { job, why } => base.with("job", job).with("why", why),
            Error::WrongEpoch { current, expected } => base.with("current", current).with("expected", expected),
            Error::Unavailable { why } => base.with("why", why),
            _ => base,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_fields_and_have_their_exit_codes() {
        let failed = CliError::from(Error::ExpectationFailed { actual: 7, op_index: 0 });
        assert_eq!(failed.exit(), Exit::Expectation);
        assert!(failed.render(true).unwrap().contains("\"actual\":7"));
        let unknown = CliError::from(Error::OutcomeUnknown { cause: "timeout".into() });
        assert_eq!((unknown.exit(), unknown.kind()), (Exit::Unknown, "outcome_unknown"));
        let large = CliError::from(Error::TooLarge { what: "value".into(), limit: 8, knob: "limits.x".into() });
        let shown = large.render(true).unwrap();
        assert!(shown.contains("\"limit\":8") && shown.contains("\"knob\":\"limits.x\""), "{shown}");
        assert_eq!(large.exit(), Exit::Failed);
        let old = CliError::from(Error::invalid(CLUSTER_VERSION, "node 2 speaks versions up to 1"));
        assert_eq!((old.exit(), old.kind()), (Exit::Failed, CLUSTER_VERSION));
        assert!(!old.is_retryable() && old.message() == "node 2 speaks versions up to 1", "{old}");
    }
}
