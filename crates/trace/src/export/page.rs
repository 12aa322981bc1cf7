//! A trace as one HTML file: what it comes to, the swim lane of the loop or of each of the busiest
//! threads, the worst connections', the histograms. It needs no network and no other file.
//!
//! Numbers that the script draws travel as packed columns of varints. What is drawn is bounded; the
//! overview, the tables and the histograms are of all.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::columns::{Column, Names, column};
use super::ids;
use super::scene::{Draw, Place, Scene, Stroke, label};
use super::swim::Swim;
use crate::view::{Cut, Digest, Doctor, Health, Lanes, Life, Roster, Source, Summary};
use crate::{Event, Payload, Trace, events};
use proactor::keys::ConnId;
use proactor_report::units;

/// Connections that get a lane, unless told otherwise.
pub const PAGE_LANES: usize = 48;

/// Turns, and marks on lanes, that are drawn at most: the last.
const TURNS: usize = 40_000;
const MARKS: usize = 250_000;
/// Parts of the overview.
const PARTS: usize = 600;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const THREADS: &str = include_str!("page/threads.js");
const SCRIPT: &str = include_str!("page/page.js");

/// Writes a part of a trace as a page, with a lane for each of the `most` worst connections.
/// Answers what was left out, a sentence each.
///
/// # Errors
/// `out` cannot be written to.
pub fn page(
    trace: &Trace,
    cut: &Cut,
    most: usize,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let digest = Digest::of(trace, cut);
    let roster = Roster::new(digest.clone(), most);
    let drawing = Drawing::of(trace, cut, &roster, digest.lanes.clone());
    let left_out = left_out(&drawing, &roster);
    let title = format!("{} – proactor trace", digest.source.model);
    let health = Health::new(digest.clone());
    let findings = Doctor::new(&digest).findings;
    let text = format!("{}\n\n{health}\n\n{roster}", Summary::new(digest));
    let data = json!({
        "health": health,
        "findings": findings,
        "roster": roster,
        "left_out": left_out,
        "drawing": drawing.pack(&roster),
    });
    let fill = |name: &str, out: &mut dyn Write| match name {
        "title" => out.write_all(escape(&title).as_bytes()),
        "style" => out.write_all(STYLE.as_bytes()),
        "threads" => out.write_all(THREADS.as_bytes()),
        "script" => out.write_all(SCRIPT.as_bytes()),
        "text" => out.write_all(escape(&text).as_bytes()),
        // Within a script nothing but `<` can end it.
        "data" => out.write_all(data.to_string().replace('<', "\\u003c").as_bytes()),
        _ => unreachable!("the page has no other blank"),
    };
    // A blank is {{name}}.
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("a blank of the page is closed");
        out.write_all(before.as_bytes())?;
        fill(name, out)?;
        rest = after;
    }
    out.write_all(rest.as_bytes())?;
    Ok(left_out)
}

fn left_out(drawing: &Drawing, roster: &Roster) -> Vec<String> {
    let mut all = Vec::new();
    if roster.left_out > 0 {
        let drawn = roster.connections.len() as u64;
        all.push(format!(
            "{} {} no lane: the {drawn} worst {}, those that went wrong and those that were answered \
             slowest",
            units::plural(roster.left_out, "connection"),
            units::agree(roster.left_out, "has", "have"),
            units::agree(drawn, "has", "have")
        ));
    }
    if let Some(swim) = &drawing.swim {
        all.extend(swim.left_out());
    }
    if drawing.turns_left_out > 0 {
        all.push(format!(
            "of {} turns the last {} are drawn",
            units::count(drawing.turns_left_out + drawing.turns.len() as u64),
            units::count(drawing.turns.len() as u64)
        ));
    }
    if drawing.marks_left_out > 0 {
        all.push(format!(
            "of {} marks on the lanes the last {} are drawn",
            units::count(drawing.marks_left_out + drawing.marks.len() as u64),
            units::count(drawing.marks.len() as u64)
        ));
    }
    all
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A turn: an enter or a wait, and the handling after it.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    number: u32,
    at: u64,
    inside: u64,
    outside: u64,
    taken: u32,
    brought: u32,
    in_flight: u32,
    abnormal: bool,
}

/// Something on a connection's lane.
#[derive(Debug, Clone, Copy)]
struct Mark {
    conn: ConnId,
    name: u32,
    at: u64,
    lasted: u64,
    res: i64,
    bits: u64,
}

/// Bits of a [`Mark`].
pub(super) const ABNORMAL: u64 = 1;
const SPAN: u64 = 2;
const OUT: u64 = 4;
pub(super) const UNENDED: u64 = 8;
pub(super) const RESULT: u64 = 16;
const MANY: u64 = 32;
const QUIET: u64 = 64;

