//! `sluice top`: a live view of rates over the watch streams; `--once` prints one picture.

mod app;
mod panels;
mod screen;
mod source;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::{DefaultTerminal, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::text::{ms32, parse_duration};

use app::{App, Wish};
use source::{News, Source};

/// How long a key may wait before it is seen.
const KEYBOARD_PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The time between two samples, 100ms to 1h.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Print one picture on stdout and end: rates of one interval.
    #[arg(long)]
    once: bool,
    /// With --once: columns of the picture.
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u16).range(40..=400))]
    width: u16,
    /// With --once: lines of the picture.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(10..=400))]
    height: u16,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let interval_ms = ms32(args.interval);
    if !(100..=3_600_000).contains(&interval_ms) {
        return Err(Failure::usage("--interval: 100ms to 1h"));
    }
    if context.out.json {
        return Err(Failure::usage("top is for people").help("sluice counters --json has the same numbers"));
    }
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !args.once && !terminal {
        return Err(
            Failure::usage("top needs a terminal").help("one picture without a terminal: sluice top --once")
        );
    }
    // Connected before the screen is taken: what goes wrong here is told on it as by every other command.
    let source = Source::open(&context.connection, interval_ms).await?;
    let mut news = source.follow(context.connection.clone(), interval_ms);
    let mut app = App::new(context.out.color());
    if args.once {
        while !app.has_rates() {
            app.take(news.recv().await.unwrap_or(News::Lost(Failure::failed("the streams ended"), true)))?;
        }
        let text = picture(&mut app, args.width, args.height)
            .map_err(|error| Failure::failed(format!("cannot draw: {error}")))?;
        context.out.line(&text)?;
        return Ok(Exit::Ok);
    }
    // From here on a panic gives the terminal back, too: the hook that this sets does.
    let mut terminal =
        ratatui::try_init().map_err(|error| Failure::failed(format!("cannot use the terminal: {error}")))?;
    let result = live(&mut terminal, &mut app, &mut news).await;
    // Nothing can be done about a terminal that does not take its state back.
    drop(ratatui::try_restore());
    result.map(|()| Exit::Ok)
}

/// Draws whenever something happens, until somebody wants to end.
async fn live(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    news: &mut mpsc::Receiver<News>,
) -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::failed(format!("cannot use the terminal: {error}"));
    let (sender, mut events) = mpsc::channel(64);
    // Reading the keyboard blocks: a thread of its own does, until nobody listens.
    std::thread::spawn(move || keyboard(&sender));
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    loop {
        terminal.draw(|frame| screen::draw(frame, app)).map_err(broken)?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            event = events.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if app.key(key) == Wish::Quit {
                        return Ok(());
                    }
                }
                // Of a new size, the next drawing learns by itself.
                Some(_) => {}
            },
            Some(message) = news.recv() => app.take(message)?,
        }
    }
}

/// Hands on what comes from the terminal. Ends when the terminal or the reader does.
fn keyboard(sender: &mpsc::Sender<Event>) {
    while !sender.is_closed() {
        match event::poll(KEYBOARD_PATIENCE) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let Ok(found) = event::read() else { return };
        if sender.blocking_send(found).is_err() {
            return;
        }
    }
}

/// The view as text, without colours.
fn picture(app: &mut App, width: u16, height: u16) -> Result<String, std::convert::Infallible> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| screen::draw(frame, app))?;
    let lines = terminal.backend().buffer().content().chunks(usize::from(width)).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    Ok(lines.collect::<Vec<_>>().join("\n").trim_end().to_owned())
}
