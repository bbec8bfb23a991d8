//! Synod's gRPC interface: the messages and services of `proto/*.proto`.
//!
//! Owns: the wire schema. Must never: hold logic; conversions live with those who convert.

#![allow(missing_docs, clippy::all, reason = "generated code; the .proto files carry the documentation")]

/// The interface for clients and operators.
pub mod v1 {
    tonic::include_proto!("synod.v1");
}

/// The interface between nodes.
pub mod peer {
    tonic::include_proto!("synod.peer.v1");
}
