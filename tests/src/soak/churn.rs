//! Policies that change all the time, by the command line: others in force, wrong ones refused, earlier ones again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::network::TOOL;
use super::now_us;
use super::tags::Tags;
use crate::nest::Numbers;
use crate::netns::wait_for;
use crate::sluiced::cli;

/// Earlier generations that are gone back to.
const EARLIER: usize = 5;
/// The exit codes of `sluice`: done, refused, not reached, no such generation.
const DONE: i32 = 0;
const REFUSED: i32 = 1;
const NOT_REACHED: i32 = 3;
const NO_SUCH: i32 = 5;

/// What became of the changes.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// New sets in force.
    pub applied: u64,
    /// Earlier sets in force again.
    pub rolled_back: u64,
    /// Wrong sets, refused.
    pub wrong: u64,
    /// Right sets, refused: the disk was full.
    pub not_kept: u64,
    /// Changes while there was no daemon, or that it did not live to answer.
    pub not_reached: u64,
    /// What must not be.
    pub faults: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    rest: AtomicBool,
    rests: AtomicBool,
    /// The next set shall have another capture file.
    rotate: AtomicBool,
    /// Right sets may be refused now.
    may_refuse: AtomicBool,
    counts: Mutex<Counts>,
}

/// Who changes them; ended when dropped.
#[derive(Debug)]
pub struct Churn {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The policies with a tag; all that senders send goes to the tool and into a file.
#[must_use]
pub fn policy(tag: u32, file: &Path, extras: usize) -> String {
    let mut text = format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{TOOL}\"\n\
         [[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"{}\"\n\
         [[policy]]\nname = \"all\"\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\", \"file\"]\n",
        file.display()
    );
    // Nothing is TCP: these only make the tables others.
    for extra in 0..extras {
        text.extend([format!(
            "[[policy]]\nname = \"extra-{extra}\"\nprotocol = \"tcp\"\ncollect = {{ ports = \"{}-{}\" }}\ntag = 1\n\
             to = [\"tool\"]\n",
            1000 + 7 * extra,
            1003 + 11 * extra
        )]);
    }
    text
}

impl Churn {
    /// Begins. Tag 1 and the first file of `folder` are in force; `socket` is where the daemon is, `work` a folder for
    /// files of ours.
    pub fn start(seed: u64, tags: &Arc<Tags>, socket: &Path, folder: &Path, work: &Path) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            rotate: AtomicBool::new(false),
            may_refuse: AtomicBool::new(false),
            counts: Mutex::default(),
        });
        let mut churner = Churner {
            numbers: Numbers::new(seed ^ 0xc4a7),
            tags: Arc::clone(tags),
            server: format!("unix:{}", socket.display()),
            file: work.join("churn.toml"),
            captures: folder.to_owned(),
            capture: file(folder, 0),
            made: 0,
            tag: 1,
            earlier: Vec::new(),
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::spawn(move || churner.run());
        Self { shared, thread: Some(thread) }
    }

    /// Has it rest, or go on. While it rests, nothing is asked for.
    pub fn rest(&self, rest: bool) {
        self.shared.rest.store(rest, Ordering::Relaxed);
        if rest {
            let rests = || self.shared.rests.load(Ordering::Relaxed).then_some(());
            wait_for("the last change", Duration::from_secs(70), rests);
        }
    }

    /// The next set gets another capture file: one that failed takes nothing more.
    pub fn rotate(&self) {
        self.shared.rotate.store(true, Ordering::Relaxed);
    }

    /// Whether sets may be refused that are right: they cannot be kept.
    pub fn may_refuse(&self, may: bool) {
        self.shared.may_refuse.store(may, Ordering::Relaxed);
    }

    /// What became of the changes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        counts(&self.shared).clone()
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn counts(shared: &Shared) -> MutexGuard<'_, Counts> {
    shared.counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A capture file.
#[must_use]
pub fn file(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("copies-{number}.pcap"))
}

struct Churner {
    numbers: Numbers,
    tags: Arc<Tags>,
    server: String,
    file: PathBuf,
    captures: PathBuf,
    /// The capture file of the set in force.
    capture: PathBuf,
    /// Files named so far.
    made: u32,
    /// The latest tag.
    tag: u32,
    /// Generations that were in force, with tag and file.
    earlier: Vec<(u64, u32, PathBuf)>,
    shared: Arc<Shared>,
}

