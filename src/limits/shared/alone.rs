//! A gateway that decides alone, because the server is unreachable.
//!
//! Hazard: the server fails, and each of N gateways continues with the whole limit, N times too much; or all of them
//! stop. Rule: each takes its share. What was left when the server was lost is divided by the number of gateways alive
//! then; a window is divided only after everything that others may have planned in it has passed. Where this gateway saw
//! nothing of a window, that takes two of them, and no request is held for so long: it is rejected until then.

use std::collections::VecDeque;

use super::standing::Standing;
use super::tickets::{CountedBy, Ticket};
use crate::limits::together::{Kind, Limit, Settlement};

/// Why a gateway that decides alone does not admit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    Go {
        at: u64,
    },
    /// The limit of this index: there is a free slot after `wait` milliseconds.
    Wait {
        limit: usize,
        wait: u64,
    },
    /// This gateway's share of what was left is used up.
    Over,
}

impl Standing {
    /// Decides alone, and counts what is admitted. `held` gets what is reserved for each limit.
    pub(super) fn decide(&mut self, id: &str, limits: &[Limit], now: u64, longest: u64, held: &mut Vec<u64>) -> Alone {
        let (_, alive) = self.lost.unwrap_or((now, 1));
        let reserved = match self.reserve(limits, now, alive) {
            Ok(reserved) => reserved,
            Err(why) => return why,
        };
        let (at, binding) = self.slot(limits, now, alive);
        if at - now > longest {
            return Alone::Wait { limit: binding, wait: at - now };
        }
        for (limit, reserved) in limits.iter().zip(&reserved) {
            self.counter(limit, now).admit_alone(id, at, *reserved);
        }
        *held = reserved;
        Alone::Go { at }
    }

    /// How much of each limit's rest is this request's.
    ///
    /// Errors: nothing is left of one of them.
    fn reserve(&mut self, limits: &[Limit], now: u64, alive: u64) -> Result<Vec<u64>, Alone> {
        let mut reserved = Vec::with_capacity(limits.len());
        for (index, limit) in limits.iter().enumerate() {
            let counter = self.counter(limit, now);
            counter.forget_old(now);
            reserved.push(match limit.kind {
                Kind::Parallel if counter.running.len() as u64 >= counter.share(alive) => {
                    return Err(Alone::Wait { limit: index, wait: 0 });
                }
                Kind::Window { .. } | Kind::Tokens { .. } if counter.may_be_full(now) => return Err(Alone::Over),
                Kind::Window { .. } | Kind::Tokens { .. } | Kind::Parallel => 0,
                Kind::Day { .. } | Kind::Spend { .. } | Kind::Quota { .. } => {
                    let used = u64::try_from(counter.alone_in_all()).unwrap_or_default();
                    let left = counter.share_of_rest(now, alive).saturating_sub(used);
                    if left == 0 {
                        return Err(Alone::Over);
                    }
                    if let Kind::Spend { add, .. } = limit.kind { add.min(left) } else { 1 }
                }
            });
        }
        Ok(reserved)
    }

    /// The first time at which this gateway's share of every window has room, and the limit that it waits for.
    fn slot(&mut self, limits: &[Limit], now: u64, alive: u64) -> (u64, usize) {
        let (mut at, mut binding) = (now, 0);
        loop {
            let before = at;
            for (index, limit) in limits.iter().enumerate() {
                let earliest = at;
                let counter = self.counter(limit, now);
                match limit.kind {
                    Kind::Window { .. } => at = counter.room(at, 1, alive),
                    Kind::Tokens { add, .. } => at = counter.room(at, add, alive),
                    _ => {}
                }
                if at > earliest {
                    binding = index;
                }
            }
            if at == before {
                return (at, binding);
            }
        }
    }

