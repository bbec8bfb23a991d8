//! Snapshots between the nodes of a cluster: made, sent in parts and loaded at once, as far as the worker can tell.

use super::{Cluster, Seen};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{ClientId, NodeId, ShardId, Space};
use synod_engine::host::{SnapshotInput, SnapshotKind, SnapshotRequest};
use synod_engine::snapshot::partial::Partial;
use synod_engine::snapshot::{OsFiles, SnapshotFile, Throttle, file_name, install, writer};
use synod_engine::state::{BulkLoad, ViewJob};

pub const CLUSTER: ClientId = ClientId(77);

pub fn path(dir: &Path, shard: ShardId, kind: SnapshotKind) -> PathBuf {
    let dir = dir.join(if kind == SnapshotKind::Built { "built" } else { "fetched" });
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(file_name(shard))
}

pub fn build(dir: &Path, seen: Arc<Mutex<Seen>>, request: SnapshotRequest) -> ViewJob {
    let path = path(dir, request.shard, SnapshotKind::Built);
    Box::new(move |view| {
        let shard = request.shard;
        let built = writer::make(&OsFiles::shared(), &path, CLUSTER, request, view, &mut Throttle::new(0));
        let result = built.map(|_| ());
        seen.lock().unwrap().told.push(SnapshotInput::Built { shard, result }.into());
    })
}

pub fn load(dir: &Path, seen: &Mutex<Seen>, shard: ShardId, space: Space, loader: &dyn BulkLoad) {
    let file = SnapshotFile::open(&path(dir, shard, SnapshotKind::Fetched), Some(CLUSTER)).unwrap();
    let loaded = install::load(&file, space, loader, &mut Throttle::new(0)).unwrap();
    let result = loaded.map_err(|e| e.to_string());
    seen.lock().unwrap().told.push(SnapshotInput::Loaded { shard, space, result }.into());
}

impl Cluster {
    /// A snapshot that `from` offered arrives whole at `to`.
    pub fn fetch(&self, from: NodeId, to: NodeId, shard: ShardId) {
        let source = path(self.nodes[&from].snapshots.path(), shard, SnapshotKind::Built);
        let Ok(file) = SnapshotFile::open(&source, Some(CLUSTER)) else { return };
        if !self.is_up(to) {
            return;
        }
        let target = path(self.nodes[&to].snapshots.path(), shard, SnapshotKind::Fetched);
        let mut partial = Partial::open(&target, file.digest()).unwrap();
        while !partial.take(&file.part(partial.next_part()).unwrap()).unwrap() {}
        let fetched = partial.finish(CLUSTER, file.digest(), &mut Throttle::new(0)).unwrap();
        let told = SnapshotInput::Fetched(Box::new(fetched.header().clone()));
        self.nodes[&to].seen.lock().unwrap().told.push(told.into());
    }
}
