//! What is shown, and what do keys change?

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use sluice_api::v1;

use crate::failure::Failure;

use super::source::News;

/// The tables of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Ports,
    Workers,
    Policies,
    Destinations,
    Drops,
}

impl Section {
    pub(super) const ALL: [Self; 5] =
        [Self::Ports, Self::Workers, Self::Policies, Self::Destinations, Self::Drops];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Workers => "workers",
            Self::Policies => "policies",
            Self::Destinations => "destinations",
            Self::Drops => "drops",
        }
    }

    fn step(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|section| *section == self).unwrap_or(0);
        Self::ALL.get((at + by) % Self::ALL.len()).copied().unwrap_or(self)
    }
}

/// How a table is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// The column that orders it; 0 = by name, or as the daemon has it.
    pub(super) order: usize,
    /// Rows above the first one that is shown.
    pub(super) scroll: usize,
}

/// What a key asks for besides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Stay,
    Quit,
}

/// The whole state of the view.
pub(super) struct App {
    pub(super) color: bool,
    pub(super) focus: Section,
    /// Only the table in focus is shown.
    pub(super) zoomed: bool,
    pub(super) help: bool,
    pub(super) paused: bool,
    /// Sums since the start instead of rates.
    pub(super) totals: bool,
    /// What is wrong with the connection now.
    pub(super) trouble: Option<String>,
    pub(super) status: Option<v1::Status>,
    pub(super) before: Option<v1::Counters>,
    pub(super) after: Option<v1::Counters>,
    looks: [Look; 5],
}

impl App {
    pub(super) fn new(color: bool) -> Self {
        let by_rate = Look { order: 1, scroll: 0 };
        Self {
            color,
            focus: Section::Policies,
            zoomed: false,
            help: false,
            paused: false,
            totals: false,
            trouble: None,
            status: None,
            before: None,
            after: None,
            looks: [Look::default(), Look::default(), by_rate, by_rate, by_rate],
        }
    }

    /// Whether there are two samples to tell rates from.
    pub(super) fn has_rates(&self) -> bool {
        self.status.is_some() && self.before.is_some() && self.after.is_some()
    }

    /// Takes what came from the daemon.
    ///
    /// # Errors
    ///
    /// What makes it useless to go on.
    pub(super) fn take(&mut self, news: News) -> Result<(), Failure> {
        match news {
            News::Lost(failure, true) => return Err(failure),
            News::Lost(failure, false) => self.trouble = Some(failure.text),
            News::Status(status) => {
                self.trouble = None;
                if !self.paused {
                    self.status = Some(*status);
                }
            }
            News::Counters(counters) => {
                self.trouble = None;
                if !self.paused {
                    // A daemon that started anew counts anew.
                    let last = self.after.take();
                    self.before = last.filter(|last| last.since_ns == counters.since_ns);
                    self.after = Some(*counters);
                }
            }
        }
        Ok(())
    }

    pub(super) fn look(&mut self, section: Section) -> &mut Look {
        let [ports, workers, policies, destinations, drops] = &mut self.looks;
        match section {
            Section::Ports => ports,
            Section::Workers => workers,
            Section::Policies => policies,
            Section::Destinations => destinations,
            Section::Drops => drops,
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'C' | 'd')) { Wish::Quit } else { Wish::Stay };
        }
        if self.help {
            self.help = false;
            return if key.code == KeyCode::Char('q') { Wish::Quit } else { Wish::Stay };
        }
        let focus = self.focus;
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc if !self.zoomed => return Wish::Quit,
            KeyCode::Esc => self.zoomed = false,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('t') => self.totals = !self.totals,
            KeyCode::Char('z') | KeyCode::Enter => self.zoomed = !self.zoomed,
            KeyCode::Tab | KeyCode::Right => self.focus = focus.step(1),
            KeyCode::BackTab | KeyCode::Left => self.focus = focus.step(Section::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                let at = usize::try_from(u32::from(digit) - u32::from('1')).unwrap_or(0);
                self.focus = Section::ALL.get(at).copied().unwrap_or(focus);
            }
            // Which columns there are, drawing knows: it takes the rest of a division.
            KeyCode::Char('s') => self.look(focus).order += 1,
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|at| at.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|at| at.saturating_sub(1)),
            KeyCode::PageDown => self.scroll(|at| at.saturating_add(10)),
            KeyCode::PageUp => self.scroll(|at| at.saturating_sub(10)),
            KeyCode::Home | KeyCode::Char('g') => self.scroll(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.scroll(|_| usize::MAX),
            _ => {}
        }
        Wish::Stay
    }

    fn scroll(&mut self, to: impl Fn(usize) -> usize) {
        let look = self.look(self.focus);
        look.scroll = to(look.scroll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(app: &mut App, code: KeyCode) -> Wish {
        app.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut app = App::new(false);
        assert_eq!(press(&mut app, KeyCode::Tab), Wish::Stay);
        assert_eq!(app.focus, Section::Destinations);
        press(&mut app, KeyCode::Char('1'));
        press(&mut app, KeyCode::BackTab);
        assert_eq!(app.focus, Section::Drops);
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::PageDown);
        press(&mut app, KeyCode::Up);
        assert_eq!(app.look(Section::Drops).scroll, 10);
        press(&mut app, KeyCode::End);
        press(&mut app, KeyCode::Down);
        assert_eq!(app.look(Section::Drops).scroll, usize::MAX);
        press(&mut app, KeyCode::Home);
        assert_eq!(app.look(Section::Drops).scroll, 0);
        press(&mut app, KeyCode::Char('t'));
        press(&mut app, KeyCode::Char(' '));
        assert!(app.totals && app.paused);
        press(&mut app, KeyCode::Enter);
        assert_eq!(press(&mut app, KeyCode::Esc), Wish::Stay);
        assert!(!app.zoomed);
        assert_eq!(press(&mut app, KeyCode::Esc), Wish::Quit);
        press(&mut app, KeyCode::Char('?'));
        assert!(app.help);
        assert_eq!(press(&mut app, KeyCode::Char('x')), Wish::Stay);
        assert!(!app.help);
        assert_eq!(press(&mut app, KeyCode::Char('q')), Wish::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.key(control_c), Wish::Quit);
    }

    #[test]
    fn a_daemon_that_started_anew_counts_anew() {
        let mut app = App::new(false);
        let sample = |since_ns, time_ns| {
            News::Counters(Box::new(v1::Counters { since_ns, time_ns, ..v1::Counters::default() }))
        };
        app.take(News::Status(Box::default())).unwrap();
        app.take(sample(1, 2)).unwrap();
        assert!(!app.has_rates());
        app.take(sample(1, 3)).unwrap();
        assert!(app.has_rates());
        app.take(News::Lost(Failure::failed("gone"), false)).unwrap();
        assert_eq!(app.trouble.as_deref(), Some("gone"));
        app.take(sample(9, 10)).unwrap();
        assert!(!app.has_rates() && app.trouble.is_none());
        app.paused = true;
        app.take(sample(9, 11)).unwrap();
        assert!(!app.has_rates());
        assert!(app.take(News::Lost(Failure::failed("not allowed"), true)).is_err());
    }
}
