//! What the examples share: where the cluster is, and a table that may be there already.
//!
//! Owns: the set-up. Must never: do what an example is about.

use synod_client::{Client, Error, Options, Result, TableSpec};

/// Connects to the nodes given as arguments (`host:port`), else to those in `SYNOD_ENDPOINTS` (separated by commas), else to
/// those of `synod dev`. One node that answers is enough: it names the others.
pub async fn connect() -> Result<Client> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        let list = std::env::var("SYNOD_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402".into());
        endpoints = list.split(',').map(str::to_owned).collect();
    }
    Client::connect(endpoints, Options::default()).await
}

/// Makes a table unless it is there. Programs that start together may all call this.
pub async fn ensure_table(client: &Client, spec: TableSpec) -> Result<()> {
    match client.create_table(spec).await {
        Ok(_) | Err(Error::TableExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
