//! Breadth-first through all that is reachable, and backwards through what was found.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::BuildHasherDefault,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    key::{Key, QuickHasher},
    laws::{Breach, Law},
    moves::{Choices, Company, Move},
    policies::{Bounds, Case},
    policy::Policy,
    stopping::MAX_PATIENCE,
    world::Node,
};

/// What was explored.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    states: usize,
    transitions: usize,
    /// Deadlines from a stop to the end, at most, if nothing answers.
    stop_deadlines: u32,
}

/// A law that was broken, and the shortest way there.
#[derive(Debug)]
pub struct Violation {
    breach: Breach,
    way: Vec<String>,
}

/// How a state was reached first.
#[derive(Clone, Debug)]
struct Step {
    from: u32,
    happens: Move,
    company: Company,
    choices: Vec<u8>,
}

/// All that was found of one policy.
struct Search<'a> {
    case: &'a Case,
    bounds: Bounds,
    known: HashMap<Key, u32, BuildHasherDefault<QuickHasher>>,
    waiting: VecDeque<Node>,
    steps: Vec<Step>,
    /// Of each state: the edges that lead away, one after the other; where they begin.
    edges: Vec<Edge>,
    begins: Vec<usize>,
    marks: Vec<Marks>,
    transitions: usize,
}

#[derive(Clone, Copy)]
struct Edge {
    to: u32,
    kind: bool,
}

/// What the backward part must know of a state.
#[derive(Clone, Copy, Default)]
struct Marks {
    answered: bool,
    /// Answered, and nothing goes on.
    rests: bool,
    stopping: bool,
    left: bool,
    /// Where the next deadline leads if nothing answers, and how long that takes.
    silent: Option<(u32, Duration)>,
    /// Where the grim move leads.
    grim: Option<u32>,
}

/// Explores every state that is reachable under a policy.
///
/// # Errors
///
/// The first law that is broken, with the way there.
pub fn explore(case: &Case, bounds: Bounds) -> Result<Found, Violation> {
    let mut search = Search {
        case,
        bounds,
        known: HashMap::default(),
        waiting: VecDeque::new(),
        steps: Vec::new(),
        edges: Vec::new(),
        begins: Vec::new(),
        marks: Vec::new(),
        transitions: 0,
    };
    search.forward()?;
    search.rest_is_reachable()?;
    let stop_deadlines = search.stops_end()?;
    search.the_deaf_are_answered()?;
    Ok(Found { states: search.steps.len(), transitions: search.transitions, stop_deadlines })
}