    /// A request ended: what of it no longer counts here.
    ///
    /// Returns whether the server knows of the request, or is just being told, so that its end has to be reported.
    pub(super) fn end(&mut self, id: &str, ticket: &Ticket, how: Settlement) -> bool {
        let is_told = !matches!(ticket.by, CountedBy::Gateway(reports) if reports >= self.reports);
        for (limit, held) in ticket.held() {
            let Some(counter) = self.counters.get_mut(&limit.name) else { continue };
            counter.running.remove(id);
            let is_undone = how.undoes(limit);
            let entry = (ticket.at, if let Kind::Tokens { add, .. } = limit.kind { add } else { 1 });
            if is_undone {
                remove(&mut counter.own, entry);
            }
            let more = match limit.kind {
                Kind::Spend { unit, .. } => how.more(unit, held),
                Kind::Day { .. } | Kind::Quota { .. } if is_undone => -1,
                _ => 0,
            };
            match ticket.by {
                CountedBy::Gateway(_) if !is_told => {
                    counter.unreported.sum += more;
                    if is_undone {
                        remove(&mut counter.unreported.times, entry);
                    }
                }
                CountedBy::Gateway(_) if self.lost.is_some() => {
                    counter.ended.sum += more;
                    if is_undone {
                        counter.ended.times.push_back(entry);
                    }
                }
                _ => {}
            }
        }
        is_told
    }
}

fn remove(times: &mut VecDeque<(u64, u64)>, entry: (u64, u64)) {
    if let Some(index) = times.iter().rposition(|known| *known == entry) {
        times.remove(index);
    }
}

#[cfg(test)]
mod tests {
    use super::super::admission_reply::{Admitted, Count};
    use super::super::counter::IDLE;
    use super::super::names::Names;
    use super::*;
    use crate::limits::together::{UNLIMITED, Unit};

    fn window(limit: u64) -> Limit {
        Limit { kind: Kind::Window { window: 1000 }, most: limit, name: "w".into(), quota: None }
    }

    fn go(standing: &mut Standing, limits: &[Limit], now: u64) -> Alone {
        standing.decide("id", limits, now, 100_000, &mut Vec::new())
    }

    /// A request that was admitted alone at 20.
    fn alone(limit: &Limit, held: u64) -> Ticket {
        Ticket { limits: vec![limit.clone()], at: 20, held: vec![held], by: CountedBy::Gateway(0) }
    }

    /// Admitted at `at`; then so much is left.
    fn told(at: u64, left: u64, last: u64) -> Admitted {
        Admitted { at, counts: vec![Count { left, last, ..Count::default() }] }
    }

    #[test]
    fn at_a_loss_a_gateway_has_its_share_of_what_was_left_and_then_of_each_window() {
        let limits = [window(20)];
        let mut standing = Standing::default();
        // Eight of twenty are used, one of them by this gateway.
        standing.admitted("a", &limits, 5000, &told(5000, 12, 5000));
        standing.lose(5100, 4);
        let at: Vec<Alone> = (0..9).map(|_| go(&mut standing, &limits, 5100)).collect();
        assert_eq!(at[..3], [Alone::Go { at: 5100 }; 3]);
        assert_eq!(at[3..8], [Alone::Go { at: 6100 }; 5].map(|_| Alone::Go { at: 6100 }));
        assert_eq!(at[8], Alone::Go { at: 7100 });
    }

    #[test]
    fn where_others_wait_a_gateway_alone_begins_after_them() {
        let limits = [window(20)];
        let mut standing = Standing::default();
        standing.admitted("a", &limits, 5000, &told(9000, 0, 9000));
        standing.lose(5100, 4);
        assert_eq!(go(&mut standing, &limits, 5100), Alone::Go { at: 11_000 });
    }

    #[test]
    fn of_what_was_left_of_a_day_each_gateway_has_a_part_and_no_more() {
        let limit = Limit { kind: Kind::Day { begins: 0, ends: 1_000_000 }, most: 100, name: "d".into(), quota: None };
        let mut standing = Standing::default();
        standing.admitted("a", std::slice::from_ref(&limit), 10, &told(10, 10, 0));
        standing.lose(20, 4);
        let decisions: Vec<Alone> = (0..3).map(|_| go(&mut standing, std::slice::from_ref(&limit), 20)).collect();
        assert_eq!(decisions, [Alone::Go { at: 20 }, Alone::Go { at: 20 }, Alone::Over]);
        standing.end("id", &alone(&limit, 1), Settlement::GivenBack);
        assert_eq!(go(&mut standing, &[limit], 20), Alone::Go { at: 20 });
    }