impl Churner {
    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            while self.shared.rest.load(Ordering::Relaxed) && !self.shared.stop.load(Ordering::Relaxed) {
                self.shared.rests.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
            self.shared.rests.store(false, Ordering::Relaxed);
            match self.numbers.below(12) {
                0 => self.wrong(),
                1 if !self.earlier.is_empty() => self.roll_back(),
                _ => self.apply(),
            }
            std::thread::sleep(Duration::from_millis(100 + self.numbers.below(400) as u64));
        }
    }

    /// A new set, with a tag that never was.
    fn apply(&mut self) {
        self.tag += 1;
        if self.shared.rotate.swap(false, Ordering::Relaxed) || self.numbers.below(6) == 0 {
            self.made += 1;
        }
        let capture = file(&self.captures, self.made);
        let extras = self.numbers.below(20);
        std::fs::write(&self.file, policy(self.tag, &capture, extras)).unwrap();
        self.tags.asked(self.tag, now_us());
        let file = self.file.display().to_string();
        let answer = self.sluice(&["apply", "--json", "-f", &file]);
        if self.answered(answer, self.tag, &capture) {
            counts(&self.shared).applied += 1;
        }
    }

    fn roll_back(&mut self) {
        let (generation, tag, capture) = self.earlier[self.numbers.below(self.earlier.len())].clone();
        self.tags.asked(tag, now_us());
        let answer = self.sluice(&["rollback", "--json", &generation.to_string()]);
        if self.answered(answer, tag, &capture) {
            counts(&self.shared).rolled_back += 1;
        }
    }

    /// A set that must be refused.
    fn wrong(&mut self) {
        let right = policy(9_999_999, &self.capture, 0);
        let wrong = match self.numbers.below(3) {
            0 => right.replace("to = [\"tool\"", "to = [\"nobody\""),
            1 => right.replace("remote = \"192.0.2.10\"", "remote = \"2001:db8::10\""),
            _ => right.replace("/pcap/", "/"),
        };
        std::fs::write(&self.file, wrong).unwrap();
        let file = self.file.display().to_string();
        let (code, text) = self.sluice(&["apply", "--json", "-f", &file]);
        let mut counts = counts(&self.shared);
        match code {
            REFUSED => counts.wrong += 1,
            NOT_REACHED => counts.not_reached += 1,
            _ => counts.faults.push(format!("a wrong set: exit code {code}: {text}")),
        }
    }

    /// Notes what was answered; whether the set is in force.
    fn answered(&mut self, (code, text): (i32, String), tag: u32, capture: &Path) -> bool {
        let now_us = now_us();
        match code {
            DONE => {
                self.tags.acknowledged(tag, now_us);
                if self.capture != capture {
                    // Nobody writes it any more, whichever sets came in between.
                    self.remove_captures(capture);
                    capture.clone_into(&mut self.capture);
                }
                let generation =
                    serde_json::from_str::<Value>(&text).ok().and_then(|a| a["generation"].as_u64());
                self.earlier.extend(generation.map(|generation| (generation, tag, capture.to_owned())));
                if self.earlier.len() > EARLIER {
                    self.earlier.remove(0);
                }
                return true;
            }
            REFUSED if self.shared.may_refuse.load(Ordering::Relaxed) => {
                self.tags.refused(tag, now_us);
                counts(&self.shared).not_kept += 1;
            }
            // It was too late for an answer, but perhaps not for the change.
            NOT_REACHED => counts(&self.shared).not_reached += 1,
            // Killed before it was kept: it never was.
            NO_SUCH => {
                self.tags.refused(tag, now_us);
                self.earlier.clear();
            }
            _ => counts(&self.shared).faults.push(format!("tag {tag}: exit code {code}: {text}")),
        }
        false
    }

    fn remove_captures(&self, but: &Path) {
        for path in std::fs::read_dir(&self.captures).unwrap().map(|entry| entry.unwrap().path()) {
            if path != but {
                drop(std::fs::remove_file(path));
            }
        }
    }

    /// Exit code and words.
    fn sluice(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(cli());
        command.args(["--server", &self.server, "--timeout", "20s"]).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr);
        (
            output.status.code().unwrap_or(-1),
            if output.status.success() { text } else { format!("{text}{told}") },
        )
    }
}
