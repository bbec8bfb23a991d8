//! `synod tail`: records as they are committed, and a place to go on from however it ends.
//!
//! Owns what was handed to the reader of standard output, and for how long a followed tail waits for a cluster that does not
//! answer. Must never name a place that lies after a record which the reader was not given.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use synod_client::{Error, Keys, PassedOver, TailItem, TailOptions, TailStart, TailStream, Token};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::args;
use super::context::Context;
use super::data::{at, say, shown};
use super::error::{CliError, Result};
use super::escape::{piece, to_base64};
use super::output;

/// How long one call of a followed tail takes, where `--timeout` does not say: what fails is asked again anyway.
const FOLLOWED_CALL: Duration = Duration::from_secs(5);
/// Time between two words about the same outage.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// Time between two looks at whether an outage is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a failed tail is asked again, beside the client's own.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long the reader of standard output may hold up an end by a signal.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs `tail`.
pub async fn run(context: &mut Context, args: args::Tail) -> Result<()> {
    let from = args.from.clone();
    let mut tail = Tail::new(args)?;
    let mut end = end_by_signal(context, Arc::clone(&tail.handed_over))?;
    let done = {
        let mut records = std::pin::pin!(tail.run(context));
        tokio::select! {
            biased;
            _ = end.wait_for(|ended| *ended) => Ok(()),
            done = &mut records => done,
            () = output::abandoned() => Err(CliError::closed_pipe()),
        }
    };
    let flushed = context.out.flush();
    if flushed.is_ok() {
        tail.note_place();
    }
    tail.say_passed_over(context);
    let place = tail.place();
    // An error of what was asked for, before anything came of it, is all there is to say.
    let may_go_on = |error: &CliError| error.is_retryable() || error.is_quiet() || error.kind() == "trimmed";
    if place != from || done.as_ref().err().is_none_or(may_go_on) {
        say(context, "token", &place);
    }
    done.and(flushed)
}

/// Becomes true at the first SIGINT, SIGTERM or SIGHUP. Should the tail be held up by a reader that takes nothing, it is
/// ended from here.
fn end_by_signal(context: &Context, place: Arc<Mutex<String>>) -> Result<watch::Receiver<bool>> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let signals: std::io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
    let mut signals = signals.map_err(|error| CliError::io("signals", &error))?;
    let (ended, end) = watch::channel(false);
    let json = context.out.json();
    tokio::spawn(async move {
        futures::future::select_all(signals.iter_mut().map(|signal| signal.recv().boxed())).await;
        // Nobody is left to be told where the receiver is gone.
        let _ = ended.send(true);
        sleep(LAST_WORDS).await;
        super::data::say_as(json, "token", &place.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::exit(0);
    });
    Ok(end)
}

struct Tail {
    table: String,
    options: TailOptions,
    left: u64,
    outage: Outage,
    stream: Option<TailStream>,
    /// The last record written to standard output's buffer.
    last: Option<Token>,
    /// Where to go on after everything that was handed to the reader of standard output: `--from`, or a token.
    handed_over: Arc<Mutex<String>>,
}

impl Tail {
    fn new(args: args::Tail) -> Result<Self> {
        let keys = match (&args.key, &args.prefix) {
            (Some(key), _) => Keys::Key(args.encoding.key(key)?.into()),
            (None, Some(prefix)) => Keys::Prefix(args.encoding.decode("--prefix", prefix)?.into()),
            (None, None) => Keys::All,
        };
        let start = match args.from.as_str() {
            "earliest" => TailStart::Earliest,
            "latest" => TailStart::Latest,
            token => TailStart::Token(Token::from_str(token).map_err(|error| at("--from", error))?),
        };
        let skip_trimmed = args.skip_trimmed;
        Ok(Self {
            table: args.table,
            options: TailOptions { keys, start, follow: args.follow, page_records: 0, skip_trimmed },
            left: args.limit.unwrap_or(u64::MAX),
            outage: Outage::new(args.patience),
            stream: None,
            last: None,
            handed_over: Arc::new(Mutex::new(args.from)),
        })
    }