    /// Other gateways may have used all of it.
    #[test]
    fn of_a_day_that_was_never_asked_about_nothing_is_left_unless_it_begins_after_the_loss() {
        let day = |begins: u64| Limit {
            kind: Kind::Day { begins, ends: begins + 1_000_000 },
            most: 100,
            name: format!("d{begins}").into(),
            quota: None,
        };
        let mut standing = Standing::default();
        standing.lose(20, 4);
        assert_eq!(go(&mut standing, &[day(0)], 30), Alone::Over);
        assert_eq!(go(&mut standing, &[day(1_000_000)], 1_000_010), Alone::Go { at: 1_000_010 });
        // What only counts stops nobody.
        let counted = Limit { most: UNLIMITED, ..day(0) };
        assert_eq!(go(&mut standing, &[Limit { name: "c".into(), ..counted }], 30), Alone::Go { at: 30 });
        // Nor is what was not asked about for so long that nobody told of it any more.
        let mut standing = Standing::default();
        standing.admitted("a", &[day(0)], 10, &told(10, 90, 0));
        standing.lose(20 + IDLE, 4);
        assert_eq!(go(&mut standing, &[day(0)], 30 + IDLE), Alone::Over);
        standing.found();
        standing.admitted("b", &[day(0)], 40 + IDLE, &told(40 + IDLE, 80, 0));
        standing.lose(50 + IDLE, 4);
        assert_eq!(go(&mut standing, &[day(0)], 60 + IDLE), Alone::Go { at: 60 + IDLE });
    }

    #[test]
    fn a_reservation_is_cut_to_the_share_of_what_is_left() {
        let kind = Kind::Spend { unit: Unit::Tokens, add: 50, begins: 0, ends: 1_000_000 };
        let limit = Limit { kind, most: 100, name: "s".into(), quota: None };
        let mut standing = Standing::default();
        standing.admitted("a", std::slice::from_ref(&limit), 10, &told(10, 60, 0));
        standing.lose(20, 2);
        let mut held = Vec::new();
        assert_eq!(standing.decide("b", std::slice::from_ref(&limit), 20, 0, &mut held), Alone::Go { at: 20 });
        assert_eq!(held, [30]);
        standing.end("b", &alone(&limit, 30), Settlement::Used { tokens: 10, cost: 0 });
        standing.decide("c", std::slice::from_ref(&limit), 20, 0, &mut held);
        assert_eq!(held, [20]);
    }

    #[test]
    fn a_share_is_at_least_one() {
        let limits = [window(2)];
        let mut standing = Standing::default();
        standing.lose(0, 16);
        assert_eq!(go(&mut standing, &limits, 2000), Alone::Go { at: 2000 });
        assert_eq!(go(&mut standing, &limits, 2000), Alone::Go { at: 3000 });
    }

    #[test]
    fn no_request_is_held_for_what_others_may_have_used_before_this_gateway_asked() {
        let tokens = Limit { kind: Kind::Tokens { window: 1000, add: 1 }, most: 20, name: "t".into(), quota: None };
        for limit in [window(20), tokens] {
            let mut standing = Standing::default();
            standing.lose(10, 2);
            let decided = [10, 2009, 2010].map(|now| go(&mut standing, std::slice::from_ref(&limit), now));
            assert_eq!(decided, [Alone::Over, Alone::Over, Alone::Go { at: 2010 }]);
            // What it asks about after the server was back is known.
            standing.found();
            standing.lose(3000, 2);
            assert_eq!(go(&mut standing, std::slice::from_ref(&limit), 3010), Alone::Go { at: 3010 });
        }
    }

    #[test]
    fn a_wait_may_be_as_long_as_allowed_and_names_the_limit_that_it_is_for() {
        let limits = [window(20), Limit { name: "v".into(), ..window(1) }];
        let mut standing = Standing::default();
        let mut decide = |longest| standing.decide("id", &limits, 5000, longest, &mut Vec::new());
        assert_eq!(decide(0), Alone::Go { at: 5000 });
        assert_eq!(decide(999), Alone::Wait { limit: 1, wait: 1000 });
        assert_eq!(decide(1000), Alone::Go { at: 6000 });
        let [roomy, narrow] = limits;
        let decided = standing.decide("id", &[narrow, roomy], 5000, 999, &mut Vec::new());
        assert_eq!(decided, Alone::Wait { limit: 0, wait: 2000 });
    }

    #[test]
    fn alone_tokens_of_a_window_are_waited_for() {
        let kind = Kind::Tokens { window: 1000, add: 60 };
        let limits = [Limit { kind, most: 100, name: "t".into(), quota: None }];
        let mut standing = Standing::default();
        assert_eq!(
            [(); 2].map(|()| go(&mut standing, &limits, 5000)),
            [Alone::Go { at: 5000 }, Alone::Go { at: 6000 }]
        );
    }

