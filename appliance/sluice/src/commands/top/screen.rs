//! Where on the screen is what?

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table};
use sluice_api::v1;

use crate::text::{bytes, counted, or_dash, safe, si, span, word};

use super::app::{App, Section};
use super::panels::{Measure, Panel, panel};

/// Columns and lines below which only the table in focus is shown.
const GRID: (u16, u16) = (110, 24);
/// Columns and lines below which nothing is shown.
const LEAST: (u16, u16) = (40, 8);
/// The most exceptions that are shown.
const EXCEPTIONS: usize = 3;
/// Columns of a number.
const NUMBER: usize = 8;

const KEYS: &str = "q quit  space pause  t totals  tab table  z zoom  s sort  ? help";

const HELP: [&str; 11] = [
    "q, Ctrl-C     quit",
    "space, p      pause, or go on",
    "t             sums since the start, or rates",
    "tab, 1 to 5   the table in focus",
    "z, Enter      only the table in focus, or all",
    "s             order it by its next column",
    "arrows, j, k  scroll it",
    "PgUp, PgDn    scroll it by ten rows",
    "Home, End     its first and last rows",
    "Esc           leave the zoom; quit",
    "any key       close this help",
];

/// Draws all.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame.render_widget(Paragraph::new("too small; q quits"), area);
        return;
    }
    let mut drawn = Drawn { color: app.color, totals: app.totals };
    let (Some(status), Some(after)) = (app.status.clone(), app.after.clone()) else {
        frame.render_widget(Paragraph::new("waiting for the first sample; q quits"), area);
        return;
    };
    // As long as there is one sample only, rates are not known.
    drawn.totals |= app.before.is_none();
    let before = app.before.clone().unwrap_or_default();
    let mut lines = drawn.head(&status, &before, &after);
    lines.truncate(usize::from(area.height / 3).max(3));
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(lines), head);
    let panel_of = |section| panel(section, &before, &after, drawn.totals);
    if app.zoomed || area.width < GRID.0 || area.height < GRID.1 {
        let [tabs, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(2)]).areas(body);
        frame.render_widget(Paragraph::new(Drawn::tabs(app.focus)), tabs);
        drawn.table(frame, body, app, app.focus, panel_of(app.focus));
    } else {
        let panels = Section::ALL.map(|section| (section, panel_of(section)));
        let heights = panels.each_ref().map(|(_, panel)| u16::try_from(panel.rows.len()).unwrap_or(u16::MAX));
        let areas = grid(body, heights);
        for ((section, panel), area) in panels.into_iter().zip(areas) {
            drawn.table(frame, area, app, section, panel);
        }
    }
    frame.render_widget(Paragraph::new(drawn.foot(app)), foot);
    if app.help {
        help(frame, area);
    }
}

/// The places of ports, workers, policies, destinations and drops, which have so many rows.
fn grid(area: Rect, rows: [u16; 5]) -> [Rect; 5] {
    let [ports, workers, ..] = rows.map(|rows| rows.saturating_add(2));
    let drops = rows[4].saturating_add(2);
    let top = ports.max(drops).clamp(3, (area.height / 3).max(3));
    let middle = workers.clamp(3, (area.height / 3).max(3));
    let [top, middle, rest] =
        Layout::vertical([Constraint::Length(top), Constraint::Length(middle), Constraint::Min(3)])
            .areas(area);
    let halves = |left, right| {
        Layout::horizontal([Constraint::Percentage(left), Constraint::Percentage(right)]).spacing(2)
    };
    let [ports, drops] = halves(64, 36).areas(top);
    let [policies, destinations] = halves(50, 50).areas(rest);
    [ports, middle, policies, destinations, drops]
}

/// What is the same for all parts of a picture.
struct Drawn {
    color: bool,
    totals: bool,
}

