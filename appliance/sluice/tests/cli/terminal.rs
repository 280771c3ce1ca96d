//! Does `sluice top` work on a terminal, and give it back however it ends? The terminal is one of script(1).

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::mock::Mock;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// `sluice` on a terminal of its own; afterwards its exit code and the settings of the terminal are printed.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(mock: &Mock, size: &str, before: &str, arguments: &str) -> Self {
        let sluice = env!("CARGO_BIN_EXE_sluice");
        let line = format!(
            "stty {size}; {before} sh -c 'echo $$ > pid; exec {sluice} {arguments}'; echo code=$?; stty -a; echo over"
        );
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SLUICE_SERVER", mock.server())
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .current_dir(mock.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut piece) {
                copy.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { child, keys, output }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    fn wait(&self, what: &str) {
        let begin = Instant::now();
        while !self.text().contains(what) {
            assert!(begin.elapsed() < PATIENCE, "no {what:?} in {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for the end; the terminal must be as it was.
    fn ended(mut self, code: i32) -> String {
        self.wait("over");
        drop(self.keys);
        self.child.wait().unwrap();
        let text = String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned();
        let (screen, after) = text.split_once("code=").unwrap();
        assert!(after.starts_with(&format!("{code}\r\n")), "{text:?}");
        assert!(after.contains(" icanon") && after.contains(" echo "), "cooked again: {after}");
        let (enter, leave) =
            (screen.matches("\u{1b}[?1049h").count(), screen.matches("\u{1b}[?1049l").count());
        assert_eq!(enter, leave, "the first screen is back: {screen:?}");
        text
    }
}

#[test]
fn top_draws_and_gives_the_terminal_back() {
    let mock = Mock::start();
    for keys in [&b"q"[..], b"\x03", b"z\x1b[B?x s\tq"] {
        let mut terminal = Terminal::start(&mock, "rows 30 cols 120", "", "top -i 100ms");
        terminal.wait("worker0");
        terminal.press(keys);
        let text = terminal.ended(0);
        assert!(text.contains("\u{1b}[?1049h") && text.contains("\u{1b}[?25h"), "{text:?}");
        // The hostile name of a policy is shown as an escape.
        assert!(text.contains("evil\\u{1b}") && !text.contains("evil\u{1b}"), "{text:?}");
    }
}

#[test]
fn signals_end_top_in_order() {
    let mock = Mock::start();
    for signal in ["TERM", "HUP", "INT"] {
        let terminal = Terminal::start(&mock, "rows 30 cols 120", "", "top -i 100ms");
        terminal.wait("worker0");
        let pid = String::from_utf8(mock.read("pid")).unwrap();
        assert!(Command::new("kill").args(["-s", signal, pid.trim()]).status().unwrap().success());
        terminal.ended(0);
    }
}

#[test]
fn a_new_size_is_drawn_at_once() {
    let mock = Mock::start();
    let before = "(sleep 1; stty rows 40 cols 130 < /dev/tty) &";
    let mut terminal = Terminal::start(&mock, "rows 12 cols 60", before, "top -i 1h");
    // Small, there is room for one table only.
    terminal.wait("policies");
    assert!(!terminal.text().contains("worker0"));
    terminal.wait("worker0");
    terminal.press(b"q");
    terminal.ended(0);
}

#[test]
fn top_waits_for_a_daemon_that_went() {
    let mock = Mock::start();
    let mut terminal = Terminal::start(&mock, "rows 30 cols 120", "", "top -i 100ms");
    terminal.wait("worker0");
    mock.leave();
    terminal.wait("trying");
    terminal.press(b"q");
    terminal.ended(0);
    // Before there is a screen, it is told as by all commands.
    let terminal = Terminal::start(&mock, "rows 30 cols 120", "", "top");
    assert!(terminal.ended(3).contains("sluice: error"));
}

#[test]
fn packets_are_not_for_terminals() {
    let mock = Mock::start();
    for arguments in ["capture", "capture -w -"] {
        let text = Terminal::start(&mock, "rows 30 cols 120", "", arguments).ended(2);
        assert!(text.contains("packets are not for terminals") && !text.contains("section"), "{text:?}");
    }
}

#[test]
fn terminals_have_colours_unless_nobody_wants_them() {
    let mock = Mock::start();
    let red = "\u{1b}[31mexception\u{1b}[0m";
    assert!(Terminal::start(&mock, "rows 30 cols 120", "", "status").ended(0).contains(red));
    for (before, arguments) in
        [("NO_COLOR=1", "status"), ("TERM=dumb", "status"), ("", "status --color never")]
    {
        assert!(!Terminal::start(&mock, "rows 30 cols 120", before, arguments).ended(0).contains(red));
    }
}
