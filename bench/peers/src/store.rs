//! The file of measured cells: one line of JSON each, so that a run that ends early has lost nothing.
//!
//! Owns: appending to it and reading it again. Must never: rewrite a line.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::measure::{End, Measured};
use crate::plan::Cell;
use crate::systems::System;
use crate::{PeersError, Result};

/// The cells measured so far.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    cells: Vec<Measured>,
}

impl Store {
    /// Opens the file; what it holds is kept if the run is resumed, else set aside.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path, resume: bool) -> Result<Store> {
        let io = |error: &std::io::Error| PeersError::io(path.display(), error);
        let mut cells = Vec::new();
        if resume {
            // A line cut short by the end of an earlier run counts as not measured.
            let text = fs::read_to_string(path).unwrap_or_default();
            cells = text.lines().filter_map(|line| serde_json::from_str::<Measured>(line).ok()).collect();
        } else if path.exists() {
            fs::rename(path, path.with_extension("jsonl.old")).map_err(|error| io(&error))?;
        }
        let mut file = File::options().create(true).append(true).open(path).map_err(|error| io(&error))?;
        if resume && fs::read(path).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n')) {
            writeln!(file).map_err(|error| io(&error))?;
        }
        Ok(Store { path: path.into(), file, cells })
    }

    /// Keeps a cell.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, measured: Measured) -> Result<()> {
        let line = serde_json::to_string(&measured).map_err(|error| PeersError::io(self.path.display(), &error))?;
        writeln!(self.file, "{line}").map_err(|error| PeersError::io(self.path.display(), &error))?;
        // The later one of two of the same cell counts.
        self.cells.retain(|c| (c.system, c.repeat, &c.cell) != (measured.system, measured.repeat, &measured.cell));
        self.cells.push(measured);
        Ok(())
    }

    /// A cell that ended in order.
    #[must_use]
    pub fn done(&self, system: System, repeat: u32, cell: &Cell) -> Option<&Measured> {
        self.cells
            .iter()
            .rev()
            .find(|c| c.system == system && c.repeat == repeat && c.cell == *cell && c.end == End::Done)
    }

    /// All cells.
    #[must_use]
    pub fn cells(&self) -> &[Measured] {
        &self.cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(repeat: u32, end: End) -> Measured {
        Measured { system: System::Etcd, cell: Cell::closed("put", 64, 256), repeat, end, figures: None }
    }

    #[test]
    fn a_resumed_run_knows_what_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cells.jsonl");
        let mut store = Store::open(&path, false).unwrap();
        store.add(measured(1, End::Done)).unwrap();
        store.add(measured(2, End::Partial { why: "killed".into() })).unwrap();
        drop(store);
        // As a run that was killed while it wrote leaves it.
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "{{\"system\":\"et").unwrap();
        let mut store = Store::open(&path, true).unwrap();
        let cell = Cell::closed("put", 64, 256);
        assert!(store.done(System::Etcd, 1, &cell).is_some());
        assert!(store.done(System::Etcd, 2, &cell).is_none() && store.done(System::Redis, 1, &cell).is_none());
        assert_eq!(store.cells().len(), 2);
        store.add(measured(2, End::Done)).unwrap();
        assert_eq!(store.cells().len(), 2);
        assert!(Store::open(&path, true).unwrap().done(System::Etcd, 2, &cell).is_some());
        assert!(Store::open(&path, false).unwrap().cells().is_empty());
    }
}
