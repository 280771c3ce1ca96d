//! Does the broker come through whatever happens to it, for an hour, with every packet accounted for and nothing leaked?
//!
//! Policies change all the time while links go down, interfaces and the tool vanish, the disk is full, OVS restarts, the
//! clock steps and the daemon is killed, as a seed draws it. After each fault packets must flow and everything be in order
//! within a stated time; then all of it rests, and what senders, daemon and tool counted must be the same.
//!
//! A minute with each fault at least once; an hour with `SLUICE_LONG=1`, or `SLUICE_SOAK_SECONDS`. `SLUICE_SEED` repeats
//! the faults of another run. The report is printed and written to the file `SLUICE_REPORT`, else `soak-report.md` in the
//! folder `tmp` of the build.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::env;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::nest::Numbers;
use sluice_tests::netns::wait_for;
use sluice_tests::soak::churn::{self, Churn};
use sluice_tests::soak::clock::Clock;
use sluice_tests::soak::fault::{Fault, Kind, Schedule};
use sluice_tests::soak::leak::{Life, Point};
use sluice_tests::soak::look::Look;
use sluice_tests::soak::network::{Network, OUT, TAPS};
use sluice_tests::soak::now_us;
use sluice_tests::soak::report::{Done, Report};
use sluice_tests::soak::sender::Sender;
use sluice_tests::soak::tags::Tags;
use sluice_tests::soak::watch::Watch;
use sluice_tests::soak::witness::{Arrived, Witness};

/// Copies must come without a gap for so long to count as flowing.
const UNBROKEN: Duration = Duration::from_millis(150);
/// The daemon must tell of a fault within this time.
const TELL: Duration = Duration::from_secs(5);
/// What arrived at the tool must be told within this time after the last packet was sent.
const WITNESS: Duration = Duration::from_secs(8);
/// Packets must flow for the first time within this time: OVS takes its memory.
const START: Duration = Duration::from_secs(90);
/// So far off, in seconds, the daemon must tell of its clock: at one second it does, and how far it was slewed meanwhile is
/// not known here.
const STEP_S: f64 = 2.5;

/// What was counted at rest.
#[derive(Clone, Debug)]
struct Rest {
    look: Look,
    sent: Vec<u64>,
    arrived: Vec<Arrived>,
}

struct Soak {
    // Dropped in this order: whoever asks goes before what is asked.
    churn: Churn,
    watch: Watch,
    senders: Vec<Sender>,
    witness: Option<Witness>,
    daemon: Option<Daemon>,
    clock: Option<Clock>,
    network: Network,
    tags: Arc<Tags>,
    boot: String,
    report: Report,
    begun: Instant,
    life_begun: Instant,
    /// What the first packets, before the way was open, leave between sender and tool.
    start: Option<Rest>,
    /// How far the daemon's clock is before the one that it sees, in seconds: it jumps forward, but never back, and the
    /// rate is bent by half a thousandth, so that what it is ahead stays until it dies, or the other one overtakes it.
    ahead_s: f64,
    /// Whether it was found to be too far off after the last step.
    is_off: bool,
}

impl Soak {
    fn new(seed: u64, flush_s: u32) -> Option<Self> {
        let network = Network::new("soak", true)?;
        let clock = Clock::new(network.lab.dir());
        let tags = Arc::new(Tags::default());
        tags.asked(1, now_us());
        tags.acknowledged(1, now_us());
        let captures = network.disk.join("pcap");
        let mut soak = Self {
            churn: Churn::start(seed, &tags, &network.socket(), &captures, network.lab.dir()),
            watch: Watch::start(&network.broker),
            senders: network.senders(),
            witness: Some(network.witness()),
            daemon: None,
            clock,
            boot: network.boot(flush_s),
            network,
            tags,
            report: Report { seed, ..Report::default() },
            begun: Instant::now(),
            life_begun: Instant::now(),
            start: None,
            ahead_s: 0.0,
            is_off: false,
        };
        soak.churn.rest(true);
        soak.launch();
        soak.churn.rest(false);
        Some(soak)
    }