    #[test]
    fn alone_a_gateway_has_its_share_in_flight() {
        let limits = [Limit { kind: Kind::Parallel, most: 4, name: "p".into(), quota: None }];
        let mut standing = Standing::default();
        standing.lose(0, 2);
        for (id, decided) in
            [("a", Alone::Go { at: 7 }), ("b", Alone::Go { at: 7 }), ("c", Alone::Wait { limit: 0, wait: 0 })]
        {
            assert_eq!(standing.decide(id, &limits, 7, 0, &mut Vec::new()), decided, "{id}");
        }
        standing.end("a", &alone(&limits[0], 0), Settlement::AsEstimated);
        assert_eq!(standing.decide("d", &limits, 7, 0, &mut Vec::new()), Alone::Go { at: 7 });
    }

    #[test]
    fn what_is_given_back_is_taken_from_what_it_was_counted_in() {
        let kinds = [
            Kind::Window { window: 1000 },
            Kind::Tokens { window: 1000, add: 5 },
            Kind::Quota { window: 12_800 },
            Kind::Day { begins: 0, ends: 9000 },
            Kind::Parallel,
        ];
        let limits = kinds.map(|kind| Limit { kind, most: 50, name: format!("{kind:?}").into(), quota: None });
        let [window, _, quota, ..] = &limits;
        let counted = |standing: &Standing| {
            let of = |limit: &Limit| {
                let counter = &standing.counters[&limit.name];
                let parts = [&counter.unreported, &counter.reporting];
                (counter.own.len(), parts.map(|part| (part.times.len(), part.sum)), counter.ended.sum)
            };
            limits.iter().map(of).collect::<Vec<_>>()
        };
        let ticket = |at, by| Ticket { limits: limits.to_vec(), at, held: Vec::new(), by };
        let all = [(3, 0), (3, 0), (3, 3), (0, 3), (0, 0)];
        let fewer = [(2, 0), (2, 0), (2, 2), (0, 2), (0, 0)];
        let none = [(0, 0); 5];
        for (by, is_told, is_lost, ended) in [
            // It was not told of, is being told of, or was told of before the server was found again.
            (CountedBy::Gateway(0), false, true, 0),
            (CountedBy::Gateway(0), true, true, -1),
            (CountedBy::Gateway(0), true, false, 0),
            (CountedBy::Server("epoch".into()), true, true, 0),
        ] {
            let mut standing = Standing::default();
            for (id, now) in [("a", 10), ("b", 20), ("c", 20)] {
                assert_eq!(standing.decide(id, &limits, now, 0, &mut Vec::new()), Alone::Go { at: now });
            }
            if is_told {
                standing.take_unreported(&Names::new("team"), &mut Vec::new(), 20, 900);
            }
            if is_lost {
                standing.lose(20, 1);
            }
            let is = |own: [usize; 5], [alone, sent]: [[(usize, i64); 5]; 2], ended: [i64; 5]| {
                (0..5).map(|index| (own[index], [alone[index], sent[index]], ended[index])).collect::<Vec<_>>()
            };
            let parts = if is_told { [none, all] } else { [all, none] };
            assert_eq!(counted(&standing), is([3, 3, 0, 0, 0], parts, [0; 5]));
            let ticket_of = ticket(20, by);
            assert_eq!(standing.end("b", &ticket_of, Settlement::GivenBack), is_told);
            let parts = if is_told { [none, all] } else { [fewer, none] };
            let expected = is([2, 2, 0, 0, 0], parts, [0, 0, ended, ended, 0]);
            assert_eq!(counted(&standing), expected);
            let slices: &[(u64, u64)] = if ended == 0 { &[] } else { &[(20, 1)] };
            assert_eq!(standing.counters[&quota.name].ended.times, slices);
            // One of another time is none of them.
            let other = Ticket { limits: limits[..2].to_vec(), ..ticket(30, ticket_of.by) };
            standing.end("d", &other, Settlement::GivenBack);
            assert_eq!(counted(&standing), expected);
            assert_eq!(standing.counters[&window.name].own, [(10, 1), (20, 1)]);
        }
    }
}
