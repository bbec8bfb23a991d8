//! The machine of the system shard: the cluster's metadata.
//!
//! Owns: its rows, and its commands on their way to `synod_cluster::system`. Must never: execute a command of a version that
//! this binary does not speak, or pass over one.

use super::{Applied, Machine, ShardState, Turn};
use crate::StoreError;
use crate::codec::Damage as _;
use crate::codec::keys;
use crate::command::Outcome;
use crate::genesis::READABLE;
use crate::state::StateStore;
use bytes::Bytes;
use std::ops::ControlFlow;
use synod_cluster::buf::DecodeError;
use synod_cluster::ids::Space;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{MetadataError, RowChange, SystemCommand, SystemState, row_kinds};

impl ShardState {
    /// Refused in any other shard, and where the command makes no sense.
    pub(super) fn execute_system(&mut self, turn: &mut Turn<'_>, command: Bytes) -> Result<Applied, StoreError> {
        let Machine::System(system) = &mut self.machine else {
            return Ok(Err(Refusal::WrongShard));
        };
        let command = match SystemCommand::decode(command) {
            Ok(command) => command,
            // Others speak that version and carry it out: this replica cannot follow them.
            Err(error @ MetadataError::TooNew(_)) => {
                return Err(error.corrupt(format!("slot {} of the system shard", self.applied)));
            }
            Err(error) => return Ok(Err(Refusal::Invalid { field: "command", why: error.to_string() })),
        };
        let (outcome, changes) = system.execute(&command);
        if !changes.is_empty() {
            turn.effects.metadata = Some(system.revision);
        }
        turn.batch.rows.extend(changes.into_iter().map(|change| row(self.space, change)));
        Ok(Ok(Outcome::System(outcome.encode())))
    }
}

/// The row of the store that a row of the metadata is.
pub(super) fn row(space: Space, (kind, id, row): RowChange) -> (Vec<u8>, Option<Bytes>) {
    (keys::system(space, kind, &id.to_be_bytes()), row)
}

/// The metadata that the rows of a space say.
pub(super) fn load(store: &mut dyn StateStore, space: Space) -> Result<SystemState, StoreError> {
    let mut rows = Vec::new();
    for kind in row_kinds() {
        let (from, to) = keys::system_bounds(space, kind);
        store.scan(&from, &to, false, &mut |row, value| {
            rows.push((Bytes::copy_from_slice(row), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
    }
    let parse = |(row, value): (Bytes, Bytes)| {
        let (_, kind, id) = keys::parse_system(&row)?;
        let bad = DecodeError { what: "id of a metadata row", at: 0 };
        let id = <[u8; 8]>::try_from(&id[..]).map_err(|_| bad)?;
        Ok((kind, u64::from_be_bytes(id), value))
    };
    let rows: Result<Vec<_>, DecodeError> = rows.into_iter().map(parse).collect();
    let state = rows.map_err(MetadataError::from).and_then(|rows| SystemState::from_rows_for(rows, READABLE));
    state.map_err(|e| e.corrupt("metadata rows of the system shard"))
}