    /// Starts a daemon, which begins a life.
    fn launch(&mut self) {
        let mut command = self.network.broker.command("env");
        if let Some(clock) = &self.clock {
            clock.apply(&mut command);
        }
        command.arg(binary());
        let policy = churn::policy(1, &churn::file(&self.network.disk.join("pcap"), 0), 0);
        let daemon = Daemon::spawn(command, self.network.lab.dir(), &self.boot, &policy);
        // Longer than the report allows: it tells how long it took.
        let running = || daemon.log().contains("running;").then_some(());
        wait_for("the daemon to run", Duration::from_secs(60), running);
        self.life_begun = Instant::now();
        self.ahead_s = 0.0;
        self.report.lives.push(Life::default());
        self.watch.set(Some(daemon.pid()));
        self.daemon = Some(daemon);
    }

    /// Ends the test with a report.
    fn fail(&mut self, why: &str) -> ! {
        self.report.broken_off = Some(why.to_owned());
        panic!("{why}");
    }

    fn look(&mut self) -> Look {
        let pid = self.daemon.as_ref().unwrap().pid();
        let broker = &self.network.broker;
        wait_for("metrics", Duration::from_secs(10), || Look::at(broker, pid))
    }

    fn arrived(&self) -> Vec<Arrived> {
        let arrived = self.witness.as_ref().unwrap().arrived();
        (0_u8..).take(self.senders.len()).map(|at| arrived.get(&at).copied().unwrap_or_default()).collect()
    }

    /// Since when all streams have come without a gap, if they do, and not before `end_us`; microseconds since the epoch.
    fn flowing_since(&self, end_us: u64) -> Option<u64> {
        let unbroken_us = u64::try_from(UNBROKEN.as_micros()).unwrap();
        let since = |stream: &Arrived| {
            let since_us = stream.unbroken_us.max(end_us);
            let goes =
                stream.latest_us >= since_us + unbroken_us && stream.latest_us + 2 * unbroken_us > now_us();
            goes.then_some(since_us)
        };
        let all: Option<Vec<_>> = self.arrived().iter().map(since).collect();
        all?.into_iter().max()
    }