/// A part of the overview.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    inside: u64,
    outside: u64,
    messages: u64,
    abnormal: u64,
}

/// What is drawn.
#[derive(Debug)]
struct Drawing {
    from: u64,
    until: u64,
    step: u64,
    parts: Vec<Part>,
    turns: VecDeque<Turn>,
    turns_left_out: u64,
    marks: VecDeque<Mark>,
    marks_left_out: u64,
    names: Names,
    open: HashMap<Place, Mark>,
    swim: Option<Swim>,
    turn: Option<Turn>,
    back: bool,
}

impl Drawing {
    fn of(trace: &Trace, cut: &Cut, roster: &Roster, lanes: Option<Lanes>) -> Drawing {
        let Source { from_ns: from, span_ns: span, .. } = roster.source;
        let mut drawing = Drawing {
            from,
            until: from + span,
            step: span / PARTS as u64 + 1,
            parts: vec![Part::default(); PARTS],
            turns: VecDeque::new(),
            turns_left_out: 0,
            marks: VecDeque::new(),
            marks_left_out: 0,
            names: Names::default(),
            open: HashMap::new(),
            swim: lanes.map(Swim::new),
            turn: None,
            back: false,
        };
        let threads = drawing.swim.as_ref().map(Swim::threads);
        let mut scene = Scene::new(ids(&roster.connections), false, threads);
        for event in events(trace) {
            if cut.is_in_time(event.at) {
                drawing.loop_event(&event);
            }
            scene.draw(&event, cut, |stroke| drawing.stroke(&stroke));
        }
        scene.finish(|stroke| drawing.stroke(&stroke));
        drawing.turn_ends(drawing.until);
        drawing
    }

    /// The loop's part: turns, unless there are many who have some, and the overview.
    fn loop_event(&mut self, event: &Event) {
        match &event.what {
            _ if self.swim.is_some() => {}
            Payload::EnterBegin { .. } | Payload::WaitBegin { .. } => {
                self.turn_ends(event.at);
                self.turn = Some(Turn { number: event.iteration, at: event.at, ..Turn::default() });
            }
            Payload::EnterEnd { result, .. } => {
                let turn = self.back(event);
                turn.taken = result.unwrap_or(0);
                turn.brought = event.completions;
                turn.in_flight = u32::try_from(event.in_flight.total).unwrap_or(u32::MAX);
            }
            Payload::WaitEnd { result, .. } => {
                self.back(event).brought = result.unwrap_or(0);
            }
            Payload::Lost(_) => (self.turn, self.back) = (None, false),
            _ => {}
        }
        let abnormal = event.is_abnormal();
        if let Some(turn) = &mut self.turn {
            turn.abnormal |= abnormal;
        }
        let part = self.part(event.at);
        part.abnormal += u64::from(abnormal);
        part.messages += u64::from(event.is_message());
    }

    fn back(&mut self, event: &Event) -> &mut Turn {
        let lasted = event.lasted.unwrap_or(0);
        let begun = Turn { number: event.iteration, at: event.at - lasted, ..Turn::default() };
        self.back = true;
        let turn = self.turn.get_or_insert(begun);
        turn.inside = event.at.saturating_sub(turn.at);
        turn
    }

    fn turn_ends(&mut self, at: u64) {
        let back = std::mem::take(&mut self.back);
        let Some(mut turn) = self.turn.take() else { return };
        if back {
            turn.outside = at.saturating_sub(turn.at + turn.inside);
        } else {
            turn.inside = at.saturating_sub(turn.at);
        }
        self.spread(turn.at, turn.inside, |part| &mut part.inside);
        self.spread(turn.at + turn.inside, turn.outside, |part| &mut part.outside);
        self.turns.push_back(turn);
        if self.turns.len() > TURNS {
            self.turns.pop_front();
            self.turns_left_out += 1;
        }
    }

    /// Adds a span of time to the parts that it lies in.
    fn spread(&mut self, at: u64, lasted: u64, field: impl Fn(&mut Part) -> &mut u64) {
        // Times of a damaged file go anywhere.
        let (mut at, until) = (at.max(self.from), at.saturating_add(lasted).min(self.until));
        while at < until {
            let next = ((at - self.from) / self.step + 1).saturating_mul(self.step);
            let next = self.from.saturating_add(next);
            *field(self.part(at)) += until.min(next) - at;
            at = next;
        }
    }

    fn part(&mut self, at: u64) -> &mut Part {
        let index = (at.saturating_sub(self.from) / self.step) as usize;
        &mut self.parts[index.min(PARTS - 1)]
    }