impl Search<'_> {
    fn forward(&mut self) -> Result<(), Violation> {
        let first = Node::first(self.case);
        let begin =
            Step { from: 0, happens: Move::Withdraw, company: Company::Alone, choices: Vec::new() };
        self.known.insert(first.key(), 0);
        self.steps.push(begin);
        self.waiting.push_back(first);
        while let Some(node) = self.waiting.pop_front() {
            self.expand(&node)?;
        }
        self.begins.push(self.edges.len());
        Ok(())
    }

    /// Makes every move from a state, with every combination of choices.
    fn expand(&mut self, node: &Node) -> Result<(), Violation> {
        let at = self.begins.len() as u32;
        self.begins.push(self.edges.len());
        let mut marks = Marks {
            answered: node.is_answered(),
            rests: node.is_answered() && node.rests(),
            stopping: node.world.stops > 0,
            left: node.world.left.is_some(),
            ..Marks::default()
        };
        let holds = node.look().and_then(|()| node.is_deaf_to_the_stale());
        holds.map_err(|breach| self.violation(at, None, breach))?;
        let grim = node.grim_move();
        for happens in node.moves(self.case, self.bounds) {
            let kind = node.is_kind(happens);
            for company in self.companies(node, happens) {
                let mut choices = Choices::default();
                loop {
                    let mut next = node.clone();
                    let made = catch_unwind(AssertUnwindSafe(|| {
                        next.make(happens, company, &mut choices)
                    }));
                    let made = made.unwrap_or_else(|_| {
                        Err(Law::NoPanic.breach(format!("{:?}", node.machine)))
                    });
                    let step = || Step { from: at, happens, company, choices: choices.taken() };
                    if let Err(breach) = made {
                        return Err(self.violation(at, Some(step()), breach));
                    }
                    let took = next.now - node.now;
                    let to = self.arrive(next, step);
                    self.transitions += 1;
                    self.edges.push(Edge { to, kind: kind && company == Company::Alone });
                    if company == Company::Alone && choices.is_silent() {
                        if happens == Move::Tick {
                            marks.silent = Some((to, took));
                        }
                        if happens == grim {
                            marks.grim = Some(to);
                        }
                    }
                    if !choices.advance() {
                        break;
                    }
                }
            }
        }
        self.marks.push(marks);
        Ok(())
    }

    /// In which companies a move is tried.
    fn companies(&self, node: &Node, happens: Move) -> Vec<Company> {
        let mut companies = vec![Company::Alone];
        if node.world.stops == 0 && happens.may_be_overtaken() {
            companies.push(Company::ThenStop);
        }
        let is_timed = node.machine.poll_timeout().is_some() && happens != Move::Tick;
        if self.bounds.at_deadlines && is_timed {
            companies.push(Company::AtDeadline);
        }
        companies
    }

    /// The number of a state, which is new or known.
    fn arrive(&mut self, node: Node, step: impl FnOnce() -> Step) -> u32 {
        let new = self.steps.len() as u32;
        let number = *self.known.entry(node.key()).or_insert(new);
        if number == new {
            self.steps.push(step());
            self.waiting.push_back(node);
        }
        number
    }

    // --- backward ---

    /// In a kind world, all that was accepted is answered, and the machine comes to rest.
    fn rest_is_reachable(&self) -> Result<(), Violation> {
        let count = self.steps.len();
        let mut sources = vec![Vec::new(); count];
        for at in 0..count {
            for edge in self.edges_of(at).iter().filter(|edge| edge.kind) {
                sources[edge.to as usize].push(at as u32);
            }
        }
        let mut reaches: Vec<_> = self.marks.iter().map(|marks| marks.rests).collect();
        let mut todo: Vec<_> = (0..count as u32).filter(|at| reaches[*at as usize]).collect();
        while let Some(at) = todo.pop() {
            for from in &sources[at as usize] {
                if !std::mem::replace(&mut reaches[*from as usize], true) {
                    todo.push(*from);
                }
            }
        }
        match reaches.iter().position(|reaches| !reaches) {
            None => Ok(()),
            Some(at) => {
                let breach = Law::RestIsReachable.breach("no way leads on to rest".to_owned());
                Err(self.violation(at as u32, None, breach))
            }
        }
    }

    /// From every state after a stop, deadlines alone lead to the end, and in time.
    fn stops_end(&self) -> Result<u32, Violation> {
        let bound = stop_bound(&self.case.policy);
        let mut most = 0;
        for at in 0..self.steps.len() as u32 {
            if !self.marks[at as usize].stopping {
                continue;
            }
            let (mut place, mut deadlines, mut took) = (at, 0, Duration::ZERO);
            while !self.marks[place as usize].left {
                let told = || format!("{deadlines} deadlines, {took:?}, of at most {bound:?}");
                match self.marks[place as usize].silent {
                    Some((to, time)) if took <= bound && deadlines < 1000 => {
                        (place, deadlines, took) = (to, deadlines + 1, took + time);
                    }
                    Some(_) | None => {
                        let breach = Law::StopEndsInSilence.breach(told());
                        return Err(self.violation(at, None, breach));
                    }
                }
            }
            most = most.max(deadlines);
        }
        Ok(most)
    }

    /// From every state, the grim moves alone lead to one in which all requests are answered.
    fn the_deaf_are_answered(&self) -> Result<(), Violation> {
        let mut fine = vec![false; self.steps.len()];
        for at in 0..self.steps.len() as u32 {
            let (mut place, mut way) = (at, Vec::new());
            while !self.marks[place as usize].answered && !fine[place as usize] {
                way.push(place);
                match self.marks[place as usize].grim {
                    Some(to) if way.len() <= 1000 => place = to,
                    Some(_) | None => {
                        let breach = Law::DeafChildIsAnswered
                            .breach(format!("no answer in {} moves", way.len()));
                        return Err(self.violation(at, None, breach));
                    }
                }
            }
            way.into_iter().for_each(|place| fine[place as usize] = true);
        }
        Ok(())
    }

    fn edges_of(&self, at: usize) -> &[Edge] {
        &self.edges[self.begins[at]..self.begins[at + 1]]
    }

    /// Tells a breach with the way there, which is gone once more for it.
    fn violation(&self, at: u32, last: Option<Step>, breach: Breach) -> Violation {
        let (mut steps, mut at) = (last.into_iter().collect::<Vec<_>>(), at);
        while at > 0 {
            let step = &self.steps[at as usize];
            steps.push(step.clone());
            at = step.from;
        }
        let mut node = Node::first(self.case);
        let mut way = Vec::new();
        for step in steps.into_iter().rev() {
            let Step { happens, company, choices, .. } = step;
            let before = node.machine.state();
            way.push(format!("{before:?}: {happens:?} {company:?} {choices:?}"));
            let mut choices = Choices::of(&choices);
            // The last one breaks the law once more, or panics.
            let made = AssertUnwindSafe(|| node.make(happens, company, &mut choices));
            if !matches!(catch_unwind(made), Ok(Ok(()))) {
                break;
            }
        }
        way.push(format!("{:?} {:?}", node.machine.state(), node.world));
        Violation { breach, way }
    }
}

/// What a stop may take at most: hold, grace (or what a child that makes progress is given), ladder, the ladder once more for the leftovers.
fn stop_bound(policy: &Policy) -> Duration {
    let kill = policy.stop.kill_after.max(Duration::from_secs(1));
    let ladder = policy.stop.kill_after + 3 * kill;
    policy.stop.hold + MAX_PATIENCE * policy.stop.grace + 2 * ladder
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} transitions; a stop ends after {} deadlines of silence at most",
            self.states, self.transitions, self.stop_deadlines
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.breach)?;
        for step in &self.way {
            write!(f, "\n    {step}")?;
        }
        Ok(())
    }
}
