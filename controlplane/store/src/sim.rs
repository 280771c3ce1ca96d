//! A disk in memory that fails, or stops, at any operation.
//!
//! It tells what was written from what is there for good: a crash of the process keeps all that was written, a power cut
//! keeps what was synchronised, and of the rest any part, in any order.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};

/// What happens at an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process is gone: this and all further operations do nothing.
    Stop,
    /// This operation fails, the next one works.
    Once(i32),
    /// This operation and all later ones fail.
    Always(i32),
}

/// A fault at the `at`th operation from now on, 0 = the next. If that writes bytes, `partial` of them are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) at: usize,
    pub(crate) partial: usize,
    pub(crate) fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// The names that are there for good.
    durable: BTreeMap<String, usize>,
    /// What was done to names since.
    pending: Vec<Operation>,
    plan: Option<Plan>,
    count: usize,
    stopped: bool,
    /// Bytes of the longest write so far.
    longest: usize,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: bool,
}

#[derive(Clone, Debug)]
enum Operation {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what happens next.
    pub(crate) fn plan(&self, plan: Option<Plan>) {
        let mut state = self.state();
        (state.plan, state.count) = (plan, 0);
    }

    /// Operations since the last plan.
    pub(crate) fn count(&self) -> usize {
        self.state().count
    }

    pub(crate) fn longest(&self) -> usize {
        self.state().longest
    }

    /// Whether a fault stopped the process.
    pub(crate) fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// The disk as a new process finds it.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        state.stopped = false;
        state.plan = None;
    }

    /// The disk as it is after a power cut; `luck` decides about everything that was not synchronised.
    pub(crate) fn power_cut(&self, mut luck: u64) {
        let mut state = self.state();
        let mut next = move || {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            luck >> 33
        };
        let mut names = state.durable.clone();
        for operation in std::mem::take(&mut state.pending) {
            if next() % 2 == 0 {
                apply(&mut names, &operation);
            }
        }
        for content in state.files.iter_mut().filter(|content| !content.synced) {
            let end = usize::try_from(next()).unwrap() % (content.bytes.len() + 1);
            match next() % 3 {
                0 => content.bytes.truncate(end),
                // The length is there, and the blocks are not.
                1 => content.bytes[end..].fill(0),
                _ => {}
            }
            content.synced = true;
        }
        state.durable.clone_from(&names);
        state.names = names;
        state.stopped = false;
        state.plan = None;
    }

    /// Replaces the content of a file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        state.files.push(Content { bytes: bytes.to_vec(), synced: true });
        let file = state.files.len() - 1;
        state.names.insert(name.into(), file);
        state.durable.insert(name.into(), file);
    }

    /// The content of a file.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|file| state.files[*file].bytes.clone())
    }
}

fn apply(names: &mut BTreeMap<String, usize>, operation: &Operation) {
    match operation {
        Operation::Link(name, file) => drop(names.insert(name.clone(), *file)),
        Operation::Rename(from, to, file) => {
            names.remove(from);
            names.insert(to.clone(), *file);
        }
        Operation::Unlink(name) => drop(names.remove(name)),
    }
}

impl State {
    /// Counts an operation. The error says that it does not happen, but for so many bytes.
    fn step(&mut self) -> Result<(), (usize, io::Error)> {
        let at = self.count;
        self.count += 1;
        let stopped = || io::Error::other("the process is gone");
        if self.stopped {
            return Err((0, stopped()));
        }
        let Some(plan) = self.plan else { return Ok(()) };
        match plan.fault {
            Fault::Stop if at == plan.at => {
                self.stopped = true;
                Err((plan.partial, stopped()))
            }
            Fault::Once(errno) if at == plan.at => Err((plan.partial, io::Error::from_raw_os_error(errno))),
            Fault::Always(errno) if at >= plan.at => {
                Err((if at == plan.at { plan.partial } else { 0 }, io::Error::from_raw_os_error(errno)))
            }
            _ => Ok(()),
        }
    }

    fn change(&mut self, operation: Operation) -> io::Result<()> {
        self.step().map_err(|(_, error)| error)?;
        apply(&mut self.names, &operation);
        self.pending.push(operation);
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let mut bytes = state.files[state.find(name)?].bytes.clone();
        bytes.truncate(usize::try_from(max_bytes).unwrap());
        Ok(bytes)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let file = state.files.len();
        state.change(Operation::Link(name.into(), file))?;
        state.files.push(Content::default());
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.find(from)?;
        state.change(Operation::Rename(from.into(), to.into(), file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(name)?;
        state.change(Operation::Unlink(name.into()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step().map_err(|(_, error)| error)?;
        state.durable = state.names.clone();
        state.pending.clear();
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.longest = state.longest.max(bytes.len());
        let result = state.step();
        let written = match &result {
            Ok(()) => bytes,
            Err((partial, _)) => &bytes[..bytes.len().min(*partial)],
        };
        let content = &mut state.files[self.file];
        content.bytes.extend_from_slice(written);
        content.synced = false;
        result.map_err(|(_, error)| error)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step().map_err(|(_, error)| error)?;
        state.files[self.file].synced = true;
        Ok(())
    }
}