impl Drawn {
    /// A colour where colours are wanted, else bold.
    fn tone(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new().add_modifier(Modifier::BOLD) }
    }

    fn head(&self, status: &v1::Status, before: &v1::Counters, after: &v1::Counters) -> Vec<Line<'static>> {
        let color = match status.state() {
            v1::State::Running => Color::Green,
            v1::State::Exception => Color::Red,
            _ => Color::Yellow,
        };
        let new = after.totals.clone().unwrap_or_default();
        let account = new.account.unwrap_or_default();
        let verdict = if account.balanced {
            Span::raw("account balanced")
        } else {
            Span::styled("account NOT BALANCED: please report this", self.tone(Color::Red))
        };
        let title = format!(
            "sluiced {} on {}, up {}",
            safe(&status.version),
            safe(&status.host),
            span(status.started_at_ns, status.time_ns)
        );
        let flows = new.flow.as_ref().map_or_else(String::new, |flow| format!("   flows {}", si(flow.flows)));
        // A daemon that does not tell says 0.
        let cpu = match status.cpu_millicores {
            0 => String::new(),
            used => format!("   cpu {}.{:02} cores", used / 1000, used % 1000 / 10),
        };
        let mut lines = vec![
            Line::from(vec![
                Span::styled(title, Style::new().add_modifier(Modifier::BOLD)),
                Span::raw("   "),
                Span::styled(word(status.state().as_str_name(), "STATE_"), self.tone(color)),
                Span::raw(format!(" for {}   ", span(status.state_since_ns, status.time_ns))),
                verdict,
            ]),
            Line::from(format!(
                "generation {}: {}, {}   ports up {} of {}{cpu}   memory {}{flows}",
                after.generation,
                counted(status.policies, "policy", "policies"),
                counted(status.destinations, "destination", "destinations"),
                status.ports_up,
                status.ports,
                bytes(status.memory_bytes),
            )),
            self.sums(before, after),
        ];
        for found in status.exceptions.iter().take(EXCEPTIONS) {
            let text =
                format!("{} {}: {}", safe(&found.code), or_dash(safe(&found.subject)), safe(&found.text));
            lines.push(Line::from(Span::styled(text, self.tone(Color::Red))));
        }
        if let Some(more) = status.exceptions.len().checked_sub(EXCEPTIONS).filter(|more| *more > 0) {
            lines.push(Line::from(format!("and {more} more exceptions: sluice status")));
        }
        lines
    }

    /// Everything together.
    fn sums(&self, before: &v1::Counters, after: &v1::Counters) -> Line<'static> {
        let measure = Measure::new(before, after, self.totals);
        let (old, new) =
            (before.totals.clone().unwrap_or_default(), after.totals.clone().unwrap_or_default());
        let (was, is) = (old.account.unwrap_or_default(), new.account.unwrap_or_default());
        let volume = |was, is| format!("{} {}", si(measure.volume(was, is)), measure.bits());
        let count = |was, is| si(measure.count(was, is));
        Line::from(format!(
            "{}: {}, {}   {}: {}, {}   {}: {}   {}: {}",
            measure.per("rx"),
            count(was.rx_packets, is.rx_packets),
            volume(old.rx_bytes, new.rx_bytes),
            measure.per("tx"),
            count(was.tx_packets, is.tx_packets),
            volume(old.tx_bytes, new.tx_bytes),
            measure.per("drops"),
            count(was.drops, is.drops),
            measure.per("lost before rx"),
            count(was.lost_before_rx, is.lost_before_rx),
        ))
    }

    fn tabs(focus: Section) -> Line<'static> {
        let tab = |(at, section): (usize, Section)| {
            let text = format!("{} {}", at + 1, section.title());
            let style = if section == focus { Modifier::REVERSED } else { Modifier::empty() };
            [Span::styled(text, Style::new().add_modifier(style)), Span::raw("  ")]
        };
        Line::from(Section::ALL.into_iter().enumerate().flat_map(tab).collect::<Vec<_>>())
    }

    fn foot(&self, app: &App) -> Line<'static> {
        if let Some(trouble) = &app.trouble {
            // The text is safe, and may have several lines.
            let text = format!("{}; trying again, q quits", trouble.replace('\n', " "));
            return Line::from(Span::styled(text, self.tone(Color::Red)));
        }
        let mut parts = vec![Span::styled(KEYS, Style::new().add_modifier(Modifier::DIM))];
        if app.paused {
            parts.insert(0, Span::styled("PAUSED  ", self.tone(Color::Yellow)));
        }
        Line::from(parts)
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect, app: &mut App, section: Section, found: Panel) {
        let focus = app.focus == section;
        let look = app.look(section);
        look.order %= found.header.len().max(1);
        let visible = usize::from(area.height.saturating_sub(2));
        look.scroll = look.scroll.min(found.rows.len().saturating_sub(visible));
        let (order, scroll) = (look.order, look.scroll);
        let found = found.ordered(section, order);
        let cell = |(column, text): (usize, String)| {
            let alignment = if column == 0 { Alignment::Left } else { Alignment::Right };
            Cell::from(Line::from(text).alignment(alignment))
        };
        let widths: Vec<_> = found
            .header
            .iter()
            .enumerate()
            .map(|(column, name)| match column {
                0 => Constraint::Min(10),
                _ => Constraint::Length(u16::try_from(name.len().max(NUMBER)).unwrap_or(12)),
            })
            .collect();
        // The column that orders is underlined.
        let header = found.header.iter().cloned().enumerate().map(|(column, name)| {
            let mut style = Style::new().add_modifier(Modifier::BOLD);
            if column == order {
                style = style.add_modifier(Modifier::UNDERLINED);
            }
            cell((column, name)).style(style)
        });
        let count = found.rows.len();
        let title = match count {
            0 => format!(" {}: none ", section.title()),
            _ if count > visible => {
                format!(" {} {}-{} of {count} ", section.title(), scroll + 1, (scroll + visible).min(count))
            }
            _ => format!(" {} ", section.title()),
        };
        let title = if focus { Span::styled(title, self.tone(Color::Cyan)) } else { Span::raw(title) };
        let rows = found
            .rows
            .into_iter()
            .skip(scroll)
            .take(visible)
            .map(|row| Row::new(std::iter::once(row.name).chain(row.texts).enumerate().map(cell)));
        let table = Table::new(rows, widths)
            .header(Row::new(header))
            .block(Block::new().borders(Borders::TOP).title(title));
        frame.render_widget(table, area);
    }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let width = u16::try_from(HELP.iter().map(|line| line.len()).max().unwrap_or(0)).unwrap_or(u16::MAX);
    let height = u16::try_from(HELP.len()).unwrap_or(u16::MAX);
    let [row] = Layout::vertical([Constraint::Length(height + 2)]).flex(Flex::Center).areas(area);
    let [place] = Layout::horizontal([Constraint::Length(width + 4)]).flex(Flex::Center).areas(row);
    frame.render_widget(Clear, place);
    let lines = HELP.map(|line| Line::from(format!(" {line}")));
    frame.render_widget(Paragraph::new(lines.to_vec()).block(Block::bordered().title(" keys ")), place);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::super::source::News;
    use super::*;
    use crate::text::harmful;

    const SECOND: i64 = 1_000_000_000;

    /// Samples of a daemon that forwards 1,000 packets of 100 bytes in each of `seconds`.
    fn counters(seconds: u64, policies: usize) -> v1::Counters {
        let packets = 1_000 * seconds;
        let drops = BTreeMap::from([("no_policy".to_owned(), packets / 2), ("tx_full".to_owned(), 7)]);
        let account = v1::Account {
            rx_packets: packets,
            tx_packets: packets / 2,
            drops: packets / 2,
            balanced: true,
            ..v1::Account::default()
        };
        let policy = |number: usize| v1::PolicyCounters {
            policy: format!("policy{number}\u{1b}[31m"),
            matched_packets: packets * u64::try_from(number).unwrap(),
            ..v1::PolicyCounters::default()
        };
        v1::Counters {
            time_ns: i64::try_from(seconds).unwrap() * SECOND,
            since_ns: 1,
            generation: 3,
            totals: Some(v1::TotalCounters {
                account: Some(account),
                rx_bytes: packets * 100,
                tx_bytes: packets * 50,
                drops,
                ..v1::TotalCounters::default()
            }),
            ports: vec![v1::PortCounters {
                port: "tap0".into(),
                rx_packets: packets,
                rx_bytes: packets * 100,
                ..v1::PortCounters::default()
            }],
            workers: vec![v1::WorkerCounters {
                worker: "worker0".into(),
                rx_packets: packets,
                stages: vec![v1::StageCounters { cycles: packets * 50, ..v1::StageCounters::default() }],
                ..v1::WorkerCounters::default()
            }],
            policies: (0..policies).map(policy).collect(),
            destinations: vec![v1::DestinationCounters {
                destination: "ids".into(),
                packets: packets / 2,
                bytes: packets * 50,
                ..v1::DestinationCounters::default()
            }],
            ..v1::Counters::default()
        }
    }

    fn app(policies: usize) -> App {
        let mut app = App::new(false);
        let status = v1::Status {
            version: "0.1.0".into(),
            host: "broker".into(),
            started_at_ns: SECOND,
            time_ns: 62 * SECOND,
            state: v1::State::Running.into(),
            state_since_ns: 2 * SECOND,
            memory_bytes: 3 << 20,
            ..v1::Status::default()
        };
        app.take(News::Status(Box::new(status))).unwrap();
        app.take(News::Counters(Box::new(counters(10, policies)))).unwrap();
        app.take(News::Counters(Box::new(counters(12, policies)))).unwrap();
        app
    }

    fn lines(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let text = super::super::picture(app, width, height).unwrap();
        assert!(!text.chars().any(|c| harmful(c) && c != '\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }

    fn press(app: &mut App, keys: &str) {
        for key in keys.chars() {
            app.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        }
    }

    #[test]
    fn the_grid_shows_everything() {
        let shown = lines(&mut app(3), 110, 24);
        let expected = "\
sluiced 0.1.0 on broker, up 1m 1s   running for 1m   account balanced
generation 3: 0 policies, 0 destinations   ports up 0 of 0   memory 3.0 MiB
rx/s: 1000, 800.0 k bit/s   tx/s: 500, 400.0 k bit/s   drops/s: 500   lost before rx/s: 0";
        assert_eq!(shown[..3].join("\n"), expected);
        let text = shown.join("\n");
        for section in Section::ALL {
            assert!(text.contains(&format!(" {} ", section.title())), "{}\n{text}", section.title());
        }
        // Busiest first, with the hostile part of its name as an escape.
        let policies: Vec<_> = shown.iter().filter(|line| line.starts_with("policy")).collect();
        assert!(policies[0].starts_with("policy  ") && policies[1].starts_with("policy2\\u{1b}["), "{text}");
        assert!(policies[1].split_whitespace().any(|word| word == "2000"), "{text}");
        // 50 cycles a packet.
        assert!(
            shown.iter().any(|line| line.starts_with("worker0") && line.ends_with(" 50            0")),
            "{text}"
        );
        assert_eq!(shown.last().unwrap(), KEYS);
    }

    #[test]
    fn keys_change_the_picture() {
        let mut app = app(100);
        press(&mut app, "t");
        assert!(lines(&mut app, 110, 24)[2].starts_with("rx: 12.0 k, 1.2 M bytes   tx: 6000"));
        press(&mut app, "z");
        let zoomed = lines(&mut app, 110, 24);
        assert!(zoomed[3].starts_with("1 ports  2 workers  3 policies"), "{zoomed:?}");
        assert!(zoomed[4].contains(" policies 1-17 of 100 "), "{zoomed:?}");
        press(&mut app, "G");
        assert!(lines(&mut app, 110, 24)[4].contains(" policies 84-100 of 100 "));
        press(&mut app, "5 ?");
        let help = lines(&mut app, 110, 24).join("\n");
        assert!(help.contains("PAUSED") && help.contains("order it by its next column"), "{help}");
        press(&mut app, "x4ssss");
        assert!(lines(&mut app, 110, 24).iter().any(|line| line.contains(" destinations ")));
        app.take(News::Lost(crate::failure::Failure::failed("no socket"), false)).unwrap();
        assert!(lines(&mut app, 110, 24).last().unwrap().starts_with("no socket; trying again"));
    }

    #[test]
    fn narrow_terminals_show_one_table() {
        let mut app = app(3);
        let shown = lines(&mut app, 60, 12);
        assert!(shown[3].contains("4 destinations"), "{shown:?}");
        assert_eq!(lines(&mut app, 20, 3), ["too small; q quits"]);
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        for color in [false, true] {
            let mut app = app(1);
            app.color = color;
            let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
            terminal.draw(|frame| draw(frame, &mut app)).unwrap();
            let coloured = terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset);
            assert_eq!(coloured, color);
        }
    }

    proptest! {
        #[test]
        fn no_size_and_no_numbers_panic(
            width in 1u16..250,
            height in 1u16..80,
            keys in "[qptz1-5sjkgG?x ]{0,12}",
            huge in any::<u64>(),
            time_ns in any::<i64>(),
            name in any::<String>(),
        ) {
            let mut app = app(3);
            let mut wild = counters(20, 2);
            wild.time_ns = time_ns;
            wild.ports[0].rx_bytes = huge;
            wild.ports[0].port = name.clone();
            wild.workers[0].stages[0].cycles = huge;
            wild.destinations[0].destination = name.clone();
            wild.destinations[0].away = vec![name];
            app.take(News::Counters(Box::new(wild))).unwrap();
            press(&mut app, &keys);
            lines(&mut app, width, height);
        }
    }
}
