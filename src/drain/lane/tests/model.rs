//! Any sequence of facts against a model that is too simple to be wrong.

use proptest::prelude::*;

use super::*;

const LANES: [&str; 3] = ["main", "cron", "session:ada"];

#[derive(Clone, Debug)]
enum Op {
    Enqueue { lane: usize, priority: usize, timeout: Option<u64> },
    Progress(usize),
    Finish(usize),
    Cancel(usize),
    Clear(usize),
    Concurrency(usize, usize),
    Advance(u64),
    Reset,
    Cut,
    CutActive,
    Resume,
}

fn op() -> impl Strategy<Value = Op> {
    let timeout = prop_oneof![3 => Just(None), 1 => (0..50_u64).prop_map(Some)];
    prop_oneof![
        8 => (0..3_usize, 0..3_usize, timeout)
            .prop_map(|(lane, priority, timeout)| Op::Enqueue { lane, priority, timeout }),
        2 => (0..8_usize).prop_map(Op::Progress),
        6 => (0..8_usize).prop_map(Op::Finish),
        2 => (0..8_usize).prop_map(Op::Cancel),
        1 => (0..3_usize).prop_map(Op::Clear),
        2 => (0..3_usize, 0..4_usize).prop_map(|(lane, slots)| Op::Concurrency(lane, slots)),
        3 => (0..3000_u64).prop_map(Op::Advance),
        1 => Just(Op::Reset),
        1 => Just(Op::Cut),
        1 => Just(Op::CutActive),
        1 => Just(Op::Resume),
    ]
}

/// A command as the model sees it.
#[derive(Clone, Debug)]
struct Known {
    id: CommandId,
    item: usize,
    lane: usize,
    priority: usize,
    timeout: Option<Duration>,
    accepted: Instant,
    iteration: u32,
    is_told: bool,
    progress: Instant,
    aborted: Option<Instant>,
}

struct World {
    slots: Slots<usize>,
    now: Instant,
    queued: Vec<Known>,
    active: Vec<Known>,
    limits: [usize; 3],
    iteration: u32,
    is_held: bool,
    /// How often each command has left; must become one for each.
    left: Vec<usize>,
}

const GRACE: Duration = ms(20);

impl World {
    fn new() -> Self {
        let slots = Slots::new(LanePolicy::default());
        Self {
            slots,
            now: Instant::now(),
            queued: Vec::new(),
            active: Vec::new(),
            limits: [1; 3],
            iteration: 1,
            is_held: false,
            left: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Enqueue { lane, priority, timeout } => self.enqueue(lane, priority, timeout),
            Op::Progress(nth) => {
                if let Some(known) = self.active.get_mut(nth) {
                    known.progress = self.now;
                    self.slots.progressed(self.now, known.id);
                }
            }
            Op::Finish(nth) if nth < self.active.len() => {
                let known = self.active.remove(nth);
                assert_eq!(self.slots.finished(self.now, known.id), Some(known.item));
                self.left[known.item] += 1;
                assert_eq!(self.slots.finished(self.now, known.id), None);
            }
            Op::Cancel(nth) if nth < self.queued.len() => {
                let known = self.queued.remove(nth);
                assert_eq!(self.slots.cancel(known.id), Some(known.item));
                self.left[known.item] += 1;
            }
            Op::Finish(_) | Op::Cancel(_) => {}
            Op::Clear(lane) => {
                let cleared = self.slots.clear(&Lane::from(LANES[lane]));
                let (meant, others) = self.queued.drain(..).partition(|known| known.lane == lane);
                self.queued = others;
                self.gone(cleared, meant);
            }
            Op::Concurrency(lane, slots) => {
                self.limits[lane] = slots;
                self.slots.set_concurrency(self.now, &Lane::from(LANES[lane]), slots);
            }
            Op::Advance(by) => return self.advance(self.now + ms(by)),
            Op::CutActive => {
                self.is_held = true;
                let cut = self.slots.cut_active();
                let meant = mem::take(&mut self.active);
                self.gone(cut, meant);
            }
            Op::Resume => {
                self.is_held = false;
                self.slots.resume(self.now);
            }
            Op::Reset => {
                self.is_held = false;
                self.iteration += 1;
                let released = self.slots.reset(self.now);
                let meant = mem::take(&mut self.active);
                self.gone(released, meant);
                assert_eq!(self.slots.iteration(), self.iteration);
            }
            Op::Cut => {
                let (active, queued) = self.slots.cut_all();
                let meant = mem::take(&mut self.active);
                self.gone(active, meant);
                let meant = mem::take(&mut self.queued);
                self.gone(queued, meant);
            }
        }
        self.take_actions();
    }

