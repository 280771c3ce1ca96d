//! How many records are on their way to the sink?
//!
//! A caller that hands records to the thread of the sink counts them here, so that a killed run loses none of them
//! uncounted: their number is a line of the journal as soon as a sink is there.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use super::journal::{Slot, note};

/// Records that wait for the sink, for any thread.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    records: usize,
    /// Where they are noted.
    line: Option<(File, Slot)>,
}

impl Waiting {
    /// So many records set out. To be called before they can arrive.
    pub fn set_out(&self, records: usize) {
        self.change(|waiting| waiting.saturating_add(records));
    }

    /// So many records arrived: the sink took them, or they were counted as lost.
    pub fn arrived(&self, records: usize) {
        self.change(|waiting| waiting.saturating_sub(records));
    }

    /// From now on they are noted there.
    pub(crate) fn note_at(&self, file: File, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).line = Some((file, slot));
        self.change(|waiting| waiting);
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.records = change(state.records);
        if let Some((file, slot)) = &state.line {
            // When the journal cannot be written, the sink finds out with its own lines, and tells.
            drop(note(file, *slot, state.records, std::path::Path::new("-")));
        }
    }
}