    /// Waits until packets flow and everything is in order, for this long; says how long either took.
    fn recover(
        &mut self,
        what: &str,
        (end, end_us): (Instant, u64),
        limit: Duration,
        ordered: impl Fn(&Look) -> bool,
    ) -> [Duration; 2] {
        let mut in_order = None;
        loop {
            let look = self.look();
            let calm = look.state == "running" && look.exceptions.is_empty() && ordered(&look);
            in_order = calm.then(|| in_order.unwrap_or_else(|| end.elapsed()));
            let flowing = self.flowing_since(end_us);
            if let (Some(since_us), Some(in_order)) = (flowing, in_order) {
                return [Duration::from_micros(since_us - end_us), in_order];
            }
            if end.elapsed() > limit {
                let streams = self.arrived();
                self.fail(&format!(
                    "{what}: not as before {} s later; flowing: {}, {streams:?}; {look:?}",
                    limit.as_secs(),
                    flowing.is_some()
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has everything rest, and holds what was counted against one another.
    fn rest(&mut self) -> Rest {
        self.senders.iter().for_each(|sender| sender.rest(true));
        self.churn.rest(true);
        let mut quiet = (self.witness.as_ref().unwrap().copies(), Instant::now());
        let begin = Instant::now();
        let look = loop {
            std::thread::sleep(Duration::from_millis(60));
            let (look, copies) = (self.look(), self.witness.as_ref().unwrap().copies());
            if copies != quiet.0 || look.held > 0 {
                quiet = (copies, Instant::now());
            }
            // On a busy machine tcpdump itself may pause for longer, with copies that it has not handed on.
            let is_told = || copies == self.network.taken_out() || begin.elapsed() > WITNESS;
            if quiet.1.elapsed() > Duration::from_millis(200) && is_told() {
                break look;
            }
            if begin.elapsed() > Duration::from_secs(10) {
                self.fail(&format!("it does not come to rest: {look:?}"));
            }
        };
        self.report.rests += 1;
        if let Some(fault) = look.fault() {
            self.fail(&fault);
        }
        let rest =
            Rest { look, sent: self.senders.iter().map(Sender::sent).collect(), arrived: self.arrived() };
        let (copies, taken_out) = (quiet.0, self.network.taken_out());
        if copies != taken_out {
            self.fail(&format!(
                "{copies} copies came to the tool, and its kernel took {taken_out} out of their tunnel"
            ));
        }
        self.check_all();
        let Look { rss_kb, fds, threads, mbufs, .. } = rest.look;
        let point = Point { age: self.life_begun.elapsed(), rss_kb, fds, threads, mbufs };
        let life = self.report.lives.last_mut().unwrap();
        life.points.push(point);
        if let Some(leak) = life.fault() {
            self.fail(&leak);
        }
        self.senders.iter().for_each(|sender| sender.rest(false));
        self.churn.rest(false);
        rest
    }

    /// What must never be.
    fn check_all(&mut self) {
        let witness = self.witness.as_ref().unwrap();
        let mut faults = witness.mistakes();
        faults.extend(witness.take_spans().iter().filter_map(|span| self.tags.fault(span)));
        faults.append(&mut self.watch.found().faults);
        faults.extend(self.churn.counts().faults);
        let log = self.daemon.as_ref().unwrap().log();
        faults.extend(log.lines().filter(|line| line.contains("panic")).map(str::to_owned));
        if let Some(fault) = faults.first() {
            self.fail(&format!("{fault} ({} in all)", faults.len()));
        }
    }

    /// A fault from begin to end, and until nothing of it is left.
    fn suffer(&mut self, fault: Fault, before: &Rest, calm: Duration) -> Rest {
        let begin = Instant::now();
        let clock_steps = self.look().clock_steps;
        self.begin(fault);
        let told = self.told(fault, begin, clock_steps);
        while begin.elapsed() < fault.lasts && fault.kind != Kind::Kill {
            self.go_on(fault);
            std::thread::sleep(Duration::from_millis(20));
        }
        let was = self.look();
        // What has to start again takes its time for it.
        let over = match fault.kind {
            Kind::Kill => (begin, now_us() - u64::try_from(begin.elapsed().as_micros()).unwrap()),
            _ => (Instant::now(), now_us()),
        };
        self.end(fault);
        let writes = matches!(fault.kind, Kind::DiskFull | Kind::ClockStep);
        let ordered = move |look: &Look| {
            let count = |look: &Look| look.sent.get("file").copied().unwrap_or(0);
            !writes || (look.rows_go && look.rows_written > was.rows_written && count(look) > count(&was))
        };
        let [flowing, in_order] = self.recover(&fault.to_string(), over, fault.kind.limit(), ordered);
        self.churn.may_refuse(false);
        std::thread::sleep(calm);
        let after = self.rest();
        let lost = self.compare(fault, before, &after);
        let show = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        eprintln!(
            "{:>7.1} s  {fault}: told {}, flowing {}, in order {}, {lost} lost",
            self.begun.elapsed().as_secs_f64(),
            told.map_or("-".to_owned(), show),
            show(flowing),
            show(in_order)
        );
        self.report.done.push(Done { fault, told, flowing, in_order, lost });
        after
    }

    fn begin(&mut self, fault: Fault) {
        let Network { broker, net, tool, .. } = &self.network;
        let ([va, pa, _], [out, inside]) = (TAPS[fault.tap], OUT);
        match fault.kind {
            Kind::CaptureLink if fault.here => broker.ip(format!("link set dev {va} down")),
            Kind::CaptureLink => net.ip(format!("link set dev {pa} down")),
            Kind::CaptureGone => broker.ip(format!("link del dev {va}")),
            Kind::OutputLink if fault.here => broker.ip(format!("link set dev {out} down")),
            Kind::OutputLink => tool.ip(format!("link set dev {inside} down")),
            Kind::ToolGone => tool.ip(format!("link del dev {inside}")),
            Kind::DiskFull => {
                self.churn.may_refuse(true);
                self.fill();
            }
            Kind::Kill => {
                self.watch.set(None);
                let daemon = self.daemon.take().unwrap();
                daemon.signal(Signal::KILL);
                let log = daemon.log();
                drop(daemon);
                if let Some(line) = log.lines().find(|line| line.contains("panic")) {
                    self.fail(line);
                }
                self.launch();
            }
            Kind::Ovs if fault.killed => self.network.ovs.as_mut().unwrap().kill(),
            Kind::Ovs => self.network.ovs.as_mut().unwrap().stop(),
            Kind::ClockStep => self.step_clock(fault.step_s),
        }
    }

    /// What has to be done while a fault lasts.
    fn go_on(&self, fault: Fault) {
        if fault.kind == Kind::DiskFull {
            self.fill();
        }
    }

    fn end(&mut self, fault: Fault) {
        let Network { broker, net, tool, .. } = &self.network;
        let ([va, pa, _], [out, inside]) = (TAPS[fault.tap], OUT);
        match fault.kind {
            Kind::CaptureLink if fault.here => broker.ip(format!("link set dev {va} up")),
            Kind::CaptureLink => net.ip(format!("link set dev {pa} up")),
            Kind::CaptureGone => self.network.connect_tap(fault.tap),
            Kind::OutputLink if fault.here => broker.ip(format!("link set dev {out} up")),
            Kind::OutputLink => tool.ip(format!("link set dev {inside} up")),
            Kind::ToolGone => self.network.connect_tool(),
            Kind::DiskFull => {
                std::fs::remove_file(self.ballast()).unwrap();
                // A capture file that failed takes nothing more: somebody names another one.
                self.churn.rotate();
            }
            Kind::Ovs => self.network.ovs.as_mut().unwrap().revive(),
            Kind::ClockStep if fault.back => self.step_clock(-fault.step_s),
            Kind::ClockStep | Kind::Kill => {}
        }
    }

    /// Steps the clock that the daemon sees.
    fn step_clock(&mut self, step_s: f64) {
        self.clock.as_mut().unwrap().step(step_s);
        let ahead_s = self.ahead_s - step_s;
        self.is_off = ahead_s.abs() > STEP_S;
        self.ahead_s = if self.is_off { ahead_s.max(0.0) } else { ahead_s };
    }

    fn ballast(&self) -> PathBuf {
        self.network.disk.join("ballast")
    }

    /// Takes all room of the disk.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 4 << 10] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Waits until the daemon tells of the fault; `None` = it does not have to.
    fn told(&mut self, fault: Fault, begin: Instant, clock_steps: u64) -> Option<Duration> {
        let wanted = fault.kind.exceptions();
        let steps = fault.kind == Kind::ClockStep && self.is_off;
        if wanted.is_empty() && !steps {
            return None;
        }
        loop {
            self.go_on(fault);
            let look = self.look();
            if wanted.iter().any(|code| look.exceptions.contains_key(*code))
                || steps && look.clock_steps > clock_steps
            {
                return Some(begin.elapsed());
            }
            if begin.elapsed() > TELL {
                self.fail(&format!("{fault}: the daemon tells nothing of it: {look:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Holds what was counted before and after a fault against one another; gives the packets that did not arrive.
    fn compare(&mut self, fault: Fault, before: &Rest, after: &Rest) -> u64 {
        let kind = fault.kind;
        let missing = |stream: usize| {
            let sent = after.sent[stream] - before.sent[stream];
            sent - (after.arrived[stream].copies - before.arrived[stream].copies)
        };
        let streams = 0..self.senders.len();
        let lost: u64 = streams.clone().map(missing).sum();
        let lost_by_taps: u64 = (0..TAPS.len()).map(missing).sum();
        let nothing = Look::default();
        // A new life counts from the beginning.
        let old = if kind == Kind::Kill { &nothing } else { &before.look };
        let told = after.look.told_lost() - old.told_lost();
        let mut wrong = Vec::new();
        if told > lost {
            wrong
                .push(format!("{told} packets were lost by the daemon's account, and {lost} did not arrive"));
        }
        // The switch has no account here: what it lost is between the two.
        if kind.is_inside() && lost_by_taps > told {
            wrong.push(format!(
                "{lost_by_taps} packets of taps did not arrive, and the daemon tells of {told}"
            ));
        }
        let sent = |look: &Look| look.sent.get("tool").copied().unwrap_or(0);
        let copies = |rest: &Rest| rest.arrived.iter().map(|stream| stream.copies).sum::<u64>();
        let (left, came) = (sent(&after.look) - sent(old), copies(after) - copies(before));
        if kind.spares_output() && left != came {
            wrong.push(format!("{left} copies left for the tool, and {came} came"));
        }
        if let Some(wrong) = wrong.first() {
            self.fail(&format!("{fault}: {wrong}: {before:?} {after:?}"));
        }
        self.note_losses(kind, old, &after.look, lost - told);
        lost
    }

    /// Adds to the report what was lost, by reason; `untold` where the daemon does not see it.
    fn note_losses(&mut self, kind: Kind, old: &Look, new: &Look, untold: u64) {
        let report = &mut self.report;
        let files = |look: &Look, reason: &str| {
            look.destination_drops.get("file").and_then(|drops| drops.get(reason)).copied().unwrap_or(0)
        };
        for (reason, count) in &new.drops {
            let file = files(new, reason) - files(old, reason);
            let all = count - old.drops.get(reason).copied().unwrap_or(0);
            if file > 0 {
                *report.file_losses.entry(reason.clone()).or_default() += file;
            }
            if all > file && reason != "no_policy" && reason != "not_capture_port" {
                *report.losses.entry(reason.clone()).or_default() += all - file;
            }
        }
        let before_rx = new.lost_before_rx - old.lost_before_rx;
        let elsewhere = format!("outside the daemon, {}", kind.name());
        for (reason, count) in [("lost_before_rx".to_owned(), before_rx), (elsewhere, untold)] {
            if count > 0 {
                *report.losses.entry(reason).or_default() += count;
            }
        }
        report.rows[0] += new.rows_written - old.rows_written;
        report.rows[1] += new.rows_lost - old.rows_lost;
    }

    /// Adds to the report what was sent and what arrived.
    fn note_streams(&mut self) {
        let (Some(start), Some(_)) = (&self.start, &self.witness) else { return };
        let names = ["tap0", "tap1", "mirror of OVS"];
        let row = |(at, now): (usize, Arrived)| {
            let copies = now.copies - start.arrived[at].copies;
            (names[at].to_owned(), self.senders[at].sent() - start.sent[at], copies)
        };
        self.report.streams = self.arrived().into_iter().enumerate().map(row).collect();
    }

    /// Ends the daemon in order, and tcpdump.
    fn finish(&mut self) {
        self.senders.iter().for_each(|sender| sender.rest(true));
        self.churn.rest(true);
        self.watch.set(None);
        std::thread::sleep(Duration::from_millis(500));
        self.note_streams();
        let rows_lost = self.look().rows_lost;
        let (status, summary) = self.daemon.take().unwrap().end();
        if status.success() != (rows_lost == 0) {
            self.fail(&format!("{status} after {rows_lost} lost rows: {}", summary.text));
        }
        let words = self.witness.take().unwrap().stop();
        if !words.contains("\n0 packets dropped by kernel") {
            self.fail(&format!("tcpdump did not see everything: {words}"));
        }
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            self.note_streams();
            self.report.broken_off.get_or_insert_with(|| "see the message of the test".to_owned());
        }
        let report = &mut self.report;
        (report.lasted, report.changes, report.looks) =
            (self.begun.elapsed(), self.churn.counts(), self.watch.looks());
        let text = report.text();
        eprintln!("\n{text}");
        let made = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("soak-report.md");
        let path = env::var_os("SLUICE_REPORT").map_or(made, PathBuf::from);
        match std::fs::write(&path, text) {
            Ok(()) => eprintln!("report: {}", path.display()),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                assert!(panicking, "the report cannot be written");
            }
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

#[test]
fn it_comes_through_whatever_happens() {
    let long = env::var_os("SLUICE_LONG").is_some();
    let seconds = number("SLUICE_SOAK_SECONDS").unwrap_or(if long { 3600 } else { 60 });
    let seed = number("SLUICE_SEED").unwrap_or_else(|| now_us() / 1_000_000);
    eprintln!("soak of {seconds} s, SLUICE_SEED={seed}");
    let flush_s = if seconds > 300 { 5 } else { 2 };
    let Some(mut soak) = Soak::new(seed, flush_s) else { return };
    let mut kinds = Kind::ALL.to_vec();
    if soak.network.ovs.is_none() {
        kinds.retain(|kind| *kind != Kind::Ovs);
        soak.report.left_out.push("OVS-DPDK cannot be had here.".to_owned());
    }
    if soak.clock.is_none() {
        kinds.retain(|kind| *kind != Kind::ClockStep);
        soak.report.left_out.push("steps of the clock: libfaketime is not installed.".to_owned());
    }
    let (mut schedule, mut pauses) = (Schedule::new(seed, &kinds), Numbers::new(seed ^ 0xca1));
    soak.recover("the start", (Instant::now(), now_us()), START, |_| true);
    let mut rest = soak.rest();
    soak.start = Some(rest.clone());
    soak.begun = Instant::now();
    let length = Duration::from_secs(seconds);
    while soak.begun.elapsed() < length || !schedule.is_complete() {
        // One daemon lives for a third of the time, to show what it leaks.
        let third = soak.begun.elapsed().as_secs() * 3 / seconds.max(1);
        let spare = seconds > 300 && third == 1 && schedule.is_complete();
        let fault = schedule.next(spare);
        let calm = Duration::from_millis(200 + pauses.below(if seconds > 300 { 4000 } else { 800 }) as u64);
        rest = soak.suffer(fault, &rest, calm);
    }
    soak.finish();
}