    fn enqueue(&mut self, lane: usize, priority: usize, timeout: Option<u64>) {
        let item = self.left.len();
        self.left.push(0);
        let order = [Priority::Foreground, Priority::Normal, Priority::Background];
        let timeout = timeout.map(ms);
        let terms = Terms {
            lane: Lane::from(LANES[lane]),
            priority: order[priority],
            timeout,
            grace: GRACE,
        };
        let id = self.slots.enqueue(self.now, terms, item);
        self.queued.push(Known {
            id,
            item,
            lane,
            priority,
            timeout,
            accepted: self.now,
            iteration: self.iteration,
            is_told: false,
            progress: self.now,
            aborted: None,
        });
    }

    /// These left, in this order of acceptance.
    fn gone(&mut self, items: Vec<usize>, mut meant: Vec<Known>) {
        meant.sort_by_key(|known| known.id);
        assert_eq!(items, meant.iter().map(|known| known.item).collect::<Vec<_>>());
        items.into_iter().for_each(|item| self.left[item] += 1);
    }

    fn advance(&mut self, target: Instant) {
        while let Some(due) = self.slots.poll_timeout().filter(|due| *due <= target) {
            self.now = self.now.max(due);
            self.slots.handle_timeout(self.now);
            self.take_actions();
            assert!(self.slots.poll_timeout().is_none_or(|next| next > self.now), "it would spin");
        }
        self.now = target;
    }

    fn take_actions(&mut self) {
        while let Some(action) = self.slots.poll_action() {
            match action {
                Action::Run { id, is_kept } => self.runs(id, is_kept),
                Action::Abort(id) => {
                    let now = self.now;
                    let known = self.active.iter_mut().find(|known| known.id == id).unwrap();
                    assert_eq!(known.aborted.replace(now), None);
                    assert_eq!(known.progress + known.timeout.unwrap(), now);
                }
                Action::Release { id, item } => {
                    let index = self.active.iter().position(|known| known.id == id).unwrap();
                    let known = self.active.remove(index);
                    assert_eq!(known.item, item);
                    assert_eq!(known.aborted.unwrap() + GRACE, self.now);
                    self.left[item] += 1;
                }
                Action::Waited { id, waited, .. } => {
                    let now = self.now;
                    let known = self.queued.iter_mut().find(|known| known.id == id).unwrap();
                    assert!(!mem::replace(&mut known.is_told, true), "told twice");
                    assert_eq!((now - known.accepted, waited), (ms(2000), ms(2000)));
                }
            }
        }
        self.check();
    }

    fn runs(&mut self, id: CommandId, is_kept: bool) {
        let index = self.queued.iter().position(|known| known.id == id).unwrap();
        let mut known = self.queued.remove(index);
        let before = |other: &Known| {
            other.lane == known.lane && (other.priority, other.id) < (known.priority, known.id)
        };
        assert!(!self.queued.iter().any(before), "out of order");
        assert_eq!(is_kept, known.iteration != self.iteration);
        known.progress = self.now;
        let lane = known.lane;
        self.active.push(known);
        let active = self.active.iter().filter(|known| known.lane == lane).count();
        assert!(active <= self.limits[lane], "more at once than the lane has slots");
        assert!(!self.is_held, "nothing begins while all is held");
    }

    fn check(&self) {
        assert_eq!(self.slots.active_count(), self.active.len());
        assert_eq!(self.slots.queued_count(), self.queued.len());
        for (lane, limit) in self.limits.iter().enumerate() {
            let active = self.active.iter().filter(|known| known.lane == lane).count();
            let queued = self.queued.iter().filter(|known| known.lane == lane).count();
            let figures = self.slots.figures(&Lane::from(LANES[lane]));
            let told = (figures.concurrency, figures.active, figures.queued);
            assert_eq!(told, (*limit, active, queued));
            let is_idle = !self.is_held && active < *limit;
            assert!(queued == 0 || !is_idle, "a free slot and somebody who waits for it");
        }
        for known in &self.active {
            let is_aborted = known.aborted.is_some();
            let due = known.timeout.map(|timeout| known.progress + timeout);
            assert!(is_aborted || due.is_none_or(|due| due >= self.now), "overdue");
        }
    }
}

proptest! {
    #[test]
    fn commands_keep_their_order_and_limits_and_leave_exactly_once(
        ops in proptest::collection::vec(op(), 0..100),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        world.apply(&Op::Cut);
        prop_assert!(world.left.iter().all(|left| *left == 1), "{:?}", world.left);
    }
}