    fn place(&self) -> String {
        self.handed_over.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that was written is with the reader.
    fn note_place(&self) {
        // The stream's own token is ahead of the last record's, unless it has records that were not printed.
        let ahead = || self.stream.as_ref().and_then(TailStream::token);
        let token = if self.left == 0 { self.last.clone() } else { ahead().or_else(|| self.last.clone()) };
        if let Some(token) = token {
            *self.handed_over.lock().unwrap_or_else(PoisonError::into_inner) = token.to_string();
        }
    }

    /// Prints records until there are no more, or, where it follows, until the cluster is away for too long.
    async fn run(&mut self, context: &mut Context) -> Result<()> {
        loop {
            match self.records(context).await {
                Err(error) if self.options.follow && error.is_retryable() && !self.outage.ended => {
                    self.outage.add(context, error)?;
                }
                ended => return ended,
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn records(&mut self, context: &mut Context) -> Result<()> {
        if self.stream.is_none() {
            let client = if self.options.follow {
                context.connect_with(context.options(self.outage.shorter(FOLLOWED_CALL))).await?
            } else {
                context.connect().await?
            };
            self.stream = Some(client.tail(&self.table, self.options.clone()));
        }
        while self.left > 0 {
            let Some(item) = self.next(context).await? else { return Ok(()) };
            self.last = Some(item.token());
            context.out.record(&shown(item.record, false))?;
            self.left -= 1;
        }
        Ok(())
    }

    /// The next record; what was printed before is handed over first if there is a wait.
    async fn next(&mut self, context: &mut Context) -> Result<Option<TailItem>> {
        let ready = self.stream.as_mut().and_then(|stream| stream.next().now_or_never());
        if let Some(ready) = ready {
            self.look(context);
            return ready.transpose().map_err(tail_error);
        }
        context.out.flush()?;
        self.note_place();
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            tokio::select! {
                item = stream.next() => {
                    self.look(context);
                    return item.transpose().map_err(tail_error);
                }
                () = sleep(LOOK_EVERY), if self.outage.since.is_some() || self.options.skip_trimmed => {
                    self.look(context);
                    self.outage.check()?;
                }
            }
        }
    }

    fn say_passed_over(&mut self, context: &Context) {
        for passed in self.stream.as_mut().map(TailStream::passed_over).unwrap_or_default() {
            say_passed_over(context, &passed);
        }
    }

    fn look(&mut self, context: &Context) {
        self.say_passed_over(context);
        if self.stream.as_ref().is_some_and(|stream| !stream.is_waiting()) {
            self.outage.over(context);
        }
    }
}

/// The client's error; of a trim with the flag that goes on past it.
fn tail_error(error: Error) -> CliError {
    let trimmed = matches!(error, Error::Trimmed { .. });
    let error = CliError::from(error);
    if !trimmed {
        return error;
    }
    error.followed_by("--skip-trimmed continues with the records that are left").with("knob", "--skip-trimmed")
}

/// Says that the records of a key were passed over.
fn say_passed_over(context: &Context, passed: &PassedOver) {
    if context.out.json() {
        let mut which = serde_json::json!({ "first": passed.first });
        match std::str::from_utf8(&passed.key) {
            Ok("") => {}
            Ok(key) => which["key"] = key.into(),
            Err(_) => which["key_base64"] = to_base64(&passed.key).into(),
        }
        return context.note("trimmed", which);
    }
    let of_key = if passed.key.is_empty() { String::new() } else { format!(" of key \"{}\"", piece(&passed.key)) };
    context
        .note("trimmed", format!("tail passes over records{of_key} before offset {}: they were trimmed", passed.first));
}

/// A time in which a part of what is tailed could not be asked for.
struct Outage {
    patience: Option<Duration>,
    since: Option<Instant>,
    said: Option<Instant>,
    last: Option<CliError>,
    /// Patience has ended.
    ended: bool,
}

impl Outage {
    fn new(patience: Option<Duration>) -> Self {
        Self { patience, since: None, said: None, last: None, ended: false }
    }

    /// The time, or all of the patience there is.
    fn shorter(&self, time: Duration) -> Duration {
        self.patience.map_or(time, |patience| time.min(patience.max(Duration::from_millis(1))))
    }

    /// Takes in an error; gives it back where patience has ended.
    fn add(&mut self, context: &Context, error: CliError) -> Result<()> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if self.said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
            self.said = Some(now);
            let waited = now.duration_since(since).as_secs();
            let how_long = if waited > 0 { format!(" (for {waited} s)") } else { String::new() };
            context.note("waiting", format!("tail waits for the cluster{how_long}: {}", error.message()));
        }
        self.last = Some(error);
        self.check()
    }

    fn check(&mut self) -> Result<()> {
        let (Some(since), Some(patience)) = (self.since, self.patience) else { return Ok(()) };
        if since.elapsed() < patience {
            return Ok(());
        }
        self.ended = true;
        let patience = humantime::format_duration(patience);
        match self.last.take() {
            Some(error) => {
                Err(error.followed_by(format!("waited for {patience} (--patience)")).with("knob", "--patience"))
            }
            None => Ok(()),
        }
    }

    fn over(&mut self, context: &Context) {
        if let Some(since) = self.since.take() {
            (self.said, self.last) = (None, None);
            context.note("going_on", format!("tail continues after {} s", since.elapsed().as_secs()));
        }
    }
}
