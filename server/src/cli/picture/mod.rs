//! `synod status --watch`: the cluster in the terminal, live.
//!
//! Owns: looks at the cluster each second, what is done there after a yes, and the loop between keys, looks and drawing. Must never: let a
//! key wait for the cluster, or end because the cluster does not answer.
//!
//! What events mean is decided by `keys::step` alone, on a state without IO; `draw` draws that state.

mod draw;
mod input;
mod keys;
mod model;
mod rows;
#[cfg(test)]
mod samples;
mod screen;
mod trend;

use std::io::{self, IsTerminal};
use std::time::Duration;

use synod_client::Client;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::context::Context;
use super::error::{CliError, Result};
use super::output::json;
use super::{jobs, shard, splits, status};
use input::{Decoder, Key};
use model::{Act, Command, Event, State};
use screen::Screen;

/// Between the end of a look and the next.
const PACE: Duration = Duration::from_secs(1);
/// How long a call of a look may take, where `--timeout` does not say: a cluster that hangs is told of soon.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);
/// How long the list of jobs may keep a look waiting.
const JOBS_PATIENCE: Duration = Duration::from_secs(2);
/// How long the rest of a sequence may take; an escape that nothing follows is the key Esc.
const SEQUENCE_PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of keys that are read at once.
const KEYS_BYTES: usize = 256;

/// Runs `status --watch`.
pub async fn run(context: &Context) -> Result<()> {
    terminal_for(context)?;
    // One look, one thing to do and one outcome wait at most: whoever makes more waits for the picture.
    let (looks, looked) = channel(1);
    let (acts, to_do) = channel(1);
    let (outcomes, done) = channel(1);
    tokio::select! {
        ended = show(looked, acts, done) => ended,
        () = look_on(context, looks) => Err(stopped()),
        () = act_on(context, to_do, outcomes) => Err(stopped()),
    }
}

/// Makes sure that there is a terminal to draw on and to take keys from.
fn terminal_for(context: &Context) -> Result<()> {
    let use_instead = "use `watch -n1 synod status`, or `synod -o json status` in a loop";
    let refused = |why: &str| Err(CliError::usage("--watch", format!("{why}; {use_instead}")));
    if context.out.json() {
        return refused("the live picture is for people, and `-o json` for programs");
    }
    if !io::stdout().is_terminal() {
        return refused("standard output is not a terminal");
    }
    if !io::stdin().is_terminal() {
        return refused("standard input is not a terminal, so that there are no keys");
    }
    if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        return refused("the terminal cannot be drawn on (TERM is dumb)");
    }
    Ok(())
}

fn stopped() -> CliError {
    CliError::failed("internal", "a part of the live picture has ended by itself")
}

/// Draws, and takes what happens, until it is to end.
async fn show(
    mut looked: Receiver<Event>,
    acts: Sender<Act>,
    mut done: Receiver<std::result::Result<String, String>>,
) -> Result<()> {
    let failed = |error: io::Error| CliError::io("the terminal", &error);
    let mut ends = Signals::of([SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()])?;
    let mut resized = Signals::of([SignalKind::window_change()])?;
    let mut screen = Screen::take().map_err(failed)?;
    let mut keyboard = Keyboard::default();
    let (started, mut state) = (Instant::now(), State::default());
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keys::step(&mut state, Event::Resized(screen.lines().map_err(failed)?));
    loop {
        if screen.is_lost() {
            return Err(stopped());
        }
        screen.draw(|frame| draw::picture(frame, &state)).map_err(failed)?;
        let events: Vec<Event> = tokio::select! {
            () = ends.any() => return Ok(()),
            pressed = keyboard.next() => match pressed.map_err(failed)? {
                Some(pressed) => pressed.into_iter().map(Event::Key).collect(),
                // The terminal is gone.
                None => return Ok(()),
            },
            Some(event) = looked.recv() => vec![event],
            Some(outcome) = done.recv() => vec![Event::Acted(outcome)],
            () = resized.any() => vec![Event::Resized(screen.lines().map_err(failed)?)],
            _ = ticks.tick() => vec![Event::Tick],
        };
        state.set_now(started.elapsed());
        for event in events {
            match keys::step(&mut state, event) {
                None => {}
                Some(Command::Quit) => return Ok(()),
                Some(Command::Redraw) => screen.forget().map_err(failed)?,
                // There is room: nothing is commanded before what came before has ended.
                Some(Command::Do(act)) => acts.try_send(act).map_err(|_| stopped())?,
            }
        }
    }
}

