//! What the connections between nodes count.
//!
//! Owns: the counters, their names and their help. Must never: decide anything.

use prometheus::{IntCounter, Registry};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $field:ident),+ $(,)?) => {
        /// Counts since the start of the process.
        #[derive(Debug)]
        pub struct PeerCounters {
            $($(#[doc = $help])+ pub $field: IntCounter,)+
        }

        impl Default for PeerCounters {
            fn default() -> Self {
                let counter = |name: &str, help: &str| {
                    IntCounter::new(format!("synod_peer_{name}_total"), help.trim()).expect("a valid name")
                };
                Self { $($field: counter(stringify!($field), concat!($($help),+)),)+ }
            }
        }

        impl PeerCounters {
            /// Lets the registry show every counter.
            ///
            /// # Errors
            /// The registry holds metrics of the same names.
            pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
                $(registry.register(Box::new(self.$field.clone()))?;)+
                Ok(())
            }
        }
    };
}

counters! {
    /// Frames handed to links.
    frames_sent,
    /// Messages handed to links.
    messages_sent,
    /// Bytes of encoded messages handed to links.
    bytes_sent,
    /// Messages dropped because their peer was not connected.
    dropped_unconnected,
    /// Messages dropped because their peer's queue was full.
    dropped_full,
    /// Frames received.
    frames_received,
    /// Messages received.
    messages_received,
    /// Messages dropped because the worker's queue was full.
    dropped_inbox,
    /// Links opened, outgoing.
    links_opened,
    /// Links ended for whatever reason, outgoing.
    links_ended,
    /// Links and pulses of others refused.
    refused,
    /// Incoming streams ended because they held garbage.
    garbage,
}

/// Adds to a counter.
pub(super) fn add(counter: &IntCounter, n: u64) {
    counter.inc_by(n);
}
