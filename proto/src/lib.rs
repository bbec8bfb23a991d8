//! Synod's gRPC interface: the messages and services of `proto/*.proto`.
//!
//! Owns: the wire schema, errors as both sides read them, and the joining of maps that come in parts. Must never: hold other
//! logic; conversions live with those who convert.

pub mod errors;
pub mod parts;

/// The name of the metadata by which a call says which cluster it is meant for: 32 hexadecimal digits. A node of another cluster
/// refuses the call; one without it is taken. A node names its own in the answer to a session.
pub const CLUSTER: &str = "synod-cluster";

/// The name of the metadata by which a call says that it belongs to a command of an operator: a node keeps some connections for
/// these beyond those of clients. A call without it is a client's.
pub const OPERATOR: &str = "synod-operator";

/// The interface for clients and operators.
#[allow(missing_docs, clippy::all, reason = "generated code; the .proto files carry the documentation")]
pub mod v1 {
    tonic::include_proto!("synod.v1");
}

/// The interface between nodes.
#[allow(missing_docs, clippy::all, reason = "generated code; the .proto files carry the documentation")]
pub mod peer {
    tonic::include_proto!("synod.peer.v1");
}
