//! How does one stay connected to a database that restarts, hangs or is not there yet?

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_model::OvsDatabase;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::{Inventory, MAX_ALL_ADDRESSES, OvsdbError, Session};

/// How long connecting and sending may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long without a word the database is asked whether it lives, and after so long again it is given up.
const QUIET: Duration = Duration::from_secs(5);
/// After so long a database that answers has told its rows, or is given up.
const TOLD: Duration = Duration::from_secs(30);
/// The pause before the first attempt to connect again, and the longest: it doubles in between.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// The time between two inventories: of a storm of updates, each row would be looked at again and again.
const ROUND: Duration = Duration::from_millis(200);
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// What is known of a database. Times are nanoseconds since 1970 (UTC), 0 = never.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Whether it is connected, and has told all.
    pub connected: bool,
    /// Since when it is, or is not.
    pub since_ns: i64,
    /// What went wrong last; empty = nothing since it is connected.
    pub error: String,
    /// How often it was connected.
    pub connects: u64,
    /// How often something changed.
    pub updates: u64,
    /// When that was.
    pub changed_at_ns: i64,
    /// What is known; `None` = it never told. When it is away, this is what it told last.
    pub inventory: Option<Arc<Inventory>>,
}

/// Stays connected to `database` and tells `heard`, for ever.
pub async fn follow(database: &OvsDatabase, heard: &watch::Sender<Heard>) -> Infallible {
    let [first, longest] = PAUSE;
    let mut pause = first;
    loop {
        let before = heard.borrow().connects;
        let error = connected(database, heard).await;
        if heard.borrow().connects > before {
            pause = first;
        }
        let text = error.to_string();
        let (news, was) = {
            let heard = heard.borrow();
            (heard.error != text, heard.connected)
        };
        if news || was {
            tracing::warn!(%database, error = text, "the database of Open vSwitch is away; what was learned stays in force");
        }
        heard.send_modify(|heard| {
            if heard.connected || heard.since_ns == 0 {
                (heard.connected, heard.since_ns) = (false, now_ns());
            }
            heard.error = text;
        });
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Connects, and follows until that ends.
async fn connected(database: &OvsDatabase, heard: &watch::Sender<Heard>) -> OvsdbError {
    let late = |_: tokio::time::error::Elapsed| OvsdbError::Connect(io::ErrorKind::TimedOut.into());
    match database {
        OvsDatabase::Unix(path) => match timeout(PATIENCE, UnixStream::connect(path)).await.map_err(late) {
            Ok(Ok(stream)) => converse(stream, database, heard).await,
            Ok(Err(error)) => OvsdbError::Connect(error),
            Err(error) => error,
        },
        OvsDatabase::Tcp(address) => match timeout(PATIENCE, TcpStream::connect(address)).await.map_err(late)
        {
            Ok(Ok(stream)) => converse(stream, database, heard).await,
            Ok(Err(error)) => OvsdbError::Connect(error),
            Err(error) => error,
        },
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    database: &OvsDatabase,
    heard: &watch::Sender<Heard>,
) -> OvsdbError {
    match talk(&mut stream, database, heard).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    database: &OvsDatabase,
    heard: &watch::Sender<Heard>,
) -> Result<Infallible, OvsdbError> {
    let mut session = Session::default();
    send(stream, &Session::hello()).await?;
    let (mut buffer, mut reply) = (vec![0; BUFFER], Vec::new());
    let begin = Instant::now();
    let mut quiet = Quiet { since: begin, asked: false };
    // When the rows that changed are to be looked at.
    let mut look: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    loop {
        let wake = look.unwrap_or(quiet.until()).min(quiet.until());
        match tokio::time::timeout_at(wake, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => return Err(OvsdbError::Closed),
            Ok(Ok(count)) => {
                quiet = Quiet { since: Instant::now(), asked: false };
                let changed = session.receive(buffer.get(..count).unwrap_or_default(), &mut reply)?;
                if !reply.is_empty() {
                    send(stream, &std::mem::take(&mut reply)).await?;
                }
                if changed && look.is_none() {
                    let now = Instant::now();
                    look = Some(looked.map_or(now, |last| now.max(last + ROUND)));
                }
            }
            Ok(Err(error)) => return Err(OvsdbError::Io(error)),
            Err(_) => {}
        }
        let now = Instant::now();
        if !session.is_told() && now.duration_since(begin) >= TOLD {
            return Err(OvsdbError::Untold);
        }
        if look.is_some_and(|at| now >= at) {
            (look, looked) = (None, Some(now));
            tell(&session, database, heard)?;
        }
        if now >= quiet.until() {
            if quiet.asked {
                return Err(OvsdbError::Silent);
            }
            send(stream, &Session::probe()).await?;
            quiet = Quiet { since: now, asked: true };
        }
    }
}

/// Since when nothing came, or the database was asked whether it lives.
struct Quiet {
    since: Instant,
    asked: bool,
}

impl Quiet {
    fn until(&self) -> Instant {
        self.since + QUIET
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), OvsdbError> {
    let sent = timeout(PATIENCE, stream.write_all(bytes)).await;
    sent.map_err(|_| OvsdbError::Silent)?.map_err(OvsdbError::Io)
}

/// Tells what the rows say.
fn tell(session: &Session, database: &OvsDatabase, heard: &watch::Sender<Heard>) -> Result<(), OvsdbError> {
    if !session.is_told() {
        return Ok(());
    }
    let inventory = session.inventory();
    if inventory.addresses() > MAX_ALL_ADDRESSES {
        return Err(OvsdbError::Crowded);
    }
    heard.send_if_modified(|heard| {
        let news = !heard.connected;
        if news {
            (heard.connected, heard.since_ns, heard.error) = (true, now_ns(), String::new());
            heard.connects += 1;
            let interfaces = inventory.interfaces.len();
            tracing::info!(%database, interfaces, "the database of Open vSwitch is connected");
        }
        let changed = heard.inventory.as_deref() != Some(&inventory);
        if changed {
            heard.updates += 1;
            heard.changed_at_ns = now_ns();
            heard.inventory = Some(Arc::new(inventory));
        }
        news || changed
    });
    Ok(())
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const ROWS: &str = r#"{"id":1,"error":null,"result":{"Interface":{"u":{"new":{"name":"vnet0","external_ids":
        ["map",[["vm-id","web"],["attached-mac","02:00:00:00:00:01"]]]}}}}}"#;
    const GONE: &str = r#"{"id":null,"method":"update","params":["sluice",{"Interface":{"u":{"old":{}}}}]}"#;

    async fn until(heard: &mut watch::Receiver<Heard>, what: impl FnMut(&Heard) -> bool) -> Heard {
        timeout(Duration::from_secs(10), heard.wait_for(what)).await.unwrap().unwrap().clone()
    }

    #[tokio::test]
    async fn it_comes_back_and_keeps_what_it_knew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sock");
        let (sender, mut heard) = watch::channel(Heard::default());
        let database = OvsDatabase::Unix(path.clone());
        let following = tokio::spawn(async move { follow(&database, &sender).await });
        let absent = until(&mut heard, |heard| !heard.error.is_empty()).await;
        assert!(!absent.connected && absent.since_ns > 0 && absent.inventory.is_none(), "{absent:?}");

        let listener = UnixListener::bind(&path).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 1000];
        let count = stream.read(&mut asked).await.unwrap();
        assert_eq!(asked[..count], Session::hello());
        stream.write_all(ROWS.as_bytes()).await.unwrap();
        let first = until(&mut heard, |heard| heard.connected).await;
        assert_eq!((first.connects, first.updates, &*first.error), (1, 1, ""));

        // It ends in the midst of a message.
        stream.write_all(br#"{"id":null,"met"#).await.unwrap();
        drop(stream);
        let away = until(&mut heard, |heard| !heard.connected).await;
        assert_eq!((away.inventory, away.updates), (first.inventory.clone(), 1), "what it told stays");
        assert!(away.error.contains("closed"), "{}", away.error);

        // One that talks rubbish, and then one that says that the machine is gone.
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400").await.unwrap();
        until(&mut heard, |heard| heard.error.contains("no message of OVSDB")).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(ROWS.as_bytes()).await.unwrap();
        let again = until(&mut heard, |heard| heard.connected).await;
        assert_eq!((again.connects, again.updates), (2, 1), "nothing changed");
        stream.write_all(GONE.as_bytes()).await.unwrap();
        let gone = until(&mut heard, |heard| heard.updates == 2).await;
        assert_eq!(gone.inventory.as_deref(), Some(&Inventory::default()));
        following.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_but_tells_nothing_is_given_up() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (sender, _heard) = watch::channel(Heard::default());
        let database = OvsDatabase::Unix("/x".into());
        let begin = Instant::now();
        let talking = tokio::spawn(async move { talk(&mut ours, &database, &sender).await.unwrap_err() });
        let mut asked = vec![0; 2000];
        while theirs.read(&mut asked).await.unwrap() > 0 {
            drop(theirs.write_all(br#"{"id":"sluice","result":[],"error":null}"#).await);
        }
        let error = talking.await.unwrap();
        assert!(matches!(error, OvsdbError::Untold), "{error}");
        assert_eq!(begin.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn more_addresses_than_a_host_can_have_are_refused() {
        let (mut ours, mut theirs) = tokio::io::duplex(8 << 20);
        let (sender, heard) = watch::channel(Heard::default());
        let talking = tokio::spawn(async move {
            talk(&mut ours, &OvsDatabase::Unix("/x".into()), &sender).await.unwrap_err()
        });
        let addresses: Vec<String> = (1..=64).map(|host| format!("192.0.2.{host}")).collect();
        let addresses = addresses.join(" ");
        let row = |row: usize| {
            format!(
                r#""{row}":{{"new":{{"name":"v{row}","external_ids":["map",[["ip_addresses","{addresses}"]]]}}}}"#
            )
        };
        let rows: Vec<String> = (0..=MAX_ALL_ADDRESSES / 64).map(row).collect();
        let reply = format!(r#"{{"id":1,"error":null,"result":{{"Interface":{{{}}}}}}}"#, rows.join(","));
        theirs.write_all(reply.as_bytes()).await.unwrap();
        let error = talking.await.unwrap();
        assert!(matches!(error, OvsdbError::Crowded), "{error}");
        assert!(heard.borrow().inventory.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_asked_and_then_given_up() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (sender, _heard) = watch::channel(Heard::default());
        let database = OvsDatabase::Unix("/x".into());
        let begin = Instant::now();
        let talking = tokio::spawn(async move { talk(&mut ours, &database, &sender).await.unwrap_err() });
        let mut asked = vec![0; 2000];
        let mut count = theirs.read(&mut asked).await.unwrap();
        theirs.write_all(ROWS.as_bytes()).await.unwrap();
        while !asked[..count].ends_with(&Session::probe()) {
            count += theirs.read(&mut asked[count..]).await.unwrap();
        }
        theirs.write_all(br#"{"id":"sluice","result":[],"error":null}"#).await.unwrap();
        let error = talking.await.unwrap();
        assert!(matches!(error, OvsdbError::Silent), "{error}");
        assert_eq!(begin.elapsed().as_secs(), 15);
    }
}