    /// A connection's part.
    fn stroke(&mut self, stroke: &Stroke<'_>) {
        let at = stroke.at;
        if let Some(swim) = &mut self.swim {
            swim.stroke(stroke, &mut self.names);
        }
        match &stroke.what {
            Draw::Begin { place, event, .. } => {
                if let Some(mark) = self.mark(*place, event, at) {
                    self.open.insert(*place, mark);
                }
            }
            Draw::End { place, event } => {
                let Some(begun) = self.open.remove(place) else { return };
                let ended = event.and_then(|event| self.mark(*place, event, at));
                let many = event.is_some_and(|event| event.is_multishot());
                self.keep(Mark {
                    lasted: at.saturating_sub(begun.at),
                    at: begun.at,
                    bits: begun.bits | SPAN | if many { MANY } else { 0 },
                    ..ended.unwrap_or(Mark { bits: begun.bits | UNENDED, ..begun })
                });
                if let Some(ended) = ended
                    && let Some(last) = self.marks.back_mut()
                {
                    last.bits |= ended.bits;
                }
            }
            Draw::Instant { place, event, .. } => {
                if let Some(mark) = self.mark(*place, event, at) {
                    self.keep(mark);
                }
            }
            Draw::Count { .. } => {}
        }
    }

    fn mark(&mut self, place: Place, event: &Event, at: u64) -> Option<Mark> {
        let (conn, out) = match place {
            Place::In(conn) => (conn, 0),
            Place::Out(conn) => (conn, OUT),
            Place::Loop | Place::Lane(_) | Place::Listener(_) => return None,
        };
        let (res, told) = match event.result() {
            Some(Ok(n)) => (i64::from(n), RESULT),
            Some(Err(errno)) => (-i64::from(errno.0), RESULT),
            None => (0, 0),
        };
        let mut bits = out | told;
        bits |= if event.is_abnormal() { ABNORMAL } else { 0 };
        bits |= if matches!(event.what, Payload::Implied { .. }) { QUIET } else { 0 };
        let name = self.names.number(&match event.what {
            Payload::Submitted { .. } => format!("{} submitted", label(event)),
            Payload::CallBegin { .. } => format!("{} called", label(event)),
            _ => label(event),
        });
        Some(Mark { conn, name, at, lasted: 0, res, bits })
    }

    fn keep(&mut self, mark: Mark) {
        self.marks.push_back(mark);
        if self.marks.len() > MARKS {
            self.marks.pop_front();
            self.marks_left_out += 1;
        }
    }

    /// As the script reads it. Times are nanoseconds since recording began; those of a column's
    /// begins are differences.
    fn pack(&self, roster: &Roster) -> Value {
        let part = |of: fn(&Part) -> u64| column(self.parts.iter().map(of), Column::push);
        let turn = |of: fn(&Turn) -> u64| column(self.turns.iter().map(of), Column::push);
        let mut of_conn: HashMap<ConnId, Vec<&Mark>> = HashMap::new();
        self.marks.iter().for_each(|mark| of_conn.entry(mark.conn).or_default().push(mark));
        let lane = |life: &Life| {
            let mut marks = of_conn.remove(&life.conn).unwrap_or_default();
            marks.sort_by_key(|mark| mark.at);
            let of = |of: fn(&Mark) -> u64| column(marks.iter().map(|mark| of(mark)), Column::push);
            json!({
                "conn": format!("c{}", life.conn),
                "at": column(marks.iter().map(|mark| mark.at), Column::push_after),
                "lasted": of(|mark| mark.lasted),
                "name": of(|mark| mark.name.into()),
                "bits": of(|mark| mark.bits),
                "res": column(marks.iter().map(|mark| mark.res), Column::push_signed),
            })
        };
        let lanes: Vec<Value> = roster.connections.iter().map(lane).collect();
        json!({
            "from": self.from,
            "step": self.step,
            "parts": {
                "inside": part(|part| part.inside),
                "outside": part(|part| part.outside),
                "messages": part(|part| part.messages),
                "abnormal": part(|part| part.abnormal),
            },
            "turns": {
                "number": column(self.turns.iter().map(|turn| turn.number.into()), Column::push_after),
                "at": column(self.turns.iter().map(|turn| turn.at), Column::push_after),
                "inside": turn(|turn| turn.inside),
                "outside": turn(|turn| turn.outside),
                "taken": turn(|turn| turn.taken.into()),
                "brought": turn(|turn| turn.brought.into()),
                "in_flight": turn(|turn| turn.in_flight.into()),
                "abnormal": turn(|turn| turn.abnormal.into()),
            },
            "names": self.names.all(),
            "threads": self.swim.as_ref().map(Swim::pack),
            "lanes": lanes,
        })
    }
}