/// Signals, whichever comes first.
struct Signals(Vec<Signal>);

impl Signals {
    fn of<const N: usize>(kinds: [SignalKind; N]) -> Result<Self> {
        let signals: io::Result<Vec<Signal>> = kinds.into_iter().map(signal).collect();
        signals.map(Self).map_err(|error| CliError::io("signals", &error))
    }

    async fn any(&mut self) {
        let waits = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(waits).await;
    }
}

/// Keys of standard input.
struct Keyboard {
    stdin: tokio::io::Stdin,
    decoder: Decoder,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { stdin: tokio::io::stdin(), decoder: Decoder::default() }
    }
}

impl Keyboard {
    /// The next keys, perhaps none; `None` at the end of the input. Nothing is lost where it is not waited for to the end.
    async fn next(&mut self) -> io::Result<Option<Vec<Key>>> {
        let mut bytes = [0; KEYS_BYTES];
        let waits = self.decoder.waits();
        tokio::select! {
            read = self.stdin.read(&mut bytes) => {
                let read = read?;
                Ok((read > 0).then(|| self.decoder.feed(&bytes[..read])))
            }
            () = sleep(SEQUENCE_PATIENCE), if waits => Ok(Some(self.decoder.give_up().into_iter().collect())),
        }
    }
}

/// Looks at the cluster again and again. Ends only once nobody takes what was seen.
async fn look_on(context: &Context, looks: Sender<Event>) {
    let mut client = None;
    loop {
        let event = match look(context, &mut client).await {
            Ok((status, trouble)) => Event::Looked { status: Box::new(status), trouble },
            Err(error) => {
                // Another connection may find nodes that this one does not.
                client = None;
                Event::Missed(error.message().to_owned())
            }
        };
        if looks.send(event).await.is_err() {
            return;
        }
        sleep(PACE).await;
    }
}

/// What `synod status` and `synod job list` show, and what of it could not be had.
async fn look(context: &Context, client: &mut Option<Client>) -> Result<(json::Status, Option<String>)> {
    let client = match client {
        Some(client) => client,
        None => client.insert(context.connect_with(context.options(LOOK_PATIENCE)).await?),
    };
    let listing = client.with_timeout(JOBS_PATIENCE.min(context.options(LOOK_PATIENCE).call_timeout));
    let (status, listed) = tokio::join!(status::look(client), listing.jobs());
    let mut status = status?;
    match listed {
        Ok(listed) => {
            status.jobs = listed.iter().map(jobs::shown).collect();
            Ok((status, None))
        }
        // Those that run are in the status as long as a node that leads the system shard answers.
        Err(error) => Ok((status, Some(format!("the list of jobs: {error}")))),
    }
}

/// Does what is asked for, one thing after another. Ends only once nobody asks.
async fn act_on(context: &Context, mut to_do: Receiver<Act>, outcomes: Sender<std::result::Result<String, String>>) {
    while let Some(act) = to_do.recv().await {
        let outcome = carry_out(context, act).await.map_err(|error| error.message().to_owned());
        if outcomes.send(outcome).await.is_err() {
            return;
        }
    }
}

/// Begins what is asked for; what comes of it is seen in the next looks.
async fn carry_out(context: &Context, act: Act) -> Result<String> {
    let client = context.connect().await?;
    match act {
        Act::Transfer(id) => {
            let to = shard::hand_over(&client, id).await?;
            Ok(format!("node {to} was asked to lead shard {id}"))
        }
        Act::Split(id) => splits::begin_by_default(&client, id).await,
        Act::Cancel(id) => {
            jobs::ask_to_cancel(&client, id).await?;
            Ok(format!("job {id} is to go back; it shows how it ends"))
        }
    }
}
